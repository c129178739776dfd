"""The command line as a user sees it, with a scripted engine in place of the model."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.support.command_line import Command

ANSWERS = ["INVOICE 1\nTotal 5", "An invoice.", "invoice"]


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "pages"
    folder.mkdir()
    for number in (1, 2, 10):
        PIL.Image.new("RGB", (40 + number, 30), "white").save(folder / f"p{number}.PNG")
    return folder


def save_pages(path: Path, count: int) -> None:
    first, *others = [PIL.Image.new("RGB", (60, 40), (9 * number,) * 3) for number in range(count)]
    first.save(path, save_all=True, append_images=others)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]


class TestRun:
    def test_workflow(self, glm4v: Command, pages: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        answers = [
            *("one", "first", "invoice"),
            *("two", "second", "letter"),
            *("ten", "tenth", "invoice"),
        ]
        ended = glm4v("run", pages, "--labels", "invoice，letter", "--out", out, "--concurrency", 1, answers=answers)
        assert ended.status == 0
        found = rows(out)
        assert [(Path(row["source"]).name, row["text"], row["label"]) for row in found] == [
            ("p1.PNG", "one", "invoice"),
            ("p2.PNG", "two", "letter"),
            ("p10.PNG", "ten", "invoice"),
        ]
        assert json.loads((out / "results.json").read_text("utf-8")) == found
        with (out / "results.csv").open(encoding="utf-8-sig", newline="") as file:
            assert [row["summary"] for row in csv.DictReader(file)] == ["first", "second", "tenth"]
        report = (out / "report.html").read_text("utf-8")
        assert report.count("data:image/jpeg") == 3
        assert report.endswith("</html>\n")
        assert "3 pages: 3 done, 0 failed, 0 with warnings." in ended.out
        assert "tenth" in ended.out
        assert "Pages" in ended.err

    def test_failures_are_rows(self, glm4v: Command, pages: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        (pages / "p2.PNG").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        (pages / "notes.txt").write_text("no page")
        ended = glm4v(
            "run", pages, "gone.png", "--labels", "invoice", "--out", out, "--concurrency", 1, answers=ANSWERS * 2
        )
        assert ended.status == 1
        assert [(row["status"], (row["error"] or {}).get("code")) for row in rows(out)] == [
            ("ok", None),
            ("failed", "image_broken"),
            ("ok", None),
            ("failed", "image_not_found"),
        ]
        assert all(row["text"] is None and row["error"]["hint"] for row in rows(out) if row["status"] == "failed")
        assert "4 pages: 2 done, 2 failed, 0 with warnings; 1 other files skipped." in ended.out
        assert "image_broken" in ended.out

    def test_all_failed(self, glm4v: Command, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no page")
        assert glm4v("run", tmp_path / "notes.txt", "--out", tmp_path / "out", answers=[]).status == 2
        assert [row["status"] for row in rows(tmp_path / "out")] == ["failed"]

    def test_missing_paths_are_an_error(self, glm4v: Command, tmp_path: Path) -> None:
        ended = glm4v("run", "gone.png", "gone", "--out", tmp_path / "out", "--model", "none/such", "--engine", "vllm")
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.startswith("Error (image_not_found): There is no file or folder gone.png, gone.\nHint: ")
        assert not (tmp_path / "out").exists()

    def test_results_of_the_other_steps_are_kept(self, glm4v: Command, pages: Path, tmp_path: Path) -> None:
        arguments = ("run", pages / "p1.PNG", "--labels", "letter,invoice", "--out", tmp_path / "out")
        ended = glm4v(*arguments, answers=["INVOICE 1", "An invoice.", "poem"])
        assert ended.status == 2
        (row,) = rows(tmp_path / "out")
        assert (row["status"], row["error"]["code"]) == ("failed", "output_invalid")
        assert (row["text"], row["summary"], row["label"]) == ("INVOICE 1", "An invoice.", None)
        (line,) = [line for line in ended.out.splitlines() if "p1.PNG" in line]
        assert [cell.strip().partition(":")[0] for cell in line.split("│")[1:4]] == [
            "p1.PNG",
            "An invoice.",
            "output_invalid",
        ]
        report = (tmp_path / "out" / "report.html").read_text("utf-8")
        assert all(part in report for part in ("INVOICE 1", "An invoice.", "output_invalid", "data:image/jpeg"))

    def test_a_run_can_be_resumed(self, glm4v: Command, pages: Path, tmp_path: Path) -> None:
        arguments = ("run", pages, "--task", "ocr", "--out", tmp_path / "out", "--concurrency", 1)
        assert glm4v(*arguments, answers=["one"]).status == 1
        hint = glm4v(*arguments, answers=["no"]).err.splitlines()[-1]
        assert "--resume" in hint
        ended = glm4v(*arguments, "--resume", answers=["two", "ten"])
        assert ended.status == 0
        assert [row["text"] for row in rows(tmp_path / "out")] == ["one", "two", "ten"]
        assert "3 pages: 3 done, 0 failed, 0 with warnings; 1 of them kept from before." in ended.out

    def test_file_names_that_are_not_utf8_are_shown(self, glm4v: Command, pages: Path, tmp_path: Path) -> None:
        name = os.fsdecode(b"caf\xe9.png")
        (pages / "p1.PNG").rename(pages / name)
        arguments = ("run", pages, "--task", "ocr", "--out", tmp_path / "out", "--concurrency", 1)
        ended = glm4v(*arguments, answers=["one", "two", "ten"])
        assert ended.status == 0
        assert "caf\\udce9.png" in ended.out
        assert Path(rows(tmp_path / "out")[0]["source"]).name == name
        assert glm4v(*arguments, "--resume", answers=[]).status == 0

    def test_a_folder_without_documents_is_an_error(self, glm4v: Command, tmp_path: Path) -> None:
        ended = glm4v("run", tmp_path, "--out", tmp_path / "out", answers=[])
        assert (ended.status, ended.err.startswith("Error (input)")) == (2, True)
        assert not (tmp_path / "out").exists()

    def test_every_page_of_a_document(self, glm4v: Command, tmp_path: Path) -> None:
        save_pages(tmp_path / "three.pdf", 3)
        save_pages(tmp_path / "two.tif", 2)
        files = (tmp_path / "three.pdf", tmp_path / "two.tif")
        ended = glm4v(
            "run", *files, "--task", "ocr", "--out", tmp_path / "out", "--concurrency", 1, answers=list("abcde")
        )
        assert ended.status == 0
        assert [(row["page"], row["pages"], row["text"]) for row in rows(tmp_path / "out")] == [
            *((1, 3, "a"), (2, 3, "b"), (3, 3, "c")),
            *((1, 2, "d"), (2, 2, "e")),
        ]
        assert "three.pdf 2/3" in ended.out
        ended = glm4v("run", *files, "--task", "ocr", "--out", tmp_path / "some", "--frames", 2, answers=list("abcd"))
        assert "4/4" in ended.err

    def test_earlier_results_are_never_overwritten_unasked(self, glm4v: Command, pages: Path, tmp_path: Path) -> None:
        arguments = ("run", pages / "p1.PNG", "--task", "ocr", "--out", tmp_path / "out")
        assert glm4v(*arguments, answers=["first"]).status == 0
        again = glm4v(*arguments, answers=["second"])
        assert (again.status, "already holds results" in again.err) == (2, True)
        assert rows(tmp_path / "out")[0]["text"] == "first"
        assert glm4v(*arguments, "--overwrite", answers=["third"]).status == 0
        assert rows(tmp_path / "out")[0]["text"] == "third"

    def test_incomplete_answers_cause_a_warning(self, glm4v: Command, pages: Path, tmp_path: Path) -> None:
        ended = glm4v(
            *("run", pages / "p1.PNG", "--task", "ocr", "--out", tmp_path / "out", "--option", "context=100"),
            answers=["word " * 400],
        )
        assert ended.status == 0
        assert rows(tmp_path / "out")[0]["warnings"] == ["ocr:length"]
        assert "1 with warnings" in ended.out

    def test_many_pages_are_counted_and_not_listed(self, glm4v: Command, tmp_path: Path) -> None:
        save_pages(tmp_path / "long.tif", 45)
        arguments = ("--task", "ocr", "--out", tmp_path / "out", "--option", "family=GLM-OCR")
        ended = glm4v("run", tmp_path / "long.tif", *arguments, answers=["x"] * 45)
        assert ended.status == 0
        assert "long.tif 1/45" not in ended.out
        assert "45 pages: 45 done" in ended.out
        assert [row["page"] for row in rows(tmp_path / "out")] == list(range(1, 46))


AUDIT = {"compliant": False, "problems": ["blurred"], "visible_text": "SALE"}


class TestPlans:
    @pytest.mark.parametrize(
        ("options", "answer", "column", "value"),
        [
            (("--task", "ocr"), "text", "text", "text"),
            (("--preset", "lines"), "text", "text", "text"),
            (("--task", "ocr", "--prompt", "Only the title."), "title", "text", "title"),
            (("--task", "caption", "--language", "zh"), "一只猫", "caption", "一只猫"),
            (("--preset", "product-copy", "--language", "zh"), "轻若无物", "caption", "轻若无物"),
            (("--preset", "alt-text"), "A cat.", "caption", "A cat."),
            (("--preset", "product-audit"), json.dumps(AUDIT), "fields", AUDIT),
            (("--task", "classify", "--labels", "a", "--labels", "b,c"), "c", "label", "c"),
            (
                ("--task", "extract", "--fields", "no,day"),
                '{"no": "7", "day": null}',
                "fields",
                {"no": "7", "day": None},
            ),
            (("--prompt", "How many?"), "Three.", "answer", "Three."),
        ],
    )
    def test_one_step(
        self, glm4v: Command, pages: Path, tmp_path: Path, options: Any, answer: str, column: str, value: Any
    ) -> None:
        ended = glm4v("run", pages / "p1.PNG", "--out", tmp_path / "out", *options, answers=[answer])
        assert (ended.status, ended.err.count("Error")) == (0, 0)
        (row,) = rows(tmp_path / "out")
        assert row[column] == value
        assert len({"text", "summary", "label", "caption", "fields", "answer"} & row.keys()) == 1

    def test_schema_file(self, glm4v: Command, pages: Path, tmp_path: Path) -> None:
        schema = tmp_path / "schema.json"
        schema.write_text('{"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}')
        arguments = ("run", pages / "p1.PNG", "--out", tmp_path / "out", "--task", "extract", "--schema", schema)
        assert glm4v(*arguments, answers=['{"total": 12.5}']).status == 0
        assert rows(tmp_path / "out")[0]["fields"] == {"total": 12.5}
        schema.write_text("[]")
        assert "not a JSON object" in glm4v(*arguments, answers=[]).err
        schema.unlink()
        assert "cannot be read" in glm4v(*arguments, answers=[]).err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--task", "classify"), "needs --labels"),
            (("--task", "ocr", "--labels", "a"), "--labels are only for"),
            (("--preset", "lines", "--task", "ocr"), "cannot go with"),
            (("--preset", "lines", "--prompt", "x"), "cannot go with"),
            (("--task", "classify", "--labels", "a", "--prompt", "x"), "cannot replace"),
            (("--task", "workflow", "--prompt", "x"), "cannot replace"),
            (("--task", "extract"), "either --fields or --schema"),
            (("--task", "extract", "--fields", "a", "--schema", "b"), "either --fields or --schema"),
            (("--fields", "a"), "only for --task extract"),
            (("--labels", "a,b,a"), "must be different; a is there twice"),
            (("--frames", "some"), "frames"),
            (("--dpi", "0"), "dpi"),
            (("--option", "latency"), "NAME=VALUE"),
            (("--option", "speed=9"), "no option speed"),
        ],
    )
    def test_contradictions_are_refused_before_anything_happens(
        self, glm4v: Command, pages: Path, tmp_path: Path, options: Any, message: str
    ) -> None:
        ended = glm4v("run", pages, "--out", tmp_path / "out", *options, answers=["x"])
        assert ended.status == 2
        assert message in ended.err
        assert "Hint: " in ended.err
        assert "Traceback" not in ended.err
        assert not (tmp_path / "out" / "results.jsonl").exists()


class TestAsk:
    def test_answer_and_reasoning_are_printed_separately(self, glm4v: Command, pages: Path) -> None:
        ended = glm4v(
            "ask", pages / "p1.PNG", "What is it?", answers=["<think>Let me see.</think>\nAn [b]invoice[/b]."]
        )
        assert (ended.status, ended.out) == (0, "An [b]invoice[/b].\n")
        assert "Let me see." in ended.err

    def test_limit_and_first_page(self, glm4v: Command, tmp_path: Path) -> None:
        save_pages(tmp_path / "two.pdf", 2)
        ended = glm4v("ask", tmp_path / "two.pdf", "?", "--no-thinking", "--max-tokens", 2, answers=["one two three"])
        assert ended.out == "one two\n"
        assert "page 1 of 2" in ended.err
        assert "incomplete (length)" in ended.err

    def test_missing_picture(self, glm4v: Command) -> None:
        ended = glm4v("ask", "gone.png", "?", answers=["x"])
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.startswith("Error (image_not_found): ")

    def test_the_picture_is_read_before_the_model_is_loaded(self, glm4v: Command, pages: Path) -> None:
        (pages / "p1.PNG").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        ended = glm4v("ask", pages / "p1.PNG", "?", "--engine", "vllm")  # an engine that is refused when it is loaded
        assert ended.err.startswith("Error (image_broken): ")


def test_a_terminal_shows_that_the_model_is_loading(
    glm4v: Command, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", pages, "--task", "ocr", "--out", tmp_path / "out", "--overwrite")
    assert "Loading" not in glm4v(*arguments, answers=["x"] * 3).err
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert "Loading the model" in glm4v(*arguments, answers=["x"] * 3).err


class TestEval:
    @pytest.fixture
    def truths(self, pages: Path) -> Path:
        for number in (1, 2):
            (pages / f"p{number}.json").write_text(json.dumps({"text": "abcd", "label": f"l{number}"}))
        return pages

    def test_scores_and_files(self, glm4v: Command, truths: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        answers = ["abcd", "l1", "abxd", "l2"]
        ended = glm4v("eval", truths, "--out", out, "--concurrency", 1, answers=answers)
        assert ended.status == 0
        assert "12.50%" in ended.out
        assert "1 images have no truth file" in ended.out
        evaluation = json.loads((out / "evaluation.json").read_text("utf-8"))
        assert evaluation["scores"]["cer"]["value"] == 1 / 8
        assert evaluation["scores"]["label_accuracy"]["value"] == 1
        assert len((out / "answers.jsonl").read_text("utf-8").splitlines()) == 2
        assert "ab<del>c</del>d" in (out / "worst.html").read_text("utf-8")
        again = glm4v("eval", truths, "--out", out, answers=answers)
        assert (again.status, "already holds an evaluation" in again.err) == (2, True)
        assert glm4v("eval", truths, "--out", out, "--overwrite", "--limit", 1, answers=answers).status == 0

    def test_without_files(self, glm4v: Command, truths: Path) -> None:
        ended = glm4v("eval", truths, "--tasks", "text", "--concurrency", 1, answers=["abcd", "abcd"])
        assert ended.status == 0
        assert "label" not in ended.out

    def test_unknown_task(self, glm4v: Command, truths: Path) -> None:
        ended = glm4v("eval", truths, "--tasks", "text,poems", answers=[])
        assert (ended.status, "no task poems" in ended.err) == (2, True)


def test_help_names_the_commands(glm4v: Command) -> None:
    ended = glm4v("--help")
    assert all(name in ended.out for name in ("run", "ask", "eval", "doctor"))
