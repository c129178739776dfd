"""Models by configuration, so that equal objects of an adapter, and copies of them, find the one that is loaded.

Hosts copy their model objects at will: LangChain's `configurable_fields` makes a new one for every call, LlamaIndex
rebuilds them from dicts. A copy must neither load the model again nor, when it is gone, take it along.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glm4v_core.model import Glm4v


@dataclass(frozen=True, slots=True)
class Source:
    """What to load. Equal sources share one model."""

    model: str
    engine: str
    options: Mapping[str, Any]


_lock = threading.Lock()
# A list, since options need not be hashable; it holds one entry per model in memory.
_loaded: list[tuple[Source, Glm4v]] = []


def find_or_load(source: Source) -> Glm4v:
    """Return the loaded model, or load it; two threads at once get the same one."""
    if (found := _find(source)) is not None:
        return found
    # Without the lock, or one model would wait for another; the core shares one load among all who ask for it.
    model = Glm4v.load(source.model, source.engine, **source.options)
    with _lock:
        if (found := _look_up(source)) is None:
            _loaded.append((source, model))
            return model
    model.close()
    return found


def close(source: Source) -> None:
    """Give the model back; the next call with an equal source loads it again."""
    with _lock:
        found = _look_up(source)
        _loaded[:] = [entry for entry in _loaded if entry[0] != source]
    if found is not None:
        found.close()


def _find(source: Source) -> Glm4v | None:
    with _lock:
        return _look_up(source)


def _look_up(source: Source) -> Glm4v | None:
    return next((model for known, model in _loaded if known == source), None)
