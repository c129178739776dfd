"""A small embedding model that comes with its weights, for tests of vector stores; it downloads nothing."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import wordllama


@lru_cache
def model() -> Any:
    # The wheel has its tokenizer in a folder that is only searched as a cache.
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)


def embed(texts: list[str]) -> list[list[float]]:
    vectors: list[list[float]] = model().embed(texts, norm=True).tolist()
    return vectors
