"""What a caller may set on the vLLM engine, and what is passed on to vLLM. Nothing here imports vLLM."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from glm4v_core.engines.options import Dtype, PathText, RepetitionOptions
from glm4v_core.errors import ConfigError

_OURS = {"max_image_tokens", "max_images", "lora", "revision", "check_memory", "stats", "progress"}


class VllmOptions(RepetitionOptions):
    """Settings of one loaded model, with those of `RepetitionOptions`.

    Options that vLLM has too have its names; None is vLLM's own default.

    Attributes:
        dtype: `auto` is the checkpoint's own. float16 is refused: this family overflows in it.
        max_model_len: tokens that a prompt and its completion may hold together; `context` is another name for it.
            None is the checkpoint's own limit.
        max_image_tokens: visual tokens one image may take; larger images are scaled down.
        max_images: images one prompt may show; None is the family's limit.
        gpu_memory_utilization: share of each device's memory that vLLM takes, between 0 and 1.
        kv_cache_memory_bytes: memory for keys and values on each device, instead of what is left of that share.
        kv_cache_dtype: such as `fp8`, which halves that memory.
        quantization: how the weights are quantised, where the checkpoint does not say, or `fp8` to do it while loading.
        cpu_offload_gb: weights kept in the computer's own memory; slow.
        tensor_parallel_size: devices that share each layer. The 12 heads of the vision encoder must be divisible by it,
            unless mm_encoder_tp_mode is `data`: then each device encodes images of its own.
        pipeline_parallel_size: groups of devices, each with a part of the layers.
        data_parallel_size: copies of the model, each with its own devices.
        enable_expert_parallel: spread the experts of mixture models over devices instead of splitting each.
        max_num_seqs: requests decoded together; further ones wait.
        max_num_batched_tokens: tokens read in one step; more lets several large images in at once.
        mm_processor_cache_gb: memory for pages that are already prepared.
        enable_prefix_caching: reuse keys and values of equal prompt prefixes.
        enforce_eager: do not capture CUDA graphs: a faster start, but answers several times slower.
        enable_sleep_mode: allow `VllmEngine.sleep` and `wake_up`; needs a GPU.
        lora: folder of an adapter that every request uses; its rank is read from its configuration.
        max_lora_rank: room for adapters of this rank.
        seed: for sampling when a request has none.
        revision: branch, tag or commit of a hub id; None is the default branch.
        trust_remote_code: let a legacy checkpoint run its own tokenizer code. `revision` must name the commit.
        check_memory: refuse, before loading, a model that cannot fit into the device's memory.
        stats: keep vLLM's metrics; they are registered with prometheus_client and include queue times.
        progress: let vLLM draw its progress bars while it reads the weights.
    """

    owner: ClassVar[str] = "The vLLM engine"

    dtype: Dtype = "auto"
    max_model_len: PositiveInt | None = None
    max_image_tokens: PositiveInt | None = None
    max_images: PositiveInt | None = None
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    kv_cache_memory_bytes: PositiveInt | None = None
    kv_cache_dtype: str | None = None
    quantization: str | None = None
    cpu_offload_gb: float | None = Field(default=None, ge=0)
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    data_parallel_size: PositiveInt = 1
    enable_expert_parallel: bool = False
    mm_encoder_tp_mode: Literal["weights", "data"] = "weights"
    max_num_seqs: PositiveInt | None = None
    max_num_batched_tokens: PositiveInt | None = None
    mm_processor_cache_gb: float | None = Field(default=None, ge=0)
    enable_prefix_caching: bool | None = None
    enforce_eager: bool = False
    enable_sleep_mode: bool = False
    lora: PathText | None = None
    max_lora_rank: PositiveInt | None = None
    seed: int | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    check_memory: bool = True
    stats: bool = True
    progress: bool = True

    @model_validator(mode="before")
    @classmethod
    def _read_context(cls, given: dict[str, Any]) -> dict[str, Any]:
        if "context" not in given:
            return given
        if "max_model_len" in given:
            raise ConfigError("context and max_model_len are the same.", hint="Leave one of them out.")
        return {"max_model_len" if name == "context" else name: value for name, value in given.items()}

    @model_validator(mode="after")
    def _check_remote_code(self) -> Self:
        if self.trust_remote_code and not re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            raise ConfigError(
                "trust_remote_code runs code that others can change.",
                hint="Read it, and pin what you read: revision='<the commit's 40 hex digits>'.",
            )
        return self

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return ("context", *super().names())

    def passed_on(self) -> dict[str, Any]:
        """Return the arguments that vLLM takes unchanged."""
        return self.model_dump(exclude=_OURS | RepetitionOptions.model_fields.keys(), exclude_none=True)
