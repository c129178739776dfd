"""What a caller may set on the transformers engine."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from glm4v_core.engines.options import Dtype, RepetitionOptions


class TransformersOptions(RepetitionOptions):
    """Settings of one loaded model, with those of `RepetitionOptions`.

    Attributes:
        device: a torch device, or its name, such as `cpu` or `cuda:1`; `auto` takes the first accelerator.
        dtype: `auto` is float32 on a CPU and bfloat16 elsewhere. float16 is refused: this family overflows in it.
        slots: requests decoded together; further ones wait.
        cache_bytes: bound on the memory that holds image features and prompt prefixes for reuse; 0 turns reuse off.
            None is 1 GiB on a CPU and a tenth of an accelerator's memory.
        context: tokens that a prompt and its completion may hold together; None is the checkpoint's own limit.
        max_image_tokens: visual tokens one image may take; larger images are scaled down.
        revision: branch, tag or commit of a hub id; None is the default branch.
    """

    owner: ClassVar[str] = "The transformers engine"

    device: Annotated[str, BeforeValidator(str)] = "auto"
    dtype: Dtype = "auto"
    slots: int = Field(default=16, ge=1)
    cache_bytes: int | None = Field(default=None, ge=0)
    context: int | None = Field(default=None, ge=1)
    max_image_tokens: int | None = Field(default=None, ge=1)
    revision: str | None = None
