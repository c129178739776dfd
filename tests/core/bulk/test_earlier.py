"""Resuming an interrupted run: no page is asked twice, no result is lost, and different runs are never mixed."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from glm4v_core.bulk.earlier import KeptPage, gather, job_pages
from glm4v_core.bulk.rows import row_of
from glm4v_core.cli.plan import RunPlan
from glm4v_core.cli.run import run_pages
from glm4v_core.engines.scripted import ScriptedEngine
from glm4v_core.errors import ConfigError, EngineDeadError, Glm4vError, OutOfMemoryError
from glm4v_core.media.files import FileStamp
from glm4v_core.media.image import Image
from glm4v_core.media.page_options import PageOptions
from glm4v_core.media.pages import PageInfo
from glm4v_core.model import Glm4v
from glm4v_core.tasks.results import DocumentResult
from glm4v_core.types import Request

CAPTION = RunPlan(task="caption")
Says = Callable[[int], str | Exception]


def draw(path: Path, width: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    PIL.Image.new("RGB", (width, 20), "white").save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight pictures, 21 to 28 pixels wide."""
    for width in range(21, 29):
        draw(tmp_path / "photos" / f"{width}.png", width)
    return tmp_path / "photos"


def width_of(request: Request) -> int:
    image = request.messages[0].parts[0]
    assert isinstance(image, Image)
    return image.width


