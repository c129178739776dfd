"""Control tokens in data: text from users, documents and tools must never act as a control token.

A tokenizer turns the characters `<|image|>` into the image token wherever they occur. In a document they would shift
all images of the prompt, and `<|assistant|>` would begin a turn. A space after the first character breaks the token
and keeps the text readable. It cannot create another token, since no control token contains a space.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from glm4v_core.dialect.dialects import Dialect


def neutralise(text: str, dialect: Dialect, *, keep: tuple[str, ...] = ()) -> str:
    """Insert a space into every control token of the dialect in `text`, except those in `keep`."""
    return _control_tokens(dialect, keep).sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def neutralise_all(value: Any, dialect: Dialect) -> Any:
    """Return a copy of a JSON-like value in which control tokens in all strings and keys are broken."""
    if isinstance(value, str):
        return neutralise(value, dialect)
    if isinstance(value, Mapping):
        return {neutralise(str(key), dialect): neutralise_all(item, dialect) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [neutralise_all(item, dialect) for item in value]
    return value


@lru_cache
def _control_tokens(dialect: Dialect, keep: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(token) for token in dialect.control_tokens if token not in keep))
