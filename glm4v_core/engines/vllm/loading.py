"""Loads a checkpoint into vLLM. Everything that can be checked is checked first, since loading takes minutes."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import PIL.Image
from vllm.config import ReasoningConfig, StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from glm4v_core.engines.checkpoint.files import CheckpointFiles, load_image_processor, read_files
from glm4v_core.engines.checkpoint.images import ImageSizer, ProcessorSizer, SquareSizer
from glm4v_core.engines.vllm.arguments import arguments_of, plan_of
from glm4v_core.engines.vllm.memory import GIB, Shape, check_fit
from glm4v_core.engines.vllm.options import VllmOptions
from glm4v_core.engines.vllm.support import check_vllm, has_bfloat16
from glm4v_core.errors import ModelLoadError, UnsupportedError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """How a checkpoint processes images.

    Attributes:
        sizer: determines the size of each image.
        patch: side of one patch, in pixels.
        cover: pixels per visual token, over as many frames as the sizer's areas count.
        resample: Pillow's number of the resampling filter.
    """

    sizer: ImageSizer
    patch: int
    cover: int
    resample: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """vLLM with one checkpoint.

    Attributes:
        image_token: id of the token that represents an image in a prompt.
    """

    llm: AsyncLLM
    files: CheckpointFiles
    options: VllmOptions
    vision: VisionConfig
    image_token: int


def load_llm(model: str | os.PathLike[str], options: VllmOptions) -> Loaded:
    """Load a checkpoint; blocks until vLLM is ready.

    Args:
        model: a folder or a hub id.
        options: of the engine.

    Raises:
        MissingDependencyError: the version of vLLM is not supported.
        ModelNotFoundError: the folder does not exist, or the hub id does not exist or cannot be reached.
        ModelLoadError: the files are incomplete or broken, or the model does not fit into memory.
        UnsupportedError: this engine does not support the checkpoint's family or the device, or custom code is needed.
    """
    check_vllm()
    files = read_files(model, options.revision, remote_code=options.trust_remote_code)
    if "vllm" not in files.family.engines:
        raise UnsupportedError(f"{files.family.name} does not run on the vllm engine.")
    vision = _vision_config(files, options)
    dtype = _choose_dtype(options)
    arguments = arguments_of(files, options, dtype=dtype, size=vision.sizer.bounds())
    if options.check_memory:
        _check_memory(files, options, dtype, vision)
    _log.info("vLLM is loading %s in separate processes.", files.name)
    llm = _start(arguments)
    _log.info("vLLM is ready, with a context of %d tokens.", llm.vllm_config.model_config.max_model_len)
    image_token = files.tokenizer.convert_tokens_to_ids(files.family.dialect.image_placeholder)
    return Loaded(llm, files, options, vision, image_token)


def _vision_config(files: CheckpointFiles, options: VllmOptions) -> VisionConfig:
    if files.family.remote_tokenizer:
        config = files.config["vision_config"]
        side, patch = int(config["image_size"]), int(config["patch_size"])
        return VisionConfig(SquareSizer(side, patch), patch, 2 * (2 * patch) ** 2, int(PIL.Image.Resampling.BICUBIC))
    processor = load_image_processor(files.folder)
    sizer = ProcessorSizer(processor, options.max_image_tokens)
    cover = (processor.patch_size * processor.merge_size) ** 2 * processor.temporal_patch_size
    return VisionConfig(sizer, processor.patch_size, cover, int(processor.resample))


def _start(arguments: dict[str, Any]) -> AsyncLLM:
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments | _configurations(arguments)))
    except (ValueError, RuntimeError, OSError, AssertionError) as error:
        raise ModelLoadError(f"vLLM cannot load the model: {error}") from error


def _configurations(arguments: dict[str, Any]) -> dict[str, Any]:
    """Convert the arguments that vLLM does not accept as plain data."""
    kinds = {"structured_outputs_config": StructuredOutputsConfig, "reasoning_config": ReasoningConfig}
    return {name: kind(**arguments[name]) for name, kind in kinds.items() if name in arguments}


def _choose_dtype(options: VllmOptions) -> str:
    """Choose the same dtype as the transformers engine: float32 on a CPU, bfloat16 elsewhere."""
    if options.dtype != "auto":
        return options.dtype
    if current_platform.is_cpu():
        return "float32"
    if not has_bfloat16(current_platform):
        raise UnsupportedError(
            f"{current_platform.get_device_name()} has no bfloat16, and float16 overflows in GLM-V models.",
            hint="Use a GPU of compute capability 8.0 (A100, RTX 30) or later, or dtype='float32'.",
        )
    return "bfloat16"


def _check_memory(files: CheckpointFiles, options: VllmOptions, dtype: str, vision: VisionConfig) -> None:
    memory = current_platform.get_device_total_memory()
    largest = vision.sizer.bounds()["longest_edge"] // vision.cover
    plan = plan_of(files, options, dtype=dtype, image_tokens=largest)
    found = check_fit(Shape.of(files.config), plan, memory, share=options.gpu_memory_utilization)
    _log.info("The model needs about %.1f of %.1f GiB on each device.", found.total / GIB, memory / GIB)
