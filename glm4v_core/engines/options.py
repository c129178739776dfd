"""Options that several engines have."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from glm4v_core.errors import UnsupportedError
from glm4v_core.validation import Options


def _refuse_float16(dtype: Any) -> Any:
    if str(dtype) == "float16":
        raise UnsupportedError("float16 overflows in GLM-V models.", hint="Use dtype='bfloat16' or 'float32'.")
    return dtype


def _text_of_path(path: Any) -> Any:
    return os.fspath(path) if isinstance(path, os.PathLike) else path


PathText = Annotated[str, BeforeValidator(_text_of_path)]
"""A path that is passed to a library as text; `Path` objects are accepted and converted."""
Dtype = Annotated[Literal["auto", "float32", "bfloat16"], BeforeValidator(_refuse_float16)]


class RepetitionOptions(Options):
    """The repetition guard: when an answer is ended because it repeats itself.

    Attributes:
        repetition_pattern: length of the longest pattern to look for, in tokens; 0 turns the guard off.
        repetition_repeats: how often a pattern must occur in a row.
        repetition_tokens: minimum number of tokens that these repeats must span.
    """

    repetition_pattern: int = Field(default=64, ge=0)
    repetition_repeats: int = Field(default=8, ge=2)
    repetition_tokens: int = Field(default=96, ge=1)
