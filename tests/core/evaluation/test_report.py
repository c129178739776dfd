"""How an evaluation is shown as JSON, as a table and as a page of the worst answers."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest
from rich.console import Console

from glm4v_core.errors import Failure
from glm4v_core.evaluation.metrics import Score, Tally
from glm4v_core.evaluation.report import (
    LONGEST_COMPARED,
    Span,
    as_json,
    confusion_table,
    differences,
    page_json,
    score_table,
    write_report,
)
from glm4v_core.evaluation.scoring import Evaluation, ScoredAnswer, ScoredPage

EVIL = "<script>alert(1)</script>"


def answer(truth: str, given: str | None, **values: object) -> ScoredAnswer:
    scores = {"cer": Tally(float(truth != given), 1)}
    filled = {"task": "text", "question": "", "finish": "stop", "error": None, "scores": scores, **values}
    return ScoredAnswer(truth=truth, answer=given, **filled)  # type: ignore[arg-type]


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    picture = tmp_path / f"page {EVIL[1:7]}.png"
    PIL.Image.new("RGB", (50, 50), "white").save(picture)
    answers = (
        answer("TOTAL 12", f"T0TAL 12{EVIL}"),
        answer("never shown", "never shown", scores={"label_accuracy": Tally(1, 1), "failed": Tally(0, 1)}),
        answer("x", "xx", finish="repetition", question=f"Which {EVIL}?", task="questions"),
        answer("y", None, finish=None, error=Failure("out_of_memory", f"full {EVIL}", "")),
    )
    worst = ScoredPage(str(picture), answers, {}, 0.5)
    gone = ScoredPage(str(tmp_path / "gone.png"), (answer("z", None),), {}, 0.25)
    scores = {"cer": Score(0.0123, 0.01, 0.02, 2000), "label_accuracy": Score(1, 1, 1, 2)}
    return Evaluation(
        "tiny", "transformers", "zh", 2, 1, scores, {"a": {"a": 3, None: 1}, "b": {"a": 2}}, (worst, gone)
    )


def shown(table: object) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_table(evaluation: Evaluation) -> None:
    text = shown(score_table(evaluation))
    assert "tiny (transformers, zh): 2 pages" in text
    line = next(line for line in text.splitlines() if "cer" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["cer", "1.23%", "1.00% to 2.00%", "2000"]


def test_confusion(evaluation: Evaluation) -> None:
    text = shown(confusion_table(evaluation))
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    assert ["a", "3", "1"] in rows
    assert ["b", "2", "·"] in rows
    assert "(none)" in text


def test_json(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path)
    found = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert found == as_json(evaluation)
    assert found["scores"]["cer"] == {"value": 0.0123, "low": 0.01, "high": 0.02, "whole": 2000}
    assert found["confusion"]["a"] == [{"answer": "a", "count": 3}, {"answer": None, "count": 1}]
    assert (found["model"], found["without_truth"]) == ("tiny", 1)


def test_answers_are_one_line_each(evaluation: Evaluation) -> None:
    line = page_json(evaluation.worst[0])
    assert line.count("\n") == 1
    assert json.loads(line)["answers"][0]["truth"] == "TOTAL 12"


def test_worst_pages(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path)
    text = (tmp_path / "worst.html").read_text("utf-8")
    assert "<script" not in text
    assert "T<del>O</del>TAL 12" in text
    assert "T<ins>0</ins>TAL 12<ins>&lt;script&gt;alert(1)&lt;/script&gt;</ins>" in text
    assert "never shown" not in text
    assert '<p class="warning">repetition</p>' in text
    assert "<strong>out_of_memory</strong>: full &lt;script&gt;" in text
    assert text.count("data:image/jpeg;base64,") == 1
    assert text.index("50.0%") < text.index("25.0%")
    assert "default-src 'none'" in text


class TestDifferences:
    def test_equal(self) -> None:
        assert differences("a < b", "a < b") == ([Span("a < b")], [Span("a < b")])

    def test_line_breaks_are_visible(self) -> None:
        assert differences("a\nb", "ab") == ([Span("a"), Span("⏎\n", differs=True), Span("b")], [Span("a"), Span("b")])

    def test_chinese(self) -> None:
        truth, answer = differences("发票号码", "发漂号码")
        assert truth == [Span("发"), Span("票", differs=True), Span("号码")]
        assert answer == [Span("发"), Span("漂", differs=True), Span("号码")]

    def test_very_long_answers_are_not_compared(self) -> None:
        endless = "<" * (LONGEST_COMPARED + 1)
        assert differences("a", endless) == ([Span("a")], [Span(endless)])
