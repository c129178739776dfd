"""The harness scores a scripted engine whose errors are known exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from glm4v_core.engines.scripted import ScriptedAnswer, ScriptedEngine
from glm4v_core.errors import InputError, OutOfMemoryError
from glm4v_core.evaluation.scoring import Evaluation, EvaluationOptions, ScoredPage, evaluate
from glm4v_core.evaluation.truth import load_truths
from glm4v_core.media.image import Image
from glm4v_core.model import Glm4v
from glm4v_core.types import Piece, Request, Text

CALL = "<tool_call>pay\n<arg_key>amount</arg_key>\n<arg_value>{amount}</arg_value>\n</tool_call>"
TOOL = {"name": "pay", "parameters": {"type": "object", "properties": {"amount": {"type": "integer"}}}}
FULL: Mapping[str, Any] = {
    "text": "INVOICE 0017\nTotal 12.50",
    "summary": "An invoice.",
    "label": "invoice",
    "fields": {"number": "0017", "total": "12.50", "due": None},
    "questions": [{"question": "Which number?", "answer": ["0017", "17"]}],
    "tools": [{"tool": TOOL, "instruction": "Pay it.", "name": "pay", "arguments": {"amount": 12}}],
}
RIGHT = {
    "Read": FULL["text"],
    "Summ": "An invoice.",
    "Whic": "invoice",
    "Extr": json.dumps(FULL["fields"]),
    "Q": "17",
    "Pay ": CALL.format(amount=12),
}


class Pages:
    """Builds a folder of pages; page number n is n * 28 pixels wide."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def add(self, truth: Mapping[str, Any] | None, name: str | None = None) -> Path:
        self.count += 1
        path = self.folder / (name or f"{self.count}.png")
        PIL.Image.new("RGB", (28 * self.count, 28), "white").save(path)
        if truth is not None:
            path.with_suffix(".json").write_text(json.dumps(truth), encoding="utf-8")
        return path


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    return Pages(tmp_path)


def kind(request: Request) -> str:
    prompt = request.messages[0].parts[1]
    assert isinstance(prompt, Text)
    return "Q" if "number?" in prompt.text else prompt.text[:4]


def number(request: Request) -> int:
    image = request.messages[0].parts[0]
    assert isinstance(image, Image)
    return image.width // 28


async def score(
    pages: Pages, reply: Callable[[Request], ScriptedAnswer], *, latency: float = 0, **options: Any
) -> tuple[Evaluation, list[ScoredPage], ScriptedEngine]:
    engine, seen = ScriptedEngine(reply, latency=latency), []
    truths = load_truths(pages.folder)
    settings = EvaluationOptions(resamples=50, **options)
    evaluation = await evaluate(Glm4v.from_engine(engine), truths, settings, seen.append)
    return evaluation, seen, engine


def values(evaluation: Evaluation) -> dict[str, float]:
    return {name: score.value for name, score in evaluation.scores.items()}


async def test_all_right(pages: Pages) -> None:
    pages.add(FULL)
    evaluation, (page,), engine = await score(pages, lambda request: RIGHT[kind(request)])
    assert values(evaluation) == {
        "cer": 0,
        "wer": 0,
        "summary_exact": 1,
        "summary_anls": 1,
        "label_accuracy": 1,
        "field_exact": 1,
        "field_f1": 1,
        "field_exact.number": 1,
        "field_exact.total": 1,
        "field_exact.due": 1,
        "question_exact": 1,
        "question_anls": 1,
        "tool_name": 1,
        "tool_arguments": 1,
        "failed": 0,
        "repetition": 0,
        "length": 0,
        "label_macro_f1": 1,
    }
    assert (page.loss, evaluation.worst, evaluation.pages) == (0, (), 1)
    assert (evaluation.model, evaluation.engine) == ("scripted", "scripted")
    assert len(engine.history) == 6
    assert all(request.messages[0].parts[0] == engine.history[0].messages[0].parts[0] for request in engine.history)
    assert all(request.thinking is False for request in engine.history)


