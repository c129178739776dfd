"""Estimates from its configuration whether a model fits into memory, before minutes are spent on loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm4v_core.errors import ModelLoadError

GIB = 2**30
DEFAULT_SHARE = 0.92
"""Share of a device's memory that vLLM takes by default."""
DEFAULT_BATCH = 8192
"""Maximum number of tokens that vLLM reads in one step by default, on large devices."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers in a configuration that determine the memory.

    Attributes:
        layers: of the language model, like the next six.
        hidden: hidden size.
        heads: query heads.
        kv_heads: key-value heads.
        head: size of one attention head.
        inner: width of the feed-forward layers.
        vocabulary: width of the logits.
        vision_hidden: hidden size of the vision encoder.
        vision_inner: width of the vision encoder's feed-forward layers.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocabulary: int
    vision_hidden: int
    vision_inner: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """Read the content of a config.json of a GLM-V model."""
        text, vision = _modern(config.get("text_config") or config), config.get("vision_config") or {}
        heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
        vision_hidden = int(vision.get("hidden_size", 0))
        return cls(
            layers=int(text["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head=int(text.get("head_dim") or hidden // heads),
            inner=int(text["intermediate_size"]),
            vocabulary=int(text["vocab_size"]),
            vision_hidden=vision_hidden,
            vision_inner=int(vision.get("intermediate_size") or 4 * vision_hidden),
        )


def _modern(text: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the settings of the first generation to their names in later generations."""
    names = {
        "num_layers": "num_hidden_layers",
        "multi_query_group_num": "num_key_value_heads",
        "kv_channels": "head_dim",
        "ffn_hidden_size": "intermediate_size",
        "padded_vocab_size": "vocab_size",
    }
    return {**text, **{names[name]: value for name, value in text.items() if name in names}}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a model is to be loaded.

    Attributes:
        weights: size of all weight files in bytes.
        context: maximum number of tokens of a prompt and its completion together.
        image_tokens: visual tokens of the largest image.
        width: bytes per number in computations.
        kv_width: bytes per number in the KV cache.
        tensor_parallel: devices that share each layer.
        pipeline_parallel: groups of devices, each with a part of the layers.
        batch: maximum number of tokens read in one step.
        offloaded: bytes of weights per device that stay in main memory.
    """

    weights: int
    context: int
    image_tokens: int
    width: int = 2
    kv_width: int = 2
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    batch: int = DEFAULT_BATCH
    offloaded: int = 0


@dataclass(frozen=True, slots=True)
class Needs:
    """Estimated memory on one device, in bytes.

    Attributes:
        weights: the device's part of the weights.
        work: activations during the prefill of a prompt with its largest image.
        context: KV cache of one full context.
    """

    weights: int
    work: int
    context: int

    @property
    def total(self) -> int:
        return self.weights + self.work + self.context


def weight_bytes(folder: Path) -> int:
    """Return the size of a checkpoint's safetensors files in bytes, which is also their size on the device."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def bytes_per_token(shape: Shape, plan: MemoryPlan) -> int:
    """Return the size of one token's keys and values on one device, in bytes."""
    heads = max(1, shape.kv_heads // plan.tensor_parallel)
    layers = -(-shape.layers // plan.pipeline_parallel)
    return 2 * layers * heads * shape.head * plan.kv_width


def needs(shape: Shape, plan: MemoryPlan) -> Needs:
    """Estimate the memory that one device needs for a request that uses the whole context.

    The work space is the larger of two peaks that do not occur together: the feed-forward layer of the vision encoder
    on the largest image, with four patches per token, and that of the language model on a full batch with its logits.
    """
    weights = plan.weights // (plan.tensor_parallel * plan.pipeline_parallel) - plan.offloaded
    seeing = 4 * plan.image_tokens * (6 * shape.vision_hidden + 2 * shape.vision_inner // plan.tensor_parallel)
    reading = plan.batch * (4 * shape.hidden + 2 * shape.inner // plan.tensor_parallel)
    choosing = 256 * shape.vocabulary * 4
    work = max(seeing * plan.width, reading * plan.width + choosing)
    return Needs(max(0, weights), work, plan.context * bytes_per_token(shape, plan))


def check_fit(shape: Shape, plan: MemoryPlan, memory: int, *, share: float | None = None) -> Needs:
    """Check the estimate against the memory of one device.

    Args:
        shape: of the model.
        plan: how it is to be loaded.
        memory: of one device, in bytes.
        share: of this memory that vLLM may use; None is vLLM's default.

    Raises:
        ModelLoadError: the model does not fit; the hint says what would help.
    """
    found = needs(shape, plan)
    room = int(memory * (DEFAULT_SHARE if share is None else share))
    if found.total <= room:
        return found
    message = (
        f"The model does not fit: {_gib(found.weights)} for weights, {_gib(found.work)} for activations and "
        f"{_gib(found.context)} for a context of {plan.context} tokens are {_gib(found.total)}, "
        f"but vLLM may use {_gib(room)} of each device."
    )
    raise ModelLoadError(message, hint=_advice(shape, plan, found, room))


def _advice(shape: Shape, plan: MemoryPlan, found: Needs, room: int) -> str:
    tokens = (room - found.weights - found.work) // bytes_per_token(shape, plan)
    if tokens >= 1024:
        return (
            f"Set max_model_len={tokens // 1024 * 1024} or less, or kv_cache_dtype='fp8'; smaller images "
            "(max_image_tokens) leave more of it to text. check_memory=False skips this estimate."
        )
    advice = [] if plan.weights <= room else ["an FP8 or AWQ checkpoint, or quantization='fp8'"]
    advice.append(f"tensor_parallel_size={2 * plan.tensor_parallel} on more devices")
    if found.work > found.weights // 4:
        advice.append("max_image_tokens=1024 and a smaller max_num_batched_tokens")
    return f"What helps: {'; '.join(advice)}; a smaller model. check_memory=False skips this estimate."


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
