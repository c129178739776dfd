"""The questions about a page with known truth, and how each answer is scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from glm4v_core.dialect.families import Family
from glm4v_core.evaluation.metrics import (
    Tally,
    anls,
    character_errors,
    field_f1,
    has_spaced_words,
    is_same,
    normalise,
    word_errors,
)
from glm4v_core.evaluation.truth import Question, ToolTask, Truth
from glm4v_core.media.image import Image
from glm4v_core.tasks import ask, classify, extract, ocr, summarize
from glm4v_core.tasks.prompts import Language
from glm4v_core.types import Completion, Message, Request

ScoredTask = Literal["text", "summary", "label", "fields", "questions", "tools"]
TASKS: tuple[ScoredTask, ...] = ("text", "summary", "label", "fields", "questions", "tools")
LOWER_IS_BETTER = frozenset({"cer", "wer", "failed", "repetition", "length"})


@dataclass(frozen=True, slots=True)
class Probe:
    """One question to a model, with its scoring.

    Attributes:
        task: which kind of question it is.
        request: builds the request about a page.
        truth: the expected answer, as readable text.
        read: converts the completion to the value that `score` takes, or raises an OutputError.
        score: takes None if there is no usable answer, and scores it as empty or wrong.
        question: as readable text; empty if the task is the same for all pages.
    """

    task: ScoredTask
    request: Callable[[Image], Request]
    truth: str
    read: Callable[[Completion], Any]
    score: Callable[[Any], Mapping[str, Tally]]
    question: str = ""


@dataclass(frozen=True, slots=True)
class Prober:
    """Builds the probes of each page.

    Attributes:
        labels: from which the model must choose.
        language: of the prompts.
        tasks: the kinds of probes to build.
        family: may have an OCR prompt.
    """

    labels: Sequence[str]
    language: Language = "en"
    tasks: Sequence[ScoredTask] = TASKS
    family: Family | None = None

    def probes(self, truth: Truth) -> Iterator[Probe]:
        """Yield the probes for everything in the truth that `tasks` includes."""
        for probe in self._all(truth):
            if probe.task in self.tasks:
                yield probe

    def _all(self, truth: Truth) -> Iterator[Probe]:
        if truth.text is not None:
            yield self._text(truth.text)
        if truth.summary is not None:
            yield self._summary(truth.summary)
        if truth.label is not None:
            yield self._label(truth.label)
        if truth.fields:
            yield self._fields(truth.fields)
        yield from (self._question(question) for question in truth.questions)
        yield from (self._tool(task) for task in truth.tools)

    def _text(self, truth: str) -> Probe:
        step = ocr(self.language, family=self.family)
        return Probe("text", step.request, truth, step.read, lambda answer: _score_text(truth, answer or ""))

    def _summary(self, truth: str) -> Probe:
        step = summarize(self.language)
        return Probe("summary", step.request, truth, step.read, lambda answer: _score_short("summary", [truth], answer))

    def _label(self, truth: str) -> Probe:
        step = classify(self.labels, self.language)
        return Probe(
            "label", step.request, truth, step.read, lambda answer: {"label_accuracy": _right(answer == truth)}
        )

    def _fields(self, truth: Mapping[str, Any]) -> Probe:
        step = extract(list(truth), self.language)
        return Probe("fields", step.request, shown(truth), step.read, lambda answer: _score_fields(truth, answer or {}))

    def _question(self, truth: Question) -> Probe:
        step = ask(truth.question)
        return Probe(
            "questions",
            step.request,
            " / ".join(truth.answers),
            step.read,
            lambda answer: _score_short("question", truth.answers, answer),
            truth.question,
        )

    def _tool(self, task: ToolTask) -> Probe:
        def request(image: Image) -> Request:
            return Request((Message.user(image, task.instruction),), tools=(task.tool,), thinking=False)

        wanted = {"name": task.name, "arguments": task.arguments}
        return Probe(
            "tools", request, shown(wanted), _read_call, lambda answer: _score_call(task, answer), task.instruction
        )


def shown(value: Any) -> str:
    """Format a truth or an answer as readable text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)


def _right(is_right: bool) -> Tally:
    return Tally(float(is_right), 1.0)


def _score_text(truth: str, answer: str) -> Mapping[str, Tally]:
    scores = {"cer": character_errors(truth, answer)}
    return scores | {"wer": word_errors(truth, answer)} if has_spaced_words(truth) else scores


def _score_short(name: str, truths: Sequence[str], answer: str | None) -> Mapping[str, Tally]:
    given = answer or ""
    exact = any(is_same(truth, given) for truth in truths)
    return {f"{name}_exact": _right(exact), f"{name}_anls": Tally(anls(truths, given), 1.0)}


def _score_fields(truth: Mapping[str, Any], answer: Mapping[str, Any]) -> Mapping[str, Tally]:
    missing = object()
    right = {name: is_same(value, answer.get(name, missing)) for name, value in truth.items()}
    scores = {"field_exact": Tally(sum(right.values()), len(right)), "field_f1": field_f1(truth, answer)}
    return scores | {f"field_exact.{name}": _right(is_right) for name, is_right in right.items()}


def _read_call(completion: Completion) -> Any:
    calls = [{"name": call.name, "arguments": call.arguments} for call in completion.tool_calls]
    return calls[0] if len(calls) == 1 else calls or completion.text


def _score_call(task: ToolTask, answer: Any) -> Mapping[str, Tally]:
    call = answer if isinstance(answer, dict) else {"name": None, "arguments": None}
    name_right = call["name"] == task.name
    arguments_right = name_right and _plain(call["arguments"]) == _plain(task.arguments)
    return {"tool_name": _right(name_right), "tool_arguments": _right(arguments_right)}


def _plain(value: Any) -> Any:
    """Return a JSON value with all texts normalised."""
    if isinstance(value, str):
        return normalise(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
