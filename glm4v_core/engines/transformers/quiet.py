"""Hides the progress bars of transformers while a model loads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_one_at_a_time = threading.Lock()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the progress bars that transformers draws in this thread.

    transformers has a single hook for its progress bars, for the whole process. It is replaced during the load and
    restored afterwards. Bars of other threads, and a hook that was already set, still work. Only one load at a time
    replaces the hook; others wait.
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
            if newer is not draw:  # another thread has replaced it meanwhile
                logging.set_tqdm_hook(newer)
