"""`glm4v index` and `glm4v query` as a user sees them, with a scripted engine in place of the model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from glm4v_core import PageStore
from tests.support.command_line import Command
from tests.support.letters import ABSENT, TEXTS, save_pages

READ = [text for number in TEXTS for text in (TEXTS[number], "A letter.")]
BOGUS = ("--model", "none/such", "--engine", "vllm")
"""A model that cannot be loaded, to show that it is not."""


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_pages(tmp_path / "scans")
    return tmp_path / "scans"


@pytest.fixture
def indexed(scans: Path, glm4v: Command) -> Path:
    assert glm4v("index", scans, "--concurrency", 1, answers=READ).status == 0
    return scans


class TestIndex:
    def test_pages_are_read_once(self, glm4v: Command, scans: Path) -> None:
        (scans / "notes.txt").write_text("no page")
        ended = glm4v("index", "scans", "--concurrency", 1, answers=READ)
        assert ended.status == 0
        line = "3 pages read, 0 kept, 0 failed; 1 other files skipped. glm4v-pages.sqlite holds 3 pages.\n"
        assert ended.out == line
        assert "Pages" in ended.err
        (scans / "1.png").unlink()
        ended = glm4v("index", "scans", "--json", answers=[])
        assert ended.status == 0
        assert json.loads(ended.out) == {
            "pages": 2,
            "read": 0,
            "kept": 2,
            "failed": [],
            "forgotten": [str(scans / "1.png")],
            "skipped": [str(scans / "notes.txt")],
        }

    def test_failures_are_reported(self, glm4v: Command, scans: Path) -> None:
        (scans / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        broken = os.fsdecode(os.fsencode(scans / "1") + b"\xe9.png")
        (scans / "1.png").rename(broken)
        Path(broken).write_bytes(b"GIF8")
        ended = glm4v("index", scans, "--concurrency", 1, answers=READ[4:])
        assert ended.status == 1
        first, second, total = ended.out.splitlines()
        assert "1\\udce9.png: image_" in first
        assert f"{scans / '2.png'}: image_broken: " in second
        assert total.startswith("1 pages read, 0 kept, 2 failed. ")
        ended = glm4v("index", scans, "--json", answers=[])
        codes = [failure["error"]["code"] for failure in json.loads(ended.out)["failed"]]
        assert codes[1] == "image_broken"

    def test_all_failed(self, glm4v: Command, scans: Path) -> None:
        for file in scans.iterdir():
            file.write_bytes(b"GIF8")
        assert glm4v("index", scans, answers=[]).status == 2

    def test_wrong_input_is_reported_without_loading_the_model(
        self, glm4v: Command, scans: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "other.sqlite").write_text("no store, but a text that is long enough to be looked at" * 20)
        wrong: dict[str, tuple[Any, ...]] = {
            "image_not_found": ("gone",),
            "input": ("empty",),
            "config": ("scans", "--store", "other.sqlite"),
            "constraint": ("scans", "--labels", "a,a"),
        }
        for code, arguments in wrong.items():
            ended = glm4v("index", *arguments, *BOGUS)
            assert (ended.status, ended.err.partition(":")[0]) == (2, f"Error ({code})")
            assert "Hint: " in ended.err
        assert not (tmp_path / "glm4v-pages.sqlite").exists()
        assert glm4v("index", "scans", "--dpi", 0, *BOGUS).status == 2

    def test_an_interrupted_run_is_reported(self, glm4v: Command, scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*arguments: object, **options: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("rich.progress.Progress.update", interrupt)
            ended = glm4v("index", scans, "--concurrency", 1, answers=READ)
        assert ended.status == 130
        assert "goes on" in ended.err
        assert glm4v("index", scans, "--concurrency", 1, answers=READ).status == 0


class TestQuery:
    def test_the_answer_is_printed_with_its_place(self, glm4v: Command, indexed: Path, tmp_path: Path) -> None:
        ended = glm4v("query", "What is the total of Glacier Ltd?", "--pages", 1, answers=["22.00"])
        assert (ended.status, ended.out) == (0, f"22.00\n[{indexed / '2.png'}, page 1 of 1]\n")
        file = tmp_path / "cited.png"
        ended = glm4v("query", "Glacier", "--picture", file, "--route", "text", "--json", answers=["22.00"])
        assert ended.status == 0
        found = json.loads(ended.out)
        place = {"source": str(indexed / "2.png"), "page": 1, "pages": 1, "sha256": found["citation"]["sha256"]}
        assert found == {
            "question": "Glacier",
            "answer": "22.00",
            "citation": place,
            "picture": str(file),
            "asked": [place | {"answer": "22.00", "finish": "stop"}],
        }
        with PIL.Image.open(file) as picture:
            assert picture.size == (56, 28)

    def test_pages_may_be_searched_with_different_words(self, glm4v: Command, indexed: Path) -> None:
        ended = glm4v("query", "总金额？", "--find", "Glacier", "--language", "zh", "--json", answers=["22.00"])
        found = json.loads(ended.out)
        assert (found["question"], found["answer"], len(found["asked"])) == ("总金额？", "22.00", 1)

    def test_an_answer_that_is_cut_off_says_so(self, glm4v: Command, indexed: Path) -> None:
        ended = glm4v("query", "Glacier", answers=["word " * 20_000])
        assert (ended.status, "The answer is incomplete (length)." in ended.err) == (0, True)

    def test_the_picture_is_named(self, glm4v: Command, indexed: Path) -> None:
        ended = glm4v("query", "Glacier", "--picture", "cited.png", answers=["22.00"])
        assert ended.out.endswith("page 1 of 1] cited.png\n")
        ended = glm4v("query", "Glacier", "--picture", "none/cited.png", answers=["22.00"])
        assert (ended.status, "cannot be written" in ended.err) == (2, True)

    def test_without_an_answer_the_status_says_so(self, glm4v: Command, indexed: Path) -> None:
        ended = glm4v("query", "Zanzibar", *BOGUS)
        assert (ended.status, ended.out) == (1, "No page has any of these words; --find takes others.\n")
        assert glm4v("query", "Glacier", answers=[ABSENT]).out == "No page answers this.\n"
        ended = glm4v("query", "Glacier", "--json", answers=[ABSENT])
        found = json.loads(ended.out)
        assert (ended.status, found["answer"], found["citation"], len(found["asked"])) == (1, None, None, 1)

    def test_wrong_input_is_reported_without_loading_the_model(self, glm4v: Command, indexed: Path) -> None:
        ended = glm4v("query", "Glacier", "--store", "none.sqlite", *BOGUS)
        assert ended.status == 2
        assert "There is no page store none.sqlite.\nHint: Make one with `glm4v index FOLDER`." in ended.err
        PageStore("new.sqlite").close()
        assert "has no pages.\nHint: Fill it with" in glm4v("query", "Glacier", "--store", "new.sqlite", *BOGUS).err
        assert "The question is empty" in glm4v("query", " ", *BOGUS).err
        assert glm4v("query", "Glacier", "--route", "video", *BOGUS).status == 2
        (indexed / "2.png").unlink()
        assert "is gone" in glm4v("query", "Glacier", *BOGUS).err
