"""vLLM's arguments for one checkpoint, as plain data. Nothing here imports vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glm4v_core.engines.checkpoint.files import CheckpointFiles, read_json
from glm4v_core.engines.vllm.memory import DEFAULT_BATCH, GIB, Plan, weight_bytes
from glm4v_core.engines.vllm.options import VllmOptions

LEGACY_ARCHITECTURE = "GLM4VForCausalLM"
"""What vLLM calls the first generation; its checkpoints name a class of their own code."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks for which vLLM makes room."""
_WIDTHS = {"float32": 4, "bfloat16": 2}


def arguments_of(
    files: CheckpointFiles, options: VllmOptions, *, dtype: str, size: Mapping[str, int]
) -> dict[str, Any]:
    """Write the arguments of vLLM's engine.

    Args:
        size: the image processor's bounds, already narrowed to max_image_tokens.
    """
    family = files.family
    arguments = options.passed_on() | {
        "model": str(files.folder),
        "dtype": dtype,
        "load_format": "safetensors",
        # Room for a video would be taken from keys and values.
        "limit_mm_per_prompt": {"image": options.max_images or family.limits.max_images, "video": 0},
        # The only backend that reads our grammars.
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
        # vLLM takes only this very text for the natural end of a thought, so it must be the closing tag alone.
        opening, closing = family.dialect.think
        arguments["reasoning_config"] = {"reasoning_start_str": opening, "reasoning_end_str": closing}
    if options.lora is not None:
        arguments |= {"enable_lora": True, "max_lora_rank": options.max_lora_rank or _room_for(Path(options.lora))}
    return arguments


def _room_for(adapter: Path) -> int:
    rank = int(read_json(adapter / "adapter_config.json").get("r", 16))
    return next((room for room in LORA_RANKS if room >= rank), rank)


def plan_of(files: CheckpointFiles, options: VllmOptions, *, dtype: str, image_tokens: int) -> Plan:
    """Say how much a device will have to hold."""
    text = files.config.get("text_config") or files.config
    width = _WIDTHS[dtype]
    return Plan(
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
