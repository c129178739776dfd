"""Loads a checkpoint for the transformers engine, from safetensors only and without running code from it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glm4v_core.dialect.families import Family
from glm4v_core.engines.checkpoint.files import load_image_processor, read_files
from glm4v_core.engines.checkpoint.transcript import Vocabulary, vocabulary_of
from glm4v_core.engines.transformers.attention import adapt
from glm4v_core.engines.transformers.options import TransformersOptions
from glm4v_core.engines.transformers.quiet import without_progress_bars
from glm4v_core.errors import MissingDependencyError, ModelLoadError, UnsupportedError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with its tokenizer and image processor.

    Attributes:
        name: as the caller gave it, a path or hub id.
        family: recognised from the files.
        model: a `...ForConditionalGeneration` of one of the three GLM-V architectures, on its device.
        tokenizer: of transformers.
        image_processor: of transformers, the variant that uses PIL.
        template: the chat template's text; None for a base model.
        stop_token_ids: tokens that end an answer.
    """

    name: str
    family: Family
    model: Any
    tokenizer: Any
    image_processor: Any
    template: str | None
    stop_token_ids: frozenset[int]

    def vocabulary(self) -> Vocabulary:
        """Return the tokens with a special meaning for decoding."""
        return vocabulary_of(self.tokenizer, self.family, self.stop_token_ids, self.model.lm_head.weight.shape[0])


def load_checkpoint(model: str | os.PathLike[str], options: TransformersOptions) -> Checkpoint:
    """Load a checkpoint.

    Args:
        model: a folder or a hub id.
        options: device, dtype and revision.

    Raises:
        ModelNotFoundError: the folder does not exist, or the hub id does not exist or cannot be reached.
        ModelLoadError: the files are incomplete or broken.
        MissingDependencyError: the model needs a newer transformers.
        UnsupportedError: this engine does not support the checkpoint's family or the device, or custom code is needed.
    """
    files = read_files(model, options.revision)
    _check_family(files.family)
    device = choose_device(options.device)
    loaded = _load_model(files.folder, device, choose_dtype(options.dtype, device))
    if loaded.config.image_token_id != files.tokenizer.convert_tokens_to_ids(files.family.dialect.image_placeholder):
        raise ModelLoadError("The image token of the tokenizer differs from the one in the configuration.")
    processor = load_image_processor(files.folder)
    return Checkpoint(
        files.name, files.family, loaded, files.tokenizer, processor, files.template, files.stop_token_ids
    )


def choose_device(name: str) -> torch.device:
    """Return a device by name; "auto" is the first accelerator, or the CPU.

    Raises:
        UnsupportedError: torch cannot use the device.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UnsupportedError(f"torch cannot use the device {name!r}: {error}") from error


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return a dtype by name; "auto" is float32 on a CPU and bfloat16 elsewhere."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch.float32 if name == "float32" else torch.bfloat16


def _check_family(family: Family) -> None:
    import transformers
    from packaging.version import Version

    if "transformers" not in family.engines:
        raise UnsupportedError(f"{family.name} does not run on the transformers engine.")
    needed = family.needs["transformers"]
    if Version(transformers.__version__) < Version(needed):
        raise MissingDependencyError(
            f"{family.name} needs transformers {needed}; {transformers.__version__} is installed.",
            hint=f"pip install 'transformers>={needed}'",
        )


def _load_model(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    try:
        with without_progress_bars():
            model, report = AutoModelForImageTextToText.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"The weights cannot be loaded: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelLoadError(f"The checkpoint lacks {len(missing)} weights, such as {missing[0]}.")
    return adapt(model.to(device))
