"""The bulk runner from Python, without the command line: files, callbacks and interrupts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glm4v_core import Glm4v, Request, ScriptedEngine, Workflow, document_workflow, tasks
from glm4v_core.bulk.outputs import Totals
from glm4v_core.bulk.runner import BulkJob, FinishedPage, run
from glm4v_core.errors import ConfigError, EngineDeadError, ImageNotFoundError
from glm4v_core.media.files import Found
from glm4v_core.tasks.workflow import settings_of
from tests.support.scans import fax_tiff, number_of, paper, read
from tests.support.threads import Threads

ROOT = Path(__file__).parents[3]
OCR = Workflow({"text": tasks.ocr()})


@pytest.fixture
def job(tmp_path: Path) -> BulkJob:
    """Three pages in one file, a fourth in another."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.tif").write_bytes(fax_tiff(3))
    paper(4).save(tmp_path / "scans" / "b.png")
    (tmp_path / "scans" / "notes.txt").write_text("not a page")
    return BulkJob(tmp_path / "scans", tmp_path / "out", OCR, concurrency=1)


def model(answers: Any = read, **options: Any) -> Glm4v:
    return Glm4v.from_engine(ScriptedEngine(answers, **options))


def texts(out: Path) -> list[str | None]:
    return [row["text"] for row in json.loads((out / "results.json").read_text("utf-8"))]


def dies_at(page: int) -> Callable[[Request], Any]:
    return lambda request: EngineDeadError("worker gone") if number_of(request) == page else read(request)


def test_results_are_written_and_callbacks_called(job: BulkJob) -> None:
    started: list[Found] = []
    pages: list[FinishedPage] = []
    ended: list[Totals] = []
    totals = run(job, model(), on_start=started.append, on_page=pages.append, on_end=ended.append)
    assert totals == Totals(pages=4, done=4)
    assert texts(job.out) == [f"text of page {number}" for number in range(1, 5)]
    assert [len(found.files) for found in started] == [2]
    assert [[path.name for path in found.skipped] for found in started] == [["notes.txt"]]
    assert [page.row["text"] for page in pages] == texts(job.out)
    assert [(page.expected, page.totals.pages) for page in pages] == [(4, 1), (4, 2), (4, 3), (4, 4)]
    assert ended == [totals]
    names = {"report.html", "results.csv", "results.json", "results.jsonl", "settings.json"}
    assert {path.name for path in job.out.iterdir()} == names


def test_a_row_is_on_disk_before_its_page_is_reported(job: BulkJob) -> None:
    written: list[int] = []

    def count(page: FinishedPage) -> None:
        written.append((job.out / "results.jsonl").read_text("utf-8").count("\n"))

    run(job, model(), on_page=count)
    assert written == [1, 2, 3, 4]


def test_a_run_can_be_resumed_after_the_engine_died(job: BulkJob) -> None:
    ended: list[Totals] = []
    with pytest.raises(EngineDeadError):
        run(job, model(dies_at(3)), on_end=ended.append)
    kept: list[bool] = []
    totals = run(replace(job, resume=True), model(), on_page=lambda page: kept.append(page.kept), on_end=ended.append)
    assert kept == [True, True, False, False]
    assert ended == [Totals(pages=2, done=2), totals]
    assert totals == Totals(pages=4, done=4, kept=2)


def test_rows_that_an_interrupted_run_has_not_reached_are_kept_whatever_the_callback_does(job: BulkJob) -> None:
    run(job, model())
    ended: list[Totals] = []

    def give_up(page: FinishedPage) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(replace(job, resume=True), model(), on_page=give_up, on_end=ended.append)
    assert texts(job.out) == [f"text of page {number}" for number in range(1, 5)]
    assert ended == [Totals(pages=4, done=4, kept=4)]
    assert not (job.out / "results.earlier.jsonl").exists()


def test_a_given_model_stays_open_and_a_loaded_one_is_closed(job: BulkJob) -> None:
    given, loaded = ScriptedEngine(read), ScriptedEngine(read)
    run(job, Glm4v.from_engine(given))
    run(replace(job, overwrite=True), lambda: Glm4v.from_engine(loaded))
    assert (given.closed, loaded.closed) == (False, True)


def test_everything_is_checked_before_the_model_is_loaded(job: BulkJob, tmp_path: Path) -> None:
    def never() -> Glm4v:
        raise AssertionError

    with pytest.raises(ConfigError, match="concurrency is 0"):
        run(replace(job, concurrency=0), never)
    with pytest.raises(ConfigError, match="language must be 'en' or 'zh', not 'fr'"):
        run(replace(job, language="fr"), never)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dpi"):
        run(replace(job, page_options={"dpi": 0}), never)
    with pytest.raises(ImageNotFoundError):
        run(replace(job, paths=tmp_path / "nowhere"), never)
    run(job, model())
    with pytest.raises(ConfigError, match="already holds results"):
        run(job, never)
    with pytest.raises(ConfigError, match="other settings"):
        run(replace(job, workflow=document_workflow(), resume=True), never)


@pytest.mark.parametrize("beside_a_loop", [False, True])
def test_callbacks_may_ask_the_model(job: BulkJob, monkeypatch: pytest.MonkeyPatch, *, beside_a_loop: bool) -> None:
    threads = Threads()
    threads.watch(monkeypatch)
    asked = model()

    def on_page(page: FinishedPage) -> None:
        threads.note("callback")
        assert asked.generate(request_for(page)).text == page.row["text"]

    def request_for(page: FinishedPage) -> Request:
        from glm4v_core.media import load_page

        return tasks.ocr().request(load_page(page.row["source"], page.row["page"]).image)

    async def beside() -> None:
        run(job, asked, on_page=on_page)

    if beside_a_loop:
        asyncio.run(beside())
    else:
        run(job, asked, on_page=on_page)
        assert threads.of["callback"] == {threading.current_thread().name}
    threads.check("callback", "decoding")


class TestPromptsOfAFamily:
    def prompts(self, job: BulkJob, workflow: Workflow) -> set[str]:
        engine = ScriptedEngine(lambda request: "x", family="GLM-OCR")
        run(replace(job, workflow=workflow, overwrite=True), Glm4v.from_engine(engine))
        return {request.messages[0].parts[1].text for request in engine.history}  # type: ignore[union-attr]

    def test_replace_the_built_in_one_for_reading(self, job: BulkJob) -> None:
        assert self.prompts(job, OCR) == {"Text Recognition:"}
        assert self.prompts(job, Workflow({"text": tasks.ocr("zh")})) == {"Text Recognition:"}

    def test_leave_the_callers_own_prompt_alone(self, job: BulkJob) -> None:
        mine = replace(tasks.ocr(), prompt="Read it, please.")
        assert self.prompts(job, Workflow({"text": mine})) == {"Read it, please."}

    def test_do_not_change_the_settings_that_are_compared(self, job: BulkJob) -> None:
        self.prompts(job, OCR)
        written = json.loads((job.out / "settings.json").read_text("utf-8"))
        assert written["steps"] == settings_of(OCR, {})["steps"]


def test_neither_typer_nor_rich_is_imported(job: BulkJob) -> None:
    script = f"""
import sys
from pathlib import Path
from glm4v_core import Glm4v, ScriptedEngine, Workflow, tasks
from glm4v_core.bulk.runner import BulkJob, run

job = BulkJob([{str(job.paths)!r}], Path({str(job.out)!r}), Workflow({{"text": tasks.ocr()}}))
print(run(job, Glm4v.from_engine(ScriptedEngine(lambda request: "x"))).done)
print(sorted({{"typer", "rich"}} & {{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split("\n") == ["4", "[]", ""]
