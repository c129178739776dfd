"""Output of an evaluation: tables, JSON, and an HTML page of the worst answers with their differences marked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm4v_core.errors import Glm4vError
from glm4v_core.evaluation.metrics import Score
from glm4v_core.evaluation.probes import LOWER_IS_BETTER
from glm4v_core.evaluation.scoring import Evaluation, ScoredAnswer, ScoredPage
from glm4v_core.html.page import data_uri, template
from glm4v_core.media.image import Image

if TYPE_CHECKING:
    from rich.table import Table

EVALUATION, ANSWERS, WORST = "evaluation.json", "answers.jsonl", "worst.html"
LONGEST_COMPARED = 4000
"""Differences are marked only up to this many characters, since comparing longer texts takes too long."""


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Convert the figures to plain JSON values; the answers are in answers.jsonl."""
    values = asdict(evaluation)
    del values["worst"]
    counted = {
        truth: [{"answer": answer, "count": count} for answer, count in answers.items()]
        for truth, answers in evaluation.confusion.items()
    }
    return values | {"confusion": counted}


def page_json(page: ScoredPage) -> str:
    """Return one line of answers.jsonl."""
    return json.dumps(asdict(page), ensure_ascii=False) + "\n"


def score_table(evaluation: Evaluation) -> Table:
    """Return the scores as a table for a terminal."""
    from rich.table import Table

    table = Table("measure", "value", "95 % interval", "over", title=_title(evaluation))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in _score_rows(evaluation.scores):
        table.add_row(*row)
    return table


def confusion_table(evaluation: Evaluation) -> Table:
    """Return a table of how often each true label got each answer."""
    from rich.table import Table

    answers = _answered(evaluation)
    table = Table("truth \\ answer", *(_label(answer) for answer in answers), title="Labels")
    for truth, counts in evaluation.confusion.items():
        table.add_row(truth, *(str(counts.get(answer, 0) or "·") for answer in answers))
    return table


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Write evaluation.json and worst.html."""
    text = json.dumps(as_json(evaluation), ensure_ascii=False, indent=1)
    (folder / EVALUATION).write_text(text + "\n", encoding="utf-8")
    worst = template("evaluation.html.jinja").generate(
        title=_title(evaluation),
        language=evaluation.language,
        scores=_score_rows(evaluation.scores),
        pages=map(_worst_page, evaluation.worst),
    )
    with (folder / WORST).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(worst)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text; `differs` is True if the other text does not have it."""

    text: str
    differs: bool = False


def differences(truth: str, answer: str) -> tuple[list[Span], list[Span]]:
    """Split a truth and an answer into spans that they have in common and spans that differ."""
    if max(len(truth), len(answer)) > LONGEST_COMPARED:
        return [Span(truth)], [Span(answer)]
    left, right = [], []
    for kind, start, end, from_, to in SequenceMatcher(None, truth, answer, autojunk=False).get_opcodes():
        left.append(_span(truth[start:end], kind != "equal"))
        right.append(_span(answer[from_:to], kind != "equal"))
    return [span for span in left if span.text], [span for span in right if span.text]


def _span(text: str, differs: bool) -> Span:
    # A marked line break would be invisible.
    return Span(text.replace("\n", "⏎\n") if differs else text, differs)


def _worst_page(page: ScoredPage) -> Mapping[str, Any]:
    """Return what the template shows of a page."""
    return {
        "source": page.source,
        "loss": f"{page.loss:.1%}",
        "picture": _picture(page.source),
        "answers": [_wrong_answer(answer) for answer in page.answers if _is_wrong(answer)],
    }


def _is_wrong(answer: ScoredAnswer) -> bool:
    return any(part != (0 if name in LOWER_IS_BETTER else whole) for name, (part, whole) in answer.scores.items())


def _wrong_answer(answer: ScoredAnswer) -> Mapping[str, Any]:
    truth, given = differences(answer.truth, answer.answer or "")
    shown = {name: getattr(answer, name) for name in ("task", "question", "error", "finish")}
    return shown | {"truth": truth, "given": given}


def _picture(source: str) -> str | None:
    try:
        return data_uri(Image.load(source))
    except Glm4vError:  # a page that cannot be read is among the worst; its error is shown instead
        return None


def _score_rows(scores: Mapping[str, Score]) -> Sequence[tuple[str, str, str, str]]:
    return [
        (name, f"{score.value:.2%}", f"{score.low:.2%} to {score.high:.2%}", f"{score.whole:.0f}")
        for name, score in scores.items()
    ]


def _title(evaluation: Evaluation) -> str:
    return f"{evaluation.model} ({evaluation.engine}, {evaluation.language}): {evaluation.pages} pages"


def _answered(evaluation: Evaluation) -> Sequence[str | None]:
    answers = {answer for counts in evaluation.confusion.values() for answer in counts}
    return sorted(answers, key=lambda answer: (answer is None, answer or ""))


def _label(answer: str | None) -> str:
    return "(none)" if answer is None else answer
