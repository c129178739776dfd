"""Scores a model on a folder of pages with known truth."""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm4v_core.concurrency.ordered import PAGES_IN_FLIGHT, in_order
from glm4v_core.errors import Failure, Glm4vError, InputError
from glm4v_core.evaluation.metrics import Pair, Score, Tally, confusion, score_all, score_labels
from glm4v_core.evaluation.probes import LOWER_IS_BETTER, TASKS, Probe, Prober, ScoredTask, shown
from glm4v_core.evaluation.truth import Truth, Truths
from glm4v_core.media.image import Image
from glm4v_core.tasks.prompts import Language
from glm4v_core.types import FinishReason

if TYPE_CHECKING:
    from glm4v_core.model import Glm4v


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How to evaluate.

    Attributes:
        language: of the prompts.
        tasks: the kinds of questions to ask.
        labels: to choose from; empty means all labels in the truth files.
        limit: number of pages to score, from the first; None is all.
        concurrency: number of pages processed at once.
        worst: number of worst pages to keep with their answers.
        resamples: number of bootstrap resamples for the intervals.
        seed: of the resamples.
    """

    language: Language = "en"
    tasks: Sequence[ScoredTask] = TASKS
    labels: Sequence[str] = ()
    limit: int | None = None
    concurrency: int = PAGES_IN_FLIGHT
    worst: int = 20
    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One answer with its truth.

    Attributes:
        truth: as readable text.
        answer: as readable text; None if there is no usable answer.
        finish: None if there is no completion.
        error: why there is no usable answer.
        scores: by measure.
    """

    task: ScoredTask
    question: str
    truth: str
    answer: str | None
    finish: FinishReason | None
    error: Failure | None
    scores: Mapping[str, Tally]


@dataclass(frozen=True, slots=True)
class ScoredPage:
    """All answers about one page.

    Attributes:
        loss: mean error over its measures; 0 if all answers are right.
    """

    source: str
    answers: tuple[ScoredAnswer, ...]
    scores: Mapping[str, Tally]
    loss: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        without_truth: images in the folder that could not be scored.
        scores: by measure; see `LOWER_IS_BETTER`.
        confusion: true label to answered label (None: no usable answer) to count.
        worst: pages with errors, the highest loss first.
    """

    model: str
    engine: str
    language: Language
    pages: int
    without_truth: int
    scores: Mapping[str, Score]
    confusion: Mapping[str, Mapping[str | None, int]] = field(default_factory=dict)
    worst: tuple[ScoredPage, ...] = ()


async def evaluate(
    model: Glm4v,
    truths: Truths,
    options: EvaluationOptions = EvaluationOptions(),
    on_page: Callable[[ScoredPage], None] = lambda page: None,
) -> Evaluation:
    """Ask all questions that the truth files answer, and score the answers.

    Args:
        model: loaded, on any engine.
        truths: from `load_truths`.
        options: how to evaluate.
        on_page: called with each page in order.

    Raises:
        InputError: the truth files have nothing for these tasks.
    """
    tallies: list[Mapping[str, Tally]] = []
    labels: list[Pair] = []
    worst: list[ScoredPage] = []
    async for page in score_pages(model, truths, options):
        on_page(page)
        tallies.append(page.scores)
        labels += [(answer.truth, answer.answer) for answer in page.answers if answer.task == "label"]
        worst = heapq.nlargest(options.worst, [*worst, page], key=lambda page: page.loss)
    if not any(tallies):
        raise InputError(
            "The truth files have no answers for these tasks.", hint="Choose other tasks, or complete the files."
        )
    return Evaluation(
        model=model.info.model,
        engine=model.info.engine,
        language=options.language,
        pages=len(tallies),
        without_truth=len(truths.without),
        scores=_scores(tallies, labels, options),
        confusion=confusion(labels),
        worst=tuple(page for page in worst if page.loss > 0),
    )


async def score_pages(model: Glm4v, truths: Truths, options: EvaluationOptions) -> AsyncGenerator[ScoredPage]:
    """Yield the scored pages in order; several are processed at once."""
    labels = options.labels or sorted({truth.label for truth in truths.pages.values() if truth.label is not None})
    prober = Prober(labels, options.language, options.tasks, model.info.family)

    async def work(item: tuple[Path, Image | Failure, Truth]) -> ScoredPage:
        path, image, truth = item
        return await _score_page(model, str(path), image, list(prober.probes(truth)))

    async for page in in_order(_open(truths, options.limit), work, options.concurrency):
        yield page


def _open(truths: Truths, limit: int | None) -> Iterator[tuple[Path, Image | Failure, Truth]]:
    for path, truth in islice(truths.pages.items(), limit):
        try:
            yield path, Image.load(path), truth
        except Glm4vError as error:
            yield path, Failure.of(error), truth


async def _score_page(model: Glm4v, source: str, image: Image | Failure, probes: Sequence[Probe]) -> ScoredPage:
    # The first runs alone, so that the others find the page's prompt prefix in the cache.
    answers = [await _answer(model, image, probe) for probe in probes[:1]]
    answers += await asyncio.gather(*(_answer(model, image, probe) for probe in probes[1:]))
    sums: dict[str, Tally] = defaultdict(lambda: Tally(0, 0))
    for answer in answers:
        for name, (part, whole) in answer.scores.items():
            sums[name] = Tally(sums[name].part + part, sums[name].whole + whole)
    return ScoredPage(source, tuple(answers), dict(sums), _loss(sums))


async def _answer(model: Glm4v, image: Image | Failure, probe: Probe) -> ScoredAnswer:
    value: Any = None
    finish: FinishReason | None = None
    failure = image if isinstance(image, Failure) else None
    if isinstance(image, Image):
        try:
            completion = await model.agenerate(probe.request(image))
            finish = completion.finish
            value = probe.read(completion)
        except Glm4vError as error:
            failure = Failure.of(error)
    endings = {
        "failed": Tally(failure is not None, 1),
        "repetition": Tally(finish == "repetition", 1),
        "length": Tally(finish in ("length", "length_in_thinking"), 1),
    }
    given = None if value is None else shown(value)
    return ScoredAnswer(
        probe.task, probe.question, probe.truth, given, finish, failure, {**probe.score(value), **endings}
    )


def _loss(scores: Mapping[str, Tally]) -> float:
    rates = {name: part / whole for name, (part, whole) in scores.items() if whole}
    losses = [rate if name in LOWER_IS_BETTER else 1 - rate for name, rate in rates.items()]
    return sum(losses) / len(losses) if losses else 0.0


def _scores(
    pages: Sequence[Mapping[str, Tally]], labels: Sequence[Pair], options: EvaluationOptions
) -> Mapping[str, Score]:
    scores = dict(score_all(pages, resamples=options.resamples, seed=options.seed))
    if labels:
        scores["label_macro_f1"] = score_labels(labels, resamples=options.resamples, seed=options.seed)
    return scores
