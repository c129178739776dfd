"""`glm4v eval`: scores a model, prints the table and writes the reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from glm4v_core.cli.plan import split
from glm4v_core.cli.terminal import progress_bar
from glm4v_core.errors import ConfigError
from glm4v_core.evaluation.probes import TASKS, ScoredTask
from glm4v_core.evaluation.report import (
    ANSWERS,
    EVALUATION,
    WORST,
    confusion_table,
    page_json,
    score_table,
    write_report,
)
from glm4v_core.evaluation.scoring import EvaluationOptions, ScoredPage, evaluate
from glm4v_core.evaluation.truth import load_truths
from glm4v_core.model import Glm4v


def tasks_from(names: Sequence[str] | None) -> tuple[ScoredTask, ...]:
    """Read task names; no names mean every task.

    Raises:
        ConfigError: an unknown task.
    """
    chosen = split(names)
    unknown = [name for name in chosen if name not in TASKS]
    if unknown:
        raise ConfigError(f"There is no task {', '.join(unknown)}.", hint=f"Tasks: {', '.join(TASKS)}.")
    return tuple(task for task in TASKS if task in chosen) if chosen else TASKS


def run_evaluation(
    load: Callable[[], Glm4v], folder: Path, options: EvaluationOptions, out: Path | None, *, overwrite: bool
) -> None:
    """Evaluate with a progress bar; files are written only if `out` is given."""
    truths = load_truths(folder)
    with ExitStack() as stack:
        answers = (
            stack.enter_context(_answers_file(out, overwrite=overwrite).open("w", encoding="utf-8")) if out else None
        )
        model = stack.enter_context(load())
        progress = stack.enter_context(progress_bar())
        bar = progress.add_task("Pages", total=min(len(truths.pages), options.limit or len(truths.pages)))

        def on_page(page: ScoredPage) -> None:
            progress.advance(bar)
            if answers is not None:
                answers.write(page_json(page))

        evaluation = asyncio.run(evaluate(model, truths, options, on_page))
    console = Console()
    console.print(score_table(evaluation))
    if evaluation.confusion:
        console.print(confusion_table(evaluation))
    if evaluation.without_truth:
        console.print(f"{evaluation.without_truth} images have no truth file and were not scored.")
    if out is not None:
        write_report(evaluation, out)
        console.print(f"See {out / WORST}", soft_wrap=True)


def _answers_file(out: Path, *, overwrite: bool) -> Path:
    if (out / EVALUATION).exists() and not overwrite:
        raise ConfigError(f"{out} already holds an evaluation.", hint="Choose another --out, or pass --overwrite.")
    out.mkdir(parents=True, exist_ok=True)
    return out / ANSWERS
