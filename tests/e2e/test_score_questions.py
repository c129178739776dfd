"""Scores of questions over a folder are exact for a model whose errors are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from score_questions import ROUTES, questions, score

from glm4v_core import Glm4v, PageStore, Request, ScriptedEngine
from glm4v_core.evaluation.truth import load_truths
from tests.support.letters import width_of, words_of

PARTIES = ("Oslo Ltd", "Turin AG", "Mona Holt", "Glacier Co")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pages from one sender to four parties; page n is n * 28 pixels wide."""
    pages = tmp_path / "pages"
    pages.mkdir()
    for number, party in enumerate(PARTIES, start=1):
        PIL.Image.new("RGB", (28 * number, 28), "white").save(pages / f"{number}.png")
        truth = {
            "text": text_of(number),
            "fields": {"sender": "Heron Trust", "recipient": party, "total": f"{number}.50", "number": None},
            "questions": [
                {"question": "What is the total?", "answer": f"{number}.50"},
                {"question": "Who is it for?", "answer": party},
            ],
        }
        (pages / f"{number}.json").write_text(json.dumps(truth))
    return pages


def text_of(number: int) -> str:
    return f"Heron Trust\nTo: {PARTIES[number - 1]}\nTotal {number}.50"


def number_of(request: Request) -> int:
    words = words_of(request)
    return width_of(request) or next(number for number in (1, 2, 3, 4) if text_of(number) in words)


def test_a_question_names_a_fact_of_one_page_and_asks_for_another(folder: Path) -> None:
    asked = list(questions(load_truths(folder).pages))
    assert [Path(each.source).name for each in asked] == ["1.png", "2.png", "3.png", "4.png"]
    assert [(each.mark, each.question) for each in asked] == [(party, "What is the total?") for party in PARTIES]
    assert asked[0].put("named") == ("Oslo Ltd: What is the total?",) * 2
    assert asked[0].put("apart") == ("Oslo Ltd", "What is the total?")
    assert [each.answers for each in asked] == [["1.50"], ["2.50"], ["3.50"], ["4.50"]]


async def test_known_errors_are_measured_exactly(folder: Path, tmp_path: Path) -> None:
    def reply(request: Request) -> Any:
        words, number = words_of(request), number_of(request)
        if words.startswith("Read"):
            return "unreadable" if number == 4 else text_of(number)
        if words.startswith("Summarize"):
            return "A page."
        if number == 3 and width_of(request) and "Mona Holt: " in words:
            return "3.51"
        return f"{number}.50"

    with PageStore(tmp_path / "pages.sqlite") as store:
        engine = ScriptedEngine(reply)
        scores, done = await score(Glm4v.from_engine(engine), folder, store, resamples=10)
    assert {name: value.value for name, value in scores.items()} == {
        "named: recall@1": 3 / 4,
        "named: recall@3": 3 / 4,
        "named: exact, text": 3 / 4,
        "named: anls, text": (3 + 3 / 4) / 4,
        "named: exact, image": 2 / 4,
        "named: anls, image": (2 + 2 * 3 / 4) / 4,
        "named: exact, both": 2 / 4,
        "named: anls, both": (2 + 2 * 3 / 4) / 4,
        "apart: recall@1": 3 / 4,
        "apart: recall@3": 3 / 4,
        **{f"apart: exact, {route}": 3 / 4 for route in ROUTES},
        **{f"apart: anls, {route}": 3 / 4 for route in ROUTES},
    }
    assert [(answered.form, answered.route) for answered in done[:6]] == [
        (form, route) for form in ("named", "apart") for route in ROUTES
    ]
    assert all(value.whole == 4 for value in scores.values())
