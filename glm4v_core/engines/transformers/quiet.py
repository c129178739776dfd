"""Keeps transformers' progress bars off the terminal while one of our models loads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_one_at_a_time = threading.Lock()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the bars that transformers draws in this thread.

    transformers has one hook for all its bars, in the whole process. It is borrowed for the time of the load, leaves
    the bars of other threads and another one's hook in effect, and is given back. Loads wait for each other.
    """
    from transformers.utils import logging

    here = threading.get_ident()
    before: Any = None

    def draw(factory: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        shown = {**options, "disable": True} if threading.get_ident() == here else options
        return factory(*args, **shown) if before is None else before(factory, args, shown)

    with _one_at_a_time:
        before = logging.set_tqdm_hook(draw)
        try:
            yield
        finally:
            newer = logging.set_tqdm_hook(before)
            if newer is not draw:  # somebody else's by now
                logging.set_tqdm_hook(newer)
