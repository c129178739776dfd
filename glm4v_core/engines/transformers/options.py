"""What a caller may set on the transformers engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from glm4v_core.errors import ConfigError, UnknownOptionError, UnsupportedError


@dataclass(frozen=True, slots=True)
class TransformersOptions:
    """Settings of one loaded model.

    Attributes:
        device: a torch device such as `cpu` or `cuda:1`; `auto` takes the first accelerator.
        dtype: `auto` is float32 on a CPU and bfloat16 elsewhere. float16 is refused: this family overflows in it.
        slots: requests decoded together; more wait in line.
        cache_bytes: bound on the memory that holds image features and prompt prefixes for reuse; 0 turns reuse off.
            None is 1 GiB on a CPU and a tenth of an accelerator's memory.
        context: tokens that a prompt and its completion may hold together; None is the checkpoint's own limit.
        max_image_tokens: visual tokens one image may take; larger images are scaled down.
        revision: branch, tag or commit of a hub id; None is the default branch.
        repetition_pattern: longest pattern, in tokens, that the repetition guard looks for; 0 turns it off.
        repetition_repeats: how many times a pattern must follow itself,
        repetition_tokens: and how many tokens these repeats must span at least, before the answer is ended.
    """

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    slots: int = 16
    cache_bytes: int | None = None
    context: int | None = None
    max_image_tokens: int | None = None
    revision: str | None = None
    repetition_pattern: int = 64
    repetition_repeats: int = 8
    repetition_tokens: int = 96

    def __post_init__(self) -> None:
        if str(self.dtype) == "float16":
            raise UnsupportedError("float16 overflows in GLM-V models.", hint="Use dtype='bfloat16' or 'float32'.")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"dtype must be 'auto', 'float32' or 'bfloat16', not {self.dtype!r}.")
        lowest = {"slots": 1, "cache_bytes": 0, "context": 1, "max_image_tokens": 1, "repetition_pattern": 0}
        lowest |= {"repetition_repeats": 2, "repetition_tokens": 1}
        for name, minimum in lowest.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ConfigError(f"{name} must be at least {minimum}, not {value}.")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> TransformersOptions:
        """Read keyword arguments.

        Raises:
            UnknownOptionError: a name that is no field of this class.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise UnknownOptionError(
                f"The transformers engine has no option {', '.join(unknown)}.", hint=f"It has: {', '.join(known)}."
            )
        return cls(**options)
