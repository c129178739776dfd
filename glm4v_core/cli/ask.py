"""`glm4v ask`: one question about one picture, answered while it is written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from rich.console import Console

from glm4v_core.media.pages import Page, load_pages
from glm4v_core.model import Glm4v
from glm4v_core.tasks import INCOMPLETE
from glm4v_core.types import Completion, Message, Request, Sampling


def stream_answer(
    load: Callable[[], Glm4v], path: Path, question: str, *, thinking: bool | None, max_tokens: int | None
) -> None:
    """Write the answer to standard output and the rest to standard error; the image is opened before the model."""
    notes = Console(stderr=True, highlight=False)
    page = _first_page(path)
    if page.count > 1:
        notes.print(f"[dim]page 1 of {page.count}[/dim]")
    request = Request(
        (Message.user(page.image, question),), sampling=Sampling(max_tokens=max_tokens), thinking=thinking
    )
    with load() as model:
        completion = _write(model, request, notes)
    if completion.finish in INCOMPLETE:
        notes.print(f"[yellow]The answer is incomplete ({completion.finish}).[/yellow]")


def _write(model: Glm4v, request: Request, notes: Console) -> Completion:
    completion = Completion("")
    with closing(model.stream(request)) as deltas:
        for delta in deltas:
            notes.print(delta.thinking, end="", style="dim", markup=False)
            sys.stdout.write(delta.text)
            sys.stdout.flush()
            completion = delta.completion or completion
    sys.stdout.write("\n")
    return completion


def _first_page(path: Path) -> Page:
    pages: Iterator[Page] = load_pages(path, frames="first")
    return next(pages)
