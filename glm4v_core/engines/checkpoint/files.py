"""The files of a checkpoint that every engine in this process reads: all but the weights.

No code from them is run, but the tokenizer of a legacy checkpoint where the caller asks for it and names the commit.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm4v_core.dialect.families import FAMILIES, Family, recognise
from glm4v_core.errors import ModelLoadError, ModelNotFoundError, UnsupportedError

CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.jinja"]
TOKENIZER_CODE = ["tokenization_*.py", "tokenizer.model"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """What surrounds the weights.

    Attributes:
        config: the content of config.json.
        template: the chat template's text; None for a base model.
        stop_token_ids: tokens that end an answer.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    family: Family
    tokenizer: Any
    template: str | None
    stop_token_ids: frozenset[int]


def read_files(model: str | os.PathLike[str], revision: str | None, *, remote_code: bool = False) -> CheckpointFiles:
    """Read a folder or a hub id.

    Args:
        remote_code: run the tokenizer code of a legacy checkpoint; other checkpoints need none.

    Raises:
        ModelNotFoundError: no such folder, or no such hub id within reach.
        ModelLoadError: the files are incomplete or broken.
        UnsupportedError: the checkpoint is of no known family, or wants to run code of its own.
    """
    folder = find_checkpoint(model, revision, [*CHECKPOINT_FILES, *(TOKENIZER_CODE if remote_code else ())])
    config = read_json(folder / "config.json")
    legacy = any(family.remote_tokenizer and config.get("model_type") in family.model_types for family in FAMILIES)
    if remote_code and legacy:
        _log.warning("The tokenizer of %s runs its own code, commit %s.", model, revision)
    else:
        _refuse_own_code(config)
    tokenizer = _load_tokenizer(folder, remote_code=remote_code and legacy)
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
    family = recognise(config, tokenizer.get_vocab(), template)
    stops = _stop_token_ids(folder, family, tokenizer)
    return CheckpointFiles(str(model), folder, config, family, tokenizer, template, stops)


def find_checkpoint(
    model: str | os.PathLike[str], revision: str | None, patterns: Sequence[str] = CHECKPOINT_FILES
) -> Path:
    """Return the folder of a checkpoint, downloading a hub id when the hub is reachable."""
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"The folder {path} holds no config.json, so it is no checkpoint.")
        return path
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(huggingface_hub.snapshot_download(str(model), revision=revision, allow_patterns=list(patterns)))
    except HFValidationError as error:
        raise ModelNotFoundError(f"There is no folder {model}, and this is no hub id.") from error
    except OSError as error:
        raise ModelNotFoundError(f"{model} is no folder, nor is it cached or reachable on the hub: {error}") from error


def load_image_processor(folder: Path) -> Any:
    """Load the image processor that works on PIL images, so that torchvision is not needed."""
    import transformers

    kind = read_json(folder / "preprocessor_config.json").get("image_processor_type", "")
    plain = str(kind).removesuffix("Fast").removesuffix("Pil")
    if plain not in ("Glm4vImageProcessor", "Glm46VImageProcessor"):
        raise UnsupportedError(f"The image processor {kind!r} is not one of the GLM-V family's.")
    return getattr(transformers, f"{plain}Pil").from_pretrained(folder, local_files_only=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object."""
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
            hint="Use a checkpoint in the transformers format, such as zai-org/GLM-4.1V-9B-Thinking. "
            "For glm-4v-9b, the vllm engine takes trust_remote_code=True with a pinned revision.",
        )


def _load_tokenizer(folder: Path, *, remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelLoadError(f"The tokenizer cannot be loaded: {error}") from error


def _stop_token_ids(folder: Path, family: Family, tokenizer: Any) -> frozenset[int]:
    """Gather what generation_config.json names and what the family's dialect ends a turn with."""
    path = folder / "generation_config.json"
    configured: int | Iterable[int] | None = read_json(path).get("eos_token_id") if path.is_file() else None
    named = {configured} if isinstance(configured, int) else set(configured or ())
    vocabulary = tokenizer.get_vocab()
    return frozenset(named | {vocabulary[token] for token in family.dialect.end_of_turn if token in vocabulary})
