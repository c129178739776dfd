"""The core's registry of loaded models, under the name by which this package knows it."""

from __future__ import annotations

from glm4v_core.shared import Source, close, find_or_load

__all__ = ["Source", "close", "find_or_load"]
