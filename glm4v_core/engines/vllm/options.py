"""Options of the vLLM engine, and those that are passed on to vLLM. Nothing here imports vLLM."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from glm4v_core.engines.options import Dtype, PathText, RepetitionOptions
from glm4v_core.errors import ConfigError

_OURS = {"max_image_tokens", "max_images", "lora", "revision", "check_memory", "stats", "progress"}


class VllmOptions(RepetitionOptions):
    """Options of one loaded model, in addition to those of `RepetitionOptions`.

    Options of vLLM keep vLLM's names; None is vLLM's default.

    Attributes:
        dtype: `auto` is float32 on a CPU and bfloat16 elsewhere. float16 is refused, since these models overflow in it.
        max_model_len: maximum number of tokens of a prompt and its completion together; `context` is another name for
            it. None is the checkpoint's limit.
        max_image_tokens: maximum number of visual tokens per image; larger images are scaled down.
        max_images: maximum number of images in one prompt; None is the family's limit.
        gpu_memory_utilization: share of each device's memory that vLLM takes, between 0 and 1.
        kv_cache_memory_bytes: size of the KV cache on each device, instead of what is left of that share.
        kv_cache_dtype: such as `fp8`, which halves the KV cache.
        quantization: how the weights are quantised, if the checkpoint does not say so, or `fp8` to quantise them while
            loading.
        cpu_offload_gb: size of the weights that are kept in main memory; slow.
        tensor_parallel_size: devices that share each layer. It must divide the 12 heads of the vision encoder, unless
            mm_encoder_tp_mode is `data`.
        pipeline_parallel_size: groups of devices, each with a part of the layers.
        data_parallel_size: copies of the model, each on separate devices.
        enable_expert_parallel: distribute whole experts of a mixture model over the devices instead of splitting each.
        mm_encoder_tp_mode: `weights` splits the vision encoder over the devices; `data` gives each device different
            images.
        max_num_seqs: maximum number of requests decoded together; further requests wait.
        max_num_batched_tokens: maximum number of tokens read in one step; several large images at once need more.
        mm_processor_cache_gb: memory for images that are already preprocessed.
        enable_prefix_caching: reuse keys and values of equal prompt prefixes.
        enforce_eager: do not capture CUDA graphs; loading is faster, but decoding is several times slower.
        enable_sleep_mode: allow `VllmEngine.sleep` and `wake_up`; needs a GPU.
        lora: folder of a LoRA adapter that is used for every request.
        max_lora_rank: maximum rank of the adapter; None reads the rank from the adapter's configuration.
        seed: for sampling when a request has none.
        revision: branch, tag or commit of a hub id; None is the default branch.
        trust_remote_code: allow a legacy checkpoint to run its tokenizer code; `revision` must then be a commit.
        check_memory: estimate before loading whether the model fits into the device's memory, and refuse it if not.
        stats: collect vLLM's metrics, including queue times, and register them with prometheus_client.
        progress: show vLLM's progress bars while it reads the weights.
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
        """Names of all options, including the alias `context`."""
        return ("context", *super().names())

    def passed_on(self) -> dict[str, Any]:
        """Return the options that are passed to vLLM unchanged."""
        return self.model_dump(exclude=_OURS | RepetitionOptions.model_fields.keys(), exclude_none=True)
