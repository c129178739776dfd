"""Options of the transformers engine."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from glm4v_core.engines.options import Dtype, RepetitionOptions


class TransformersOptions(RepetitionOptions):
    """Options of one loaded model, in addition to those of `RepetitionOptions`.

    Attributes:
        device: a torch device or its name, such as `cpu` or `cuda:1`; `auto` is the first accelerator, or the CPU.
        dtype: `auto` is float32 on a CPU and bfloat16 elsewhere. float16 is refused, since these models overflow in it.
        slots: maximum number of requests decoded together; further requests wait.
        cache_bytes: memory for image features and prompt prefixes that are kept for reuse; 0 turns reuse off. None is
            1 GiB on a CPU and a tenth of an accelerator's memory.
        context: maximum number of tokens of a prompt and its completion together; None is the checkpoint's limit.
        max_image_tokens: maximum number of visual tokens per image; larger images are scaled down.
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
