"""Builds vLLM's arguments for one checkpoint, as plain data. Nothing here imports vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glm4v_core.engines.checkpoint.files import CheckpointFiles, read_json
from glm4v_core.engines.vllm.memory import DEFAULT_BATCH, GIB, MemoryPlan, weight_bytes
from glm4v_core.engines.vllm.options import VllmOptions

LEGACY_ARCHITECTURE = "GLM4VForCausalLM"
"""vLLM's name for the first generation, whose checkpoints name a class in their custom code instead."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for the maximum rank of LoRA adapters."""
_WIDTHS = {"float32": 4, "bfloat16": 2}


def arguments_of(
    files: CheckpointFiles, options: VllmOptions, *, dtype: str, size: Mapping[str, int]
) -> dict[str, Any]:
    """Return the arguments of vLLM's engine.

    Args:
        files: of the checkpoint.
        options: of the engine.
        dtype: "float32" or "bfloat16".
        size: the image processor's bounds, already limited to max_image_tokens.
    """
    family = files.family
    arguments = options.passed_on() | {
        "model": str(files.folder),
        "dtype": dtype,
        "load_format": "safetensors",
        # vLLM would reserve memory for a video, which would then be missing for the KV cache.
        "limit_mm_per_prompt": {"image": options.max_images or family.limits.max_images, "video": 0},
        # The only backend that supports our grammars.
        "structured_outputs_config": {"backend": "guidance"},
        "disable_log_stats": not options.stats,
        "use_tqdm_on_load": options.progress,
    }
    if family.remote_tokenizer:
        arguments |= {"limit_mm_per_prompt": {"image": 1}, "hf_overrides": {"architectures": [LEGACY_ARCHITECTURE]}}
    elif options.max_image_tokens is not None:
        arguments["mm_processor_kwargs"] = {"size": dict(size)}
    if family.biased_attention and "attention_bias" not in files.config.get("text_config", {}):
        arguments["hf_overrides"] = {"text_config": {"attention_bias": True}}
    if family.dialect.think is not None:
        # vLLM recognises the natural end of the reasoning by exactly this text, so it must be the closing tag only.
        opening, closing = family.dialect.think
        arguments["reasoning_config"] = {"reasoning_start_str": opening, "reasoning_end_str": closing}
    if options.lora is not None:
        arguments |= {"enable_lora": True, "max_lora_rank": options.max_lora_rank or _room_for(Path(options.lora))}
    return arguments


def _room_for(adapter: Path) -> int:
    """Return the smallest maximum rank that fits an adapter."""
    rank = int(read_json(adapter / "adapter_config.json").get("r", 16))
    return next((room for room in LORA_RANKS if room >= rank), rank)


def plan_of(files: CheckpointFiles, options: VllmOptions, *, dtype: str, image_tokens: int) -> MemoryPlan:
    """Return what the memory estimate depends on.

    Args:
        files: of the checkpoint.
        options: of the engine.
        dtype: "float32" or "bfloat16".
        image_tokens: visual tokens of the largest image.
    """
    text = files.config.get("text_config") or files.config
    width = _WIDTHS[dtype]
    return MemoryPlan(
        weights=weight_bytes(files.folder),
        context=options.max_model_len or int(text.get("max_position_embeddings") or files.family.context),
        image_tokens=image_tokens,
        width=width,
        kv_width=1 if (options.kv_cache_dtype or "").startswith("fp8") else width,
        tensor_parallel=options.tensor_parallel_size,
        pipeline_parallel=options.pipeline_parallel_size,
        batch=options.max_num_batched_tokens or DEFAULT_BATCH,
        offloaded=int((options.cpu_offload_gb or 0) * GIB),
    )
