"""Result files: the same rows in three formats, failures distinguishable from text, and no formulas in spreadsheets."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from glm4v_core.bulk.rows import Row, RowWriter, escape_formula, export, prepare_folder, read_rows, row_of
from glm4v_core.errors import ConfigError, Failure
from glm4v_core.media.pages import PageInfo
from glm4v_core.tasks.results import DocumentResult, PageFailure, StepInfo
from glm4v_core.types import Timings, Usage

DONE = DocumentResult(
    PageInfo("发票.png", 1, 2, "ab12", "PNG", (40, 30), notes=("flattened on white",)),
    text="=1+1\n第二行",
    fields={"total": "-5", "goods": ["a", "b"], "day": None},
    steps={"ocr": StepInfo("length", Usage(prompt=9, image=4, completion=2), Timings(0.0, 0.1, 0.2))},
    warnings=("ocr:length",),
    model="tiny",
)
FAILED = PageFailure(PageInfo("gone.png"), Failure("image_not_found", "No such file.", "Check the path."))


def write(folder: Path, *rows: Row) -> None:
    with closing(RowWriter(folder)) as writer:
        for row in rows:
            writer.write(row)


def cells(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_of_successes_and_failures_have_the_same_keys() -> None:
    done, failed = row_of(DONE, ("text", "fields")), row_of(FAILED, ("text", "fields"))
    assert list(done) == list(failed)
    assert done["status"] == "ok"
    assert done["error"] is None
    assert done["steps"]["ocr"]["usage"]["image"] == 4
    assert failed["status"] == "failed"
    assert (failed["text"], failed["fields"]) == (None, None)
    assert failed["error"] == {"code": "image_not_found", "message": "No such file.", "hint": "Check the path."}


def test_a_failure_has_the_values_of_the_steps_that_succeeded() -> None:
    failure = Failure("out_of_memory", "Too big.", "Scale it down.")
    row = row_of(PageFailure(DONE.page, failure, DONE), ("text", "summary"))
    assert list(row) == list(row_of(DONE, ("text", "summary")))
    assert (row["status"], row["error"]["code"]) == ("failed", "out_of_memory")
    assert (row["text"], row["summary"]) == ("=1+1\n第二行", None)
    assert (row["warnings"], row["model"], list(row["steps"])) == (["ocr:length"], "tiny", ["ocr"])


def test_file_names_that_are_not_utf8_are_read_back_unchanged(tmp_path: Path) -> None:
    source = os.fsdecode(b"caf\xe9.png")
    write(tmp_path, row_of(PageFailure(PageInfo(source), FAILED.error), ("text",)))
    export(tmp_path)
    assert [row["source"] for row in read_rows(tmp_path)] == [source]
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))[0]["source"] == source
    assert cells(tmp_path)[0]["source"] == "caf\\udce9.png"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").symlink_to("/dev/full")
    writer = RowWriter(tmp_path)
    with pytest.raises(ConfigError, match=r"results\.jsonl cannot be written: No space left"):
        writer.write(row_of(DONE, ("text",)))
    with pytest.raises(ConfigError, match="No space left"):  # the row is still in the buffer
        writer.close()


def test_jsonl_is_complete_after_every_row(tmp_path: Path) -> None:
    with closing(RowWriter(tmp_path)) as writer:
        for count in (1, 2, 3):
            writer.write(row_of(DONE, ("text",)))
            assert len(list(read_rows(tmp_path))) == count
    text = (tmp_path / "results.jsonl").read_text("utf-8")
    assert text.endswith("\n")
    assert "第二行" in text


def test_json_holds_the_same_rows(tmp_path: Path) -> None:
    rows = [row_of(DONE, ("text",)), row_of(FAILED, ("text",))]
    write(tmp_path, *rows)
    export(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == rows == list(read_rows(tmp_path))


def test_csv_opens_in_a_spreadsheet(tmp_path: Path) -> None:
    write(tmp_path, row_of(FAILED, ("text", "fields")), row_of(DONE, ("text", "fields")))
    export(tmp_path)
    assert (tmp_path / "results.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    failed, done = cells(tmp_path)
    assert (failed["error_code"], failed["error_hint"], failed["text"]) == ("image_not_found", "Check the path.", "")
    assert done["source"] == "发票.png"
    assert done["text"] == "'=1+1\n第二行"
    assert (done["fields.total"], done["fields.goods"], done["fields.day"]) == ("'-5", '["a", "b"]', "")
    assert (done["warnings"], done["notes"]) == ("ocr:length", "flattened on white")
    assert (done["page"], done["width"]) == ("1", "40")


def test_field_names_are_escaped_as_well(tmp_path: Path) -> None:
    write(tmp_path, {**row_of(DONE, ("fields",)), "fields": {"x": 1}})
    export(tmp_path)
    assert "fields.x" in cells(tmp_path)[0]


def test_fields_that_are_not_an_object_share_one_cell(tmp_path: Path) -> None:
    write(tmp_path, {**row_of(DONE, ("fields",)), "fields": [1, 2]})
    export(tmp_path)
    assert cells(tmp_path)[0]["fields"] == "[1, 2]"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝"])
def test_formulas_are_escaped(start: str) -> None:
    assert escape_formula(f"{start}cmd()") == f"'{start}cmd()"


@pytest.mark.parametrize("value", ["a=b", "", "'=x", -5, None, True])
def test_other_values_are_unchanged(value: object) -> None:
    assert escape_formula(value) == value


def test_files_without_rows_are_valid(tmp_path: Path) -> None:
    write(tmp_path)
    export(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == []
    assert cells(tmp_path) == []


class TestFolder:
    def test_a_missing_folder_is_created(self, tmp_path: Path) -> None:
        prepare_folder(tmp_path / "a" / "b", overwrite=False)
        assert (tmp_path / "a" / "b").is_dir()

    def test_earlier_results_are_never_overwritten_unasked(self, tmp_path: Path) -> None:
        write(tmp_path, row_of(DONE, ("text",)))
        with pytest.raises(ConfigError, match="already holds results"):
            prepare_folder(tmp_path, overwrite=False)
        prepare_folder(tmp_path, overwrite=True)
        prepare_folder(tmp_path, resume=True)
        with pytest.raises(ConfigError, match="contradict"):
            prepare_folder(tmp_path, overwrite=True, resume=True)
        (tmp_path / "results.jsonl").rename(tmp_path / "results.earlier.jsonl")
        with pytest.raises(ConfigError, match="already holds results"):
            prepare_folder(tmp_path)

    def test_a_folder_that_cannot_be_written_to_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # root may write everywhere
        with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
            prepare_folder(tmp_path)

    def test_a_file_with_the_folders_name_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("x")
        with pytest.raises(ConfigError, match="cannot be made"):
            prepare_folder(tmp_path / "out", overwrite=False)
