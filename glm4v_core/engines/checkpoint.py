"""Loading a checkpoint for the transformers engine: safetensors only, no code from the checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glm4v_core.engines.decoding import Vocabulary
from glm4v_core.engines.options import TransformersOptions
from glm4v_core.engines.quiet import without_progress_bars
from glm4v_core.engines.slots import ATTENTION
from glm4v_core.engines.text import TokenBytes
from glm4v_core.engines.vision import PatchProjection
from glm4v_core.errors import MissingDependencyError, ModelLoadError, ModelNotFoundError, UnsupportedError
from glm4v_core.families import Family, recognise

CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.jinja"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with what is needed to talk to it.

    Attributes:
        model: a `...ForConditionalGeneration` of one of the three GLM-V architectures, on its device.
        template: the chat template's text; None for a base model.
        ends: tokens that end an answer.
    """

    name: str
    family: Family
    model: Any
    tokenizer: Any
    image_processor: Any
    template: str | None
    ends: frozenset[int]

    def vocabulary(self) -> Vocabulary:
        """Gather the tokens that mean something to the decode loop."""
        dialect = self.family.dialect
        think = None
        if dialect.think is not None:
            opening, closing = self.tokenizer.convert_tokens_to_ids(list(dialect.think))
            think = (opening, closing)
        closing_text = self.tokenizer(dialect.end_thinking, add_special_tokens=False)["input_ids"]
        size = self.model.lm_head.weight.shape[0]
        return Vocabulary(TokenBytes(self.tokenizer), self.ends, think, tuple(closing_text), size)


def load_checkpoint(model: str | os.PathLike[str], options: TransformersOptions) -> Checkpoint:
    """Load a folder or a hub id.

    Raises:
        ModelNotFoundError: no such folder, or no such hub id within reach.
        ModelLoadError: the files are incomplete, broken, or need newer libraries.
        UnsupportedError: the checkpoint is of no family that this engine runs, or wants to run code of its own.
    """
    folder = find_checkpoint(model, options.revision)
    config = _read_json(folder / "config.json")
    _refuse_own_code(config)
    tokenizer = _load_tokenizer(folder)
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
    family = recognise(config, tokenizer.get_vocab(), template)
    _check_family(family)
    device = choose_device(options.device)
    loaded = _load_model(folder, device, choose_dtype(options.dtype, device))
    if loaded.config.image_token_id != tokenizer.convert_tokens_to_ids(family.dialect.image_placeholder):
        raise ModelLoadError("The tokenizer's image token is not the one that the configuration names.")
    ends = _end_tokens(loaded.generation_config.eos_token_id, family, tokenizer)
    return Checkpoint(str(model), family, loaded, tokenizer, _load_image_processor(folder), template, ends)


def find_checkpoint(model: str | os.PathLike[str], revision: str | None) -> Path:
    """Return the folder of a checkpoint, downloading a hub id when the hub is reachable."""
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"The folder {path} holds no config.json, so it is no checkpoint.")
        return path
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(huggingface_hub.snapshot_download(str(model), revision=revision, allow_patterns=CHECKPOINT_FILES))
    except HFValidationError as error:
        raise ModelNotFoundError(f"There is no folder {model}, and this is no hub id.") from error
    except OSError as error:
        raise ModelNotFoundError(f"{model} is no folder, nor is it cached or reachable on the hub: {error}") from error


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


def adapt(model: Any) -> Any:
    """Put the engine's attention and patch projection into a model."""
    model.model.language_model.set_attn_implementation(ATTENTION)
    embedding = model.model.visual.patch_embed
    if not isinstance(embedding.proj, PatchProjection):
        embedding.proj = PatchProjection(embedding.proj)
    return model.eval()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path.name} is no JSON object.")
    return content


def _refuse_own_code(config: dict[str, Any]) -> None:
    if "auto_map" in config:
        raise UnsupportedError(
            "The checkpoint wants to run code of its own (`auto_map` in config.json), which stays off.",
            hint="Use a checkpoint in the transformers format, such as zai-org/GLM-4.1V-9B-Thinking.",
        )


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


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelLoadError(f"The tokenizer cannot be loaded: {error}") from error


def _load_image_processor(folder: Path) -> Any:
    """Load the image processor that works on PIL images, so that torchvision is not needed."""
    import transformers

    kind = _read_json(folder / "preprocessor_config.json").get("image_processor_type", "")
    plain = str(kind).removesuffix("Fast").removesuffix("Pil")
    if plain not in ("Glm4vImageProcessor", "Glm46VImageProcessor"):
        raise UnsupportedError(f"The image processor {kind!r} is not one of the GLM-V family's.")
    return getattr(transformers, f"{plain}Pil").from_pretrained(folder, local_files_only=True)


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


def _end_tokens(configured: int | Iterable[int] | None, family: Family, tokenizer: Any) -> frozenset[int]:
    ends = {configured} if isinstance(configured, int) else set(configured or ())
    vocabulary = tokenizer.get_vocab()
    return frozenset(ends | {vocabulary[token] for token in family.dialect.end_of_turn if token in vocabulary})