async def test_known_errors_are_measured_exactly(pages: Pages) -> None:
    for _ in range(4):
        pages.add(FULL)
    wrong = {
        "Read": "INVOICE 0O17\nTotal 12.5",  # one of 24 characters wrong, one missing; two of four words
        "Summ": "An invoise.",  # one of 11
        "Whic": "letter",
        "Extr": '{"number": "0017", "total": "12.5", "due": "now"}',
        "Q": "0018",  # one of 4
        "Pay ": CALL.format(amount=13),
    }
    evaluation, seen, _ = await score(
        pages,
        lambda request: (wrong if number(request) == 3 else RIGHT)[kind(request)],
        labels=("invoice", "letter"),
    )
    assert values(evaluation) == pytest.approx(
        {
            "cer": 2 / 96,
            "wer": 2 / 16,
            "summary_exact": 3 / 4,
            "summary_anls": (3 + 10 / 11) / 4,
            "label_accuracy": 3 / 4,
            "field_exact": (9 + 1) / 12,
            "field_f1": (3 * 4 + 2) / (3 * 4 + 5),
            "field_exact.number": 1,
            "field_exact.total": 3 / 4,
            "field_exact.due": 3 / 4,
            "question_exact": 3 / 4,
            "question_anls": (3 + 3 / 4) / 4,
            "tool_name": 1,
            "tool_arguments": 3 / 4,
            "failed": 0,
            "repetition": 0,
            "length": 0,
            # invoice: precision 1, recall 3/4; letter was never true.
            "label_macro_f1": (2 * 3 / 7 + 0) / 2,
        }
    )
    assert evaluation.confusion == {"invoice": {"invoice": 3, "letter": 1}}
    assert [Path(page.source).name for page in seen] == ["1.png", "2.png", "3.png", "4.png"]
    assert [Path(page.source).name for page in evaluation.worst] == ["3.png"]
    assert evaluation.worst[0].answers[0].answer == wrong["Read"]


async def test_failures_count_as_wrong(pages: Pages) -> None:
    pages.add(FULL)
    evaluation, (page,), _ = await score(pages, lambda request: OutOfMemoryError("full"))
    found = values(evaluation)
    assert (found["cer"], found["wer"], found["failed"]) == (1, 1, 1)
    # An absent field that was not reported as absent counts as wrong, too.
    assert {name: found[name] for name in ("field_exact", "label_accuracy", "tool_name", "label_macro_f1")} == {
        "field_exact": 0,
        "label_accuracy": 0,
        "tool_name": 0,
        "label_macro_f1": 0,
    }
    assert evaluation.confusion == {"invoice": {None: 1}}
    assert {answer.error.code for answer in page.answers if answer.error} == {"out_of_memory"}


async def test_an_unreadable_page_counts_as_wrong_and_the_others_go_on(pages: Pages) -> None:
    pages.add({"text": "abcd"}).write_bytes(b"\x89PNG\r\n\x1a\n")
    pages.add({"text": "abcd"})
    evaluation, seen, engine = await score(pages, lambda request: "abcd")
    assert values(evaluation)["cer"] == 1 / 2
    assert [answer.error is None for page in seen for answer in page.answers] == [False, True]
    assert len(engine.history) == 1


async def test_the_shares_of_cut_and_looping_answers_are_reported(pages: Pages) -> None:
    for _ in range(4):
        pages.add({"text": "abcd", "label": "a"})

    def reply(request: Request) -> ScriptedAnswer:
        if kind(request) == "Whic":
            return "a" if number(request) > 1 else [Piece("a", 1, (), "length")]
        return [Piece("abcdabcd", 1, (), "repetition")] if number(request) == 2 else "abcd"

    evaluation, seen, _ = await score(pages, reply)
    found = values(evaluation)
    assert (found["repetition"], found["length"], found["failed"]) == (1 / 8, 1 / 8, 1 / 8)
    assert found["cer"] == 4 / 16
    assert seen[0].answers[1].finish == "length"
    assert seen[0].answers[1].error is not None
    assert seen[0].answers[1].error.code == "output_truncated"


async def test_wrong_tool_calls_are_counted(pages: Pages) -> None:
    for _ in range(4):
        pages.add({"tools": FULL["tools"]})
    replies = {
        1: "I will pay.",
        2: CALL.format(amount=12) + "\n" + CALL.format(amount=12),
        3: CALL.format(amount=12).replace("pay", "buy"),
        4: CALL.format(amount=12),
    }
    evaluation, seen, _ = await score(pages, lambda request: replies[number(request)])
    assert (values(evaluation)["tool_name"], values(evaluation)["tool_arguments"]) == (1 / 4, 1 / 4)
    assert seen[0].answers[0].answer == "I will pay."


