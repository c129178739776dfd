"""Sends pieces and errors from the worker to the event loops of the callers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from glm4v_core.types import Piece


class Recipient(Protocol):
    """A request whose caller waits on `events`, a queue that belongs to the event loop `loop`."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def events(self) -> asyncio.Queue[Piece | Exception]: ...


R = TypeVar("R", bound=Recipient)


class Outbox(Generic[R]):
    """Collects the pieces and errors of one step and sends them with one call per event loop."""

    def __init__(self) -> None:
        self._items: list[tuple[R, Piece | Exception]] = []

    def post(self, recipient: R, item: Piece | Exception) -> None:
        """Add an item to the next `send`."""
        self._items.append((recipient, item))

    def send(self) -> list[R]:
        """Send everything that was posted; return the recipients whose event loop is closed."""
        items, self._items = self._items, []
        unreachable: list[R] = []
        for loop in {recipient.loop for recipient, _ in items}:
            own = [(recipient, item) for recipient, item in items if recipient.loop is loop]
            try:
                loop.call_soon_threadsafe(_deliver, own)
            except RuntimeError:  # the loop is closed
                unreachable += [recipient for recipient, _ in own]
        return unreachable


def _deliver(items: Sequence[tuple[R, Piece | Exception]]) -> None:
    for recipient, item in items:
        recipient.events.put_nowait(item)