class Runs:
    """Runs of one command into one folder; each records the pages it asked about, by their width."""

    def __init__(self, out: Path, *paths: Path) -> None:
        self.out = out
        self.paths: Sequence[Path] = paths

    def __call__(
        self,
        says: Says = "{} wide".format,
        plan: RunPlan = CAPTION,
        options: PageOptions | None = None,
        **settings: Any,
    ) -> list[int]:
        asked: list[int] = []

        def answer(request: Request) -> str | list[str | Exception]:
            asked.append(width_of(request))
            return [says(width_of(request))]

        engine = ScriptedEngine(answer)
        chosen = {"concurrency": 1, "resume": True, **settings}
        self.status = run_pages(self.paths, self.out, plan, options or {}, lambda: Glm4v.from_engine(engine), **chosen)
        assert [width_of(request) for request in engine.history] == asked
        return asked

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of results.json, which must be the same in every other file."""
        rows: list[dict[str, Any]] = json.loads((self.out / "results.json").read_text("utf-8"))
        assert [json.loads(line) for line in (self.out / "results.jsonl").read_text("utf-8").splitlines()] == rows
        with (self.out / "results.csv").open(encoding="utf-8-sig", newline="") as file:
            assert [cells["source"] for cells in csv.DictReader(file)] == [row["source"] for row in rows]
        report = (self.out / "report.html").read_text("utf-8")
        assert [report.index(f"<h2>{row['source']} ") for row in rows] == sorted(
            report.index(f"<h2>{row['source']} ") for row in rows
        )
        assert not (self.out / "results.earlier.jsonl").exists()
        return rows

    @property
    def captions(self) -> list[str | None]:
        return [row["caption"] for row in self.rows]


@pytest.fixture
def runs(photos: Path, tmp_path: Path) -> Runs:
    return Runs(tmp_path / "out", photos)


def all_captions(last: int = 28) -> list[str]:
    return [f"{width} wide" for width in range(21, last + 1)]


def dying_at(width: int) -> Says:
    return lambda shown: EngineDeadError("worker gone") if shown == width else f"{shown} wide"


class TestOnlyWhatIsMissingIsAsked:
    def test_after_the_engine_died(self, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(EngineDeadError):
            runs(dying_at(25))
        assert "Stopped early" in capsys.readouterr().err
        assert runs.captions == all_captions(24)
        assert runs() == [25, 26, 27, 28]
        assert (runs.captions, runs.status) == (all_captions(), 0)
        assert "8 pages: 8 done, 0 failed, 0 with warnings; 4 of them kept from before" in capsys.readouterr().out
        assert (runs.out / "report.html").read_text("utf-8").count("data:image/jpeg") == 8
        assert runs() == []

    def test_failed_pages_are_retried_and_keep_their_places(self, runs: Runs) -> None:
        def full_at(width: int) -> str | Exception:
            return OutOfMemoryError("full") if width in (22, 26) else f"{width} wide"

        runs(full_at)
        assert (runs.captions[1], runs.status) == (None, 1)
        assert runs() == [22, 26]
        assert (runs.captions, runs.status) == (all_captions(), 0)

    def test_a_resumed_run_can_be_interrupted_and_resumed_again(self, runs: Runs) -> None:
        runs(lambda width: OutOfMemoryError("full") if width in (21, 23, 27) else f"{width} wide")
        with pytest.raises(EngineDeadError):
            runs(dying_at(23))
        assert [row["status"] for row in runs.rows] == ["ok", "ok", "failed", "ok", "ok", "ok", "failed", "ok"]
        assert runs() == [23, 27]
        assert runs.captions == all_captions()

    @pytest.mark.parametrize("earlier", [False, True])
    def test_a_run_can_be_resumed_wherever_it_was_killed(self, runs: Runs, *, earlier: bool) -> None:
        """A killed run leaves results.jsonl cut anywhere; a killed resumed run also leaves the rows of earlier runs."""
        runs(lambda width: OutOfMemoryError("full") if width == 22 else f"{width} wide")
        whole = (runs.out / "results.jsonl").read_bytes()
        for cut in range(0, len(whole), len(whole) // 23):
            (runs.out / "results.jsonl").write_bytes(whole[:cut])
            if earlier:
                (runs.out / "results.earlier.jsonl").write_bytes(whole)
            done = 8 if earlier else whole[:cut].count(b"\n")
            assert runs() == [width for width in range(21, 29) if width == 22 or width > 20 + done]
            assert runs.captions == all_captions()

    def test_only_the_missing_pages_of_a_document_are_asked(self, tmp_path: Path) -> None:
        first, *others = [PIL.Image.new("RGB", (width, 20)) for width in range(21, 25)]
        first.save(tmp_path / "long.tif", save_all=True, append_images=others)
        runs = Runs(tmp_path / "out", tmp_path / "long.tif", draw(tmp_path / "25.png", 25))
        with pytest.raises(EngineDeadError):
            runs(dying_at(23))
        assert runs() == [23, 24, 25]
        assert [(row["page"], row["caption"]) for row in runs.rows] == [
            *((1, "21 wide"), (2, "22 wide"), (3, "23 wide"), (4, "24 wide")),
            (1, "25 wide"),
        ]

    def test_a_document_interrupted_between_finished_pages_loses_none(self, tmp_path: Path) -> None:
        first, *others = [PIL.Image.new("RGB", (width, 20)) for width in range(21, 25)]
        first.save(tmp_path / "long.tif", save_all=True, append_images=others)
        runs = Runs(tmp_path / "out", tmp_path / "long.tif")
        runs(lambda width: OutOfMemoryError("full") if width == 22 else f"{width} wide")
        with pytest.raises(EngineDeadError):
            runs(dying_at(22))
        assert runs.captions == ["21 wide", None, "23 wide", "24 wide"]

    def test_resuming_without_earlier_results_starts_a_new_run(self, runs: Runs) -> None:
        assert len(runs()) == 8

    def test_resuming_works_with_several_pages_in_flight(self, runs: Runs) -> None:
        runs(lambda width: OutOfMemoryError("full") if width % 2 else f"{width} wide")
        assert sorted(runs(concurrency=4)) == [21, 23, 25, 27]
        assert runs.captions == all_captions()


class TestFiles:
    def test_a_file_with_changed_content_is_asked_again(self, runs: Runs, photos: Path) -> None:
        runs()
        status = (photos / "23.png").stat()
        draw(photos / "23.png", 33)
        os.utime(photos / "23.png", ns=(status.st_atime_ns, status.st_mtime_ns))  # even if it looks unchanged
        assert runs() == [33]
        assert runs.captions[2] == "33 wide"

    def test_rows_of_new_files_are_in_file_order(self, runs: Runs, photos: Path) -> None:
        runs()
        draw(photos / "22a.png", 40)
        assert runs() == [40]
        assert [Path(row["source"]).stem for row in runs.rows][:4] == ["21", "22", "22a", "23"]

    def test_results_of_deleted_files_are_kept_at_the_end(self, runs: Runs, photos: Path) -> None:
        runs(lambda width: OutOfMemoryError("full") if width == 23 else f"{width} wide")
        (photos / "22.png").unlink()
        (photos / "23.png").unlink()  # a failure, which leaves nothing behind
        assert runs() == []
        assert runs.captions == ["21 wide", *all_captions()[3:], "22 wide"]

    def test_paths_may_be_spelled_differently(self, runs: Runs, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        runs()
        monkeypatch.chdir(photos.parent)
        runs.paths = [Path("photos")]
        assert runs() == []
        assert runs.rows[0]["source"] == "photos/21.png"

    def test_resuming_with_entirely_different_files_is_refused(self, runs: Runs, tmp_path: Path) -> None:
        runs()
        runs.paths = [draw(tmp_path / "other.png", 50)]
        with pytest.raises(ConfigError, match=r"None of these files is in the results.*21\.png"):
            runs()
        assert runs.captions == all_captions()

    def test_a_finished_unchanged_file_is_not_opened_once_the_report_is_full(
        self, photos: Path, tmp_path: Path
    ) -> None:
        rows = []
        for file in sorted(photos.iterdir()):
            page = PageInfo(str(file), 1, 2 if file.stem == "22" else 1, f"pixels of {file.stem}")
            rows.append(row_of(DocumentResult(page, caption=file.stem), ("caption",), FileStamp.of(file)))
        (tmp_path / "results.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        draw(photos / "21.png", 31)
        files = sorted(photos.iterdir())

        def kept(options: PageOptions, *, unopened: bool) -> list[str]:
            tasks = job_pages(files, options, gather(tmp_path), unopened=lambda: unopened)
            return [task.row["caption"] for task in tasks if isinstance(task, KeptPage)]

        # The hashes are wrong on purpose: a file that is opened counts as changed.
        assert kept({}, unopened=True) == ["23", "24", "25", "26", "27", "28"]
        assert kept({"frames": "first"}, unopened=True) == ["22", "23", "24", "25", "26", "27", "28"]
        assert kept({"frames": 1}, unopened=True) == ["22", "23", "24", "25", "26", "27", "28"]
        assert kept({"frames": 2}, unopened=True) == ["23", "24", "25", "26", "27", "28"]
        assert kept({}, unopened=False) == []


class TestSettings:
    @pytest.mark.parametrize(
        ("plan", "options", "named"),
        [
            (RunPlan(task="caption", language="zh"), {}, "caption.prompt was .* and is .*图片"),
            (RunPlan(task="ocr"), {}, "caption.prompt was .* and is null"),
            (RunPlan(task="classify", labels=("a", "b")), {}, "label.constraint was null and is .*a"),
            (CAPTION, {"dpi": 100}, "dpi was null and is 100"),
            (RunPlan(task="caption", prompt="long " * 100), {}, "…"),
        ],
    )
    def test_different_settings_are_refused_before_the_model_is_loaded(
        self, runs: Runs, plan: RunPlan, options: PageOptions, named: str
    ) -> None:
        runs()

        def never() -> Glm4v:
            raise AssertionError

        with pytest.raises(ConfigError, match=f"made with other settings.*{named}") as caught:
            run_pages(runs.paths, runs.out, plan, options, never, concurrency=1, resume=True)
        assert "--overwrite" in caught.value.hint
        assert runs.captions == all_captions()

    def test_a_different_model_is_refused(self, runs: Runs) -> None:
        runs()
        settings = runs.out / "settings.json"
        settings.write_text(settings.read_text("utf-8").replace('"scripted"', '"zai-org/GLM-OCR"'), "utf-8")
        with pytest.raises(ConfigError, match='model was "zai-org/GLM-OCR" and is "scripted"'):
            runs()
        assert len((runs.out / "results.jsonl").read_text("utf-8").splitlines()) == 8

    def test_settings_that_do_not_affect_results_may_change(self, runs: Runs) -> None:
        runs(options={"max_pages": 5})
        assert runs(options={"max_pages": 9, "password": "x"}, concurrency=3) == []

    @pytest.mark.parametrize("content", [None, "{", "[]"])
    def test_unknown_settings_are_refused(self, runs: Runs, content: str | None) -> None:
        runs()
        (runs.out / "settings.json").unlink()
        if content is not None:
            (runs.out / "settings.json").write_text(content)
        with pytest.raises(ConfigError, match=r"settings\.json, which says how the results were made"):
            runs()

    def test_overwriting_discards_earlier_results(self, runs: Runs) -> None:
        runs()
        (runs.out / "results.jsonl").rename(runs.out / "results.earlier.jsonl")  # as after a kill
        assert len(runs(plan=RunPlan(prompt="How wide?"), resume=False, overwrite=True)) == 8
        assert [row["answer"] for row in runs.rows] == all_captions()
        assert runs(plan=RunPlan(prompt="How wide?")) == []

    @pytest.mark.parametrize("line", ["{}", "text", '"text"', '{"source": 5}'])
    def test_lines_that_are_not_rows_are_named(self, runs: Runs, line: str) -> None:
        runs()
        with (runs.out / "results.jsonl").open("a") as file:
            file.write(f"{line}\n")
        with pytest.raises(ConfigError, match=r"Line 9 of .*results\.jsonl is not a row") as caught:
            runs()
        assert isinstance(caught.value, Glm4vError)
