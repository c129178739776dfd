"""Scripted answers for a workflow over the pages of `scans.py`, some of them late or endless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from glm4v_core import Choices, DocumentResult, Request, ScriptedEngine, Text
from glm4v_core.tasks.results import Outcome
from tests.support.scans import ccitt_image, fax_tiff, number_of, read, scanned_pdf

LABELS = ("invoice", "letter")
_TURNS = 100_000
"""How often a scripted answer checks its condition before it gives up."""


def save_scans(folder: Path) -> list[Path]:
    """Write five pages of a TIFF, then two of a PDF."""
    (folder / "a.tif").write_bytes(fax_tiff(5))
    (folder / "b.pdf").write_bytes(scanned_pdf(ccitt_image(6), ccitt_image(7)))
    return [folder / "a.tif", folder / "b.pdf"]


def step_of(request: Request) -> str:
    if isinstance(request.constraint, Choices):
        return "classify"
    part = request.messages[0].parts[1]
    assert isinstance(part, Text)
    return "ocr" if part.text.startswith(("Read", "请逐行")) else "summarize"


def answer(request: Request) -> Any:
    """Read, summarize or classify; odd pages are letters, or the first of the given labels."""
    if isinstance(request.constraint, Choices):
        return request.constraint.options[(number_of(request) + 1) % 2]
    return read(request) if step_of(request) == "ocr" else f"summary of page {number_of(request)}"


def asked(engine: ScriptedEngine, step: str = "ocr") -> list[int]:
    return sorted(number_of(request) for request in engine.history if step_of(request) == step)


def texts(outcomes: Sequence[Outcome]) -> list[str | None]:
    return [outcome.text if isinstance(outcome, DocumentResult) else outcome.error.code for outcome in outcomes]


def first_page_last(finished: list[int], others: int) -> Callable[[Request], Iterator[str]]:
    """Answer, but read page 1 only once `others` pages are read; their numbers go into `finished`."""

    def reply(request: Request) -> Iterator[str]:
        reading, number = step_of(request) == "ocr", number_of(request)
        for _ in range(_TURNS):
            if number > 1 or len(finished) == others or not reading:
                break
            yield ""
        yield answer(request)
        if reading:
            finished.append(number)

    return reply


def only_the_first_page_ends(active: Callable[[], int], pages: int) -> Callable[[Request], Iterator[str]]:
    """Finish page 1 once all pages are being read; the other answers never end."""

    def reply(request: Request) -> Iterator[str]:
        if number_of(request) > 1:
            yield from ["word "] * _TURNS
        for _ in range(_TURNS):
            if active() == pages:
                break
            yield ""
        yield read(request)

    return reply


async def wait_for_cancelled(engine: ScriptedEngine, count: int) -> None:
    """Give the engine loop time to cancel this many requests."""
    for _ in range(5000):
        if len(engine.cancelled) == count:
            return
        await asyncio.sleep(0.001)
