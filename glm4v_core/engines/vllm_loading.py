"""Loading a checkpoint into vLLM: everything is checked first that can be checked before minutes are spent."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from vllm.config import ReasoningConfig, StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from glm4v_core.engines.checkpoint_files import CheckpointFiles, load_image_processor, read_files
from glm4v_core.engines.fitting import GIB, Shape, check_fit
from glm4v_core.engines.measuring import ImageRuler
from glm4v_core.engines.vllm_arguments import arguments_of, plan_of
from glm4v_core.engines.vllm_options import VllmOptions
from glm4v_core.engines.vllm_support import check_vllm, has_bfloat16
from glm4v_core.errors import ModelLoadError, UnsupportedError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """vLLM with one checkpoint.

    Attributes:
        processor: the image processor whose sizes the ruler measures by.
        image_token: the token that stands for one image in a prompt.
    """

    llm: AsyncLLM
    files: CheckpointFiles
    options: VllmOptions
    processor: Any
    ruler: ImageRuler
    image_token: int


def load_llm(model: str | os.PathLike[str], options: VllmOptions) -> Loaded:
    """Load a folder or a hub id.

    Raises:
        MissingDependencyError: vLLM has a version that was not tested.
        ModelNotFoundError: no such folder, or no such hub id within reach.
        ModelLoadError: the files are incomplete or broken, or the model does not fit.
        UnsupportedError: the checkpoint is of no family that this engine runs, or wants to run code of its own.
    """
    check_vllm()
    files = read_files(model, options.revision)
    if "vllm" not in files.family.engines:
        raise UnsupportedError(f"{files.family.name} does not run on the vllm engine.")
    processor = load_image_processor(files.folder)
    ruler = ImageRuler(processor, options.max_image_tokens)
    dtype = _choose_dtype(options)
    arguments = arguments_of(files, options, dtype=dtype, size=ruler.bounds())
    if options.check_memory:
        _check_memory(files, options, dtype, ruler, processor)
    _log.info("vLLM loads %s in processes of its own.", files.name)
    llm = _start(arguments)
    _log.info("vLLM is ready: context of %d tokens.", llm.vllm_config.model_config.max_model_len)
    image_token = files.tokenizer.convert_tokens_to_ids(files.family.dialect.image_placeholder)
    return Loaded(llm, files, options, processor, ruler, image_token)


def _start(arguments: dict[str, Any]) -> AsyncLLM:
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments | _configurations(arguments)))
    except (ValueError, RuntimeError, OSError, AssertionError) as error:
        raise ModelLoadError(f"vLLM cannot load the model: {error}") from error


def _configurations(arguments: dict[str, Any]) -> dict[str, Any]:
    """Make objects of the arguments that vLLM does not take as plain data."""
    kinds = {"structured_outputs_config": StructuredOutputsConfig, "reasoning_config": ReasoningConfig}
    return {name: kind(**arguments[name]) for name, kind in kinds.items() if name in arguments}


def _choose_dtype(options: VllmOptions) -> str:
    """Choose the same as the transformers engine: float32 on a CPU, bfloat16 elsewhere."""
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


def _check_memory(files: CheckpointFiles, options: VllmOptions, dtype: str, ruler: ImageRuler, processor: Any) -> None:
    memory = current_platform.get_device_total_memory()
    side = processor.patch_size * processor.merge_size
    largest = ruler.bounds()["longest_edge"] // (side**2 * processor.temporal_patch_size)
    plan = plan_of(files, options, dtype=dtype, image_tokens=largest)
    found = check_fit(Shape.of(files.config), plan, memory, share=options.gpu_memory_utilization)
    _log.info("About %.1f of %.1f GiB are needed on each device.", found.total / GIB, memory / GIB)
