"""An evaluation as a table, as JSON, and as a page of the worst answers with their differences marked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from difflib import SequenceMatcher
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm4v_core.errors import Glm4vError
from glm4v_core.evaluation.metrics import Score
from glm4v_core.evaluation.probes import LOWER_IS_BETTER
from glm4v_core.evaluation.scoring import Evaluation, ScoredAnswer, ScoredPage
from glm4v_core.html.page import PAGE_END, data_uri, page_start, picture_html
from glm4v_core.media.image import Image

if TYPE_CHECKING:
    from rich.table import Table

EVALUATION, ANSWERS, WORST = "evaluation.json", "answers.jsonl", "worst.html"
LONGEST_COMPARED = 4000
"""Characters of an answer in which differences are marked; beyond, the search for them takes too long."""


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Turn the figures into plain JSON values; answers are in answers.jsonl."""
    values = asdict(evaluation)
    del values["worst"]
    counted = {
        truth: [{"answer": answer, "count": count} for answer, count in answers.items()]
        for truth, answers in evaluation.confusion.items()
    }
    return values | {"confusion": counted}


def page_json(page: ScoredPage) -> str:
    """Write one line of answers.jsonl."""
    return json.dumps(asdict(page), ensure_ascii=False) + "\n"


def score_table(evaluation: Evaluation) -> Table:
    """Lay the scores out for a terminal."""
    from rich.table import Table

    table = Table("measure", "value", "95 % interval", "over", title=_title(evaluation))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in _score_rows(evaluation.scores):
        table.add_row(*row)
    return table


def confusion_table(evaluation: Evaluation) -> Table:
    """Lay out which labels were taken for which."""
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
    with (folder / WORST).open("w", encoding="utf-8", newline="\n") as file:
        file.write(page_start(_title(evaluation), evaluation.language))
        file.write(f"<header><h1>{escape(_title(evaluation))}</h1>{_score_html(evaluation.scores)}</header>\n")
        file.writelines(map(_page_html, evaluation.worst))
        file.write(PAGE_END)


def differences(truth: str, answer: str) -> tuple[str, str]:
    """Write both as HTML; what is missing from the answer is marked in the truth, what is too much in the answer."""
    if max(len(truth), len(answer)) > LONGEST_COMPARED:
        return escape(truth), escape(answer)
    left, right = [], []
    for kind, start, end, from_, to in SequenceMatcher(None, truth, answer, autojunk=False).get_opcodes():
        same = kind == "equal"
        left.append(_marked("del", truth[start:end], same))
        right.append(_marked("ins", answer[from_:to], same))
    return "".join(left), "".join(right)


def _marked(tag: str, text: str, same: bool) -> str:
    if same or not text:
        return escape(text)
    # A lone line break would be marked invisibly.
    return f"<{tag}>{escape(text).replace(chr(10), '⏎' + chr(10))}</{tag}>"


def _page_html(page: ScoredPage) -> str:
    wrong = [answer for answer in page.answers if _is_wrong(answer)]
    body = "\n".join(map(_answer_html, wrong))
    heading = f'<h2>{escape(page.source)} <span class="dim">{page.loss:.1%}</span></h2>'
    return f"<article>\n{_picture(page.source)}<section>\n{heading}\n{body}\n</section>\n</article>\n"


def _is_wrong(answer: ScoredAnswer) -> bool:
    return any(part != (0 if name in LOWER_IS_BETTER else whole) for name, (part, whole) in answer.scores.items())


def _answer_html(answer: ScoredAnswer) -> str:
    truth, given = differences(answer.truth, answer.answer or "")
    notes = ""
    if answer.error is not None:
        notes = f'<p class="error"><strong>{escape(answer.error.code)}</strong>: {escape(answer.error.message)}</p>'
    elif answer.finish not in ("stop", "tool_calls"):
        notes = f'<p class="warning">{escape(str(answer.finish))}</p>'
    question = f"<p>{escape(answer.question)}</p>" if answer.question else ""
    return (
        f"<div><h3>{answer.task}</h3>{question}{notes}"
        f'<div class="pair"><pre>{truth}</pre><pre>{given}</pre></div></div>'
    )


def _picture(source: str) -> str:
    try:
        return picture_html(data_uri(Image.load(source)), source)
    except Glm4vError:  # a page that cannot be read is among the worst; its error is shown instead
        return ""


def _score_html(scores: Mapping[str, Score]) -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in _score_rows(scores)
    )
    return f"<table><tr><th>measure</th><th>value</th><th>95 % interval</th><th>over</th></tr>\n{rows}</table>"


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