async def test_nested_arguments_are_compared_after_normalising(pages: Pages) -> None:
    arguments = {"tags": ["Ａ", {"b": "c "}], "count": 2}
    tool = {"name": "pay", "parameters": {"type": "object", "properties": {"tags": {"type": "array"}, "count": {}}}}
    pages.add({"tools": [{"tool": tool, "instruction": "Pay it.", "name": "pay", "arguments": arguments}]})
    call = (
        '<tool_call>pay\n<arg_key>tags</arg_key>\n<arg_value>["A", {"b": "c"}]</arg_value>\n'
        "<arg_key>count</arg_key>\n<arg_value>2</arg_value>\n</tool_call>"
    )
    evaluation, _, _ = await score(pages, lambda request: call)
    assert values(evaluation)["tool_arguments"] == 1


class TestOptions:
    async def test_language_reaches_the_prompts(self, pages: Pages) -> None:
        pages.add({"text": "发票"})
        evaluation, _, engine = await score(pages, lambda request: "发票", language="zh")
        assert engine.history[0].messages[0].parts[1] == Text("请逐行识别图片中的文字，只输出文字。")
        assert "wer" not in evaluation.scores
        assert evaluation.language == "zh"

    async def test_tasks_and_limit(self, pages: Pages) -> None:
        for _ in range(3):
            pages.add(FULL)
        evaluation, seen, engine = await score(
            pages, lambda request: RIGHT[kind(request)], tasks=("label", "questions"), limit=2
        )
        assert evaluation.pages == len(seen) == 2
        assert sorted(map(kind, engine.history)) == ["Q", "Q", "Whic", "Whic"]

    async def test_labels_are_those_of_the_folder(self, pages: Pages) -> None:
        pages.add({"label": "memo"})
        pages.add({"label": "form"})
        _, _, engine = await score(pages, lambda request: "form")
        prompt = engine.history[0].messages[0].parts[1]
        assert isinstance(prompt, Text)
        assert "Labels: form, memo." in prompt.text

    async def test_worst_are_sorted_and_bounded(self, pages: Pages) -> None:
        for _ in range(5):
            pages.add({"text": "aaaaa"})
        evaluation, _, _ = await score(pages, lambda request: "a" * number(request), worst=3)
        assert [Path(page.source).name for page in evaluation.worst] == ["1.png", "2.png", "3.png"]

    async def test_a_run_without_questions_is_refused(self, pages: Pages) -> None:
        pages.add({"text": "a"})
        with pytest.raises(InputError, match="no answers for these tasks"):
            await score(pages, lambda request: "a", tasks=("label",))

    async def test_pages_run_together(self, pages: Pages) -> None:
        for _ in range(6):
            pages.add({"text": "a"})
        _, _, engine = await score(pages, lambda request: "a", concurrency=3, latency=0.5)
        assert 2 <= engine.most_at_once <= 3


class TestTruth:
    def test_images_without_truth_are_reported(self, pages: Pages) -> None:
        named, bare = pages.add(FULL), pages.add(None)
        truths = load_truths(pages.folder)
        assert (list(truths.pages), truths.without) == ([named], (bare,))

    def test_a_folder_without_truth_is_refused(self, pages: Pages) -> None:
        pages.add(None)
        with pytest.raises(InputError, match="no image with a truth file"):
            load_truths(pages.folder)

    @pytest.mark.parametrize("text", ["{", '{"txt": "misspelt"}', '{"questions": [{"question": "?"}]}', "[]"])
    def test_wrong_files_are_named(self, pages: Pages, text: str) -> None:
        path = pages.add(None).with_suffix(".json")
        path.write_text(text)
        with pytest.raises(InputError, match=str(path)):
            load_truths(pages.folder)

    def test_about_may_hold_anything(self, pages: Pages) -> None:
        path = pages.add({"text": "a", "about": {"seed": 7}})
        assert load_truths(pages.folder).pages[path].about == {"seed": 7}
