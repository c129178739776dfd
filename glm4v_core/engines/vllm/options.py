"""What a caller may set on the vLLM engine, and what becomes of it. Nothing here imports vLLM."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from glm4v_core.errors import ConfigError, UnknownOptionError, UnsupportedError

_LOWEST: Mapping[str, float] = {
    **dict.fromkeys(("max_model_len", "max_image_tokens", "max_images", "max_num_seqs", "max_num_batched_tokens"), 1),
    **dict.fromkeys(("kv_cache_memory_bytes", "max_lora_rank", "tensor_parallel_size", "pipeline_parallel_size"), 1),
    **dict.fromkeys(("data_parallel_size", "repetition_tokens"), 1),
    **dict.fromkeys(("mm_processor_cache_gb", "repetition_pattern", "cpu_offload_gb"), 0),
    "repetition_repeats": 2,
}
_CHOICES: Mapping[str, tuple[str | None, ...]] = {
    "dtype": ("auto", "float32", "bfloat16"),
    "mm_encoder_tp_mode": ("weights", "data"),
}
_OURS = ("max_image_tokens", "max_images", "lora", "revision", "check_memory", "stats", "progress")
_GUARD = ("repetition_pattern", "repetition_repeats", "repetition_tokens")


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """Settings of one loaded model. Those that vLLM has too bear its names; None is vLLM's own default.

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
        pipeline_parallel_size: groups of devices that share the layers.
        data_parallel_size: copies of the model, each with its own devices.
        enable_expert_parallel: spread the experts of the mixture models over devices instead of cutting them.
        max_num_seqs: requests decoded together; more wait in line.
        max_num_batched_tokens: tokens read in one step; more lets several large images in at once.
        mm_processor_cache_gb: memory for pages that were prepared already.
        enable_prefix_caching: reuse keys and values of prompts that begin alike.
        enforce_eager: do not capture CUDA graphs: a faster start, and several times slower answers.
        enable_sleep_mode: allow `VllmEngine.sleep` and `wake_up`; needs a GPU.
        lora: folder of an adapter that every request uses; its rank is read from its configuration.
        max_lora_rank: room for adapters of this rank.
        seed: of draws for which a request gives none.
        revision: branch, tag or commit of a hub id; None is the default branch.
        trust_remote_code: let a legacy checkpoint run its own tokenizer code. `revision` must name the commit.
        check_memory: refuse before loading what cannot fit into the device's memory.
        stats: keep vLLM's metrics; they are registered with prometheus_client, and tell how long requests waited.
        progress: let vLLM draw its progress bars while it reads the weights.
        repetition_pattern: longest pattern, in tokens, that the repetition guard looks for; 0 turns it off.
        repetition_repeats: how many times a pattern must follow itself,
        repetition_tokens: and how many tokens these repeats must span at least, before the answer is ended.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_model_len: int | None = None
    max_image_tokens: int | None = None
    max_images: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    kv_cache_dtype: str | None = None
    quantization: str | None = None
    cpu_offload_gb: float | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    mm_encoder_tp_mode: Literal["weights", "data"] = "weights"
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    mm_processor_cache_gb: float | None = None
    enable_prefix_caching: bool | None = None
    enforce_eager: bool = False
    enable_sleep_mode: bool = False
    lora: str | None = None
    max_lora_rank: int | None = None
    seed: int | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    check_memory: bool = True
    stats: bool = True
    progress: bool = True
    repetition_pattern: int = 64
    repetition_repeats: int = 8
    repetition_tokens: int = 96

    def __post_init__(self) -> None:
        if str(self.dtype) == "float16":
            raise UnsupportedError("float16 overflows in GLM-V models.", hint="Use dtype='bfloat16' or 'float32'.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} must be one of {', '.join(map(repr, choices))}, not {getattr(self, name)!r}."
                )
        for name, minimum in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ConfigError(f"{name} must be at least {minimum}, not {value}.")
        share = self.gpu_memory_utilization
        if share is not None and not 0 < share <= 1:
            raise ConfigError(f"gpu_memory_utilization must lie between 0 and 1, not at {share}.")
        if self.trust_remote_code and not re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            raise ConfigError(
                "trust_remote_code runs code that others can change.",
                hint="Read it, and pin what you read: revision='<the commit's 40 hex digits>'.",
            )

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> VllmOptions:
        """Read keyword arguments.

        Raises:
            UnknownOptionError: a name that is no field of this class.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(options) - {*known, "context"})
        if unknown:
            raise UnknownOptionError(
                f"The vLLM engine has no option {', '.join(unknown)}.", hint=f"It has: context, {', '.join(known)}."
            )
        if "context" in options and "max_model_len" in options:
            raise ConfigError("context and max_model_len are the same.", hint="Leave one of them out.")
        return cls(**{"max_model_len" if name == "context" else name: value for name, value in options.items()})

    def passed_on(self) -> dict[str, Any]:
        """Return what vLLM takes as it is."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None and name not in (*_OURS, *_GUARD)}
