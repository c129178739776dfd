"""Loading a checkpoint for the transformers engine: safetensors only, no code from the checkpoint."""

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
    """A loaded model with what is needed to talk to it.

    Attributes:
        model: a `...ForConditionalGeneration` of one of the three GLM-V architectures, on its device.
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
        """Gather the tokens that mean something to the decode loop."""
        return vocabulary_of(self.tokenizer, self.family, self.stop_token_ids, self.model.lm_head.weight.shape[0])


def load_checkpoint(model: str | os.PathLike[str], options: TransformersOptions) -> Checkpoint:
    """Load a folder or a hub id.

    Raises:
        ModelNotFoundError: no such folder, or no such hub id within reach.
        ModelLoadError: the files are incomplete, broken, or need newer libraries.
        UnsupportedError: the checkpoint is of no family that this engine runs, or wants to run code of its own.
    """
    files = read_files(model, options.revision)
    _check_family(files.family)
    device = choose_device(options.device)
    loaded = _load_model(files.folder, device, choose_dtype(options.dtype, device))
    if loaded.config.image_token_id != files.tokenizer.convert_tokens_to_ids(files.family.dialect.image_placeholder):
        raise ModelLoadError("The tokenizer's image token is not the one that the configuration names.")
    processor = load_image_processor(files.folder)
    return Checkpoint(
        files.name, files.family, loaded, files.tokenizer, processor, files.template, files.stop_token_ids
    )


def choose_device(name: str) -> torch.device:
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UnsupportedError(f"torch cannot use the device {name!r}: {error}") from error


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
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
