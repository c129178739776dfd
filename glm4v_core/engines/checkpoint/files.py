"""The files of a checkpoint apart from the weights.

No code in a checkpoint is run, with one exception: the tokenizer of a legacy checkpoint, if the caller allows it and
names the commit.
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
    """A checkpoint without its weights.

    Attributes:
        name: as the caller gave it, a path or hub id.
        config: the content of config.json.
        family: recognised from the files.
        tokenizer: of transformers.
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
    """Read the files of a checkpoint, all but the weights.

    Args:
        model: a folder or a hub id.
        revision: branch, tag or commit of a hub id; None is the default branch.
        remote_code: allow the tokenizer code of a legacy checkpoint to run; other checkpoints do not need it.

    Raises:
        ModelNotFoundError: the folder does not exist, or the hub id does not exist or cannot be reached.
        ModelLoadError: the files are incomplete or broken.
        UnsupportedError: the checkpoint does not belong to a known family, or requires custom code.
    """
    folder = find_checkpoint(model, revision, [*CHECKPOINT_FILES, *(TOKENIZER_CODE if remote_code else ())])
    config = read_json(folder / "config.json")
    legacy = any(family.remote_tokenizer and config.get("model_type") in family.model_types for family in FAMILIES)
    if remote_code and legacy:
        _log.warning("The tokenizer of %s runs code from the checkpoint, commit %s.", model, revision)
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
    """Return the folder of a checkpoint; a hub id is downloaded, or taken from the cache when offline.

    Raises:
        ModelNotFoundError: there is no such folder or hub id, or the folder is not a checkpoint.
    """
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"The folder {path} has no config.json, so it is not a checkpoint.")
        return path
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(huggingface_hub.snapshot_download(str(model), revision=revision, allow_patterns=list(patterns)))
    except HFValidationError as error:
        raise ModelNotFoundError(f"There is no folder {model}, and this is not a valid hub id.") from error
    except OSError as error:
        raise ModelNotFoundError(f"{model} is not a folder, and not cached or available on the hub: {error}") from error


def load_image_processor(folder: Path) -> Any:
    """Load the variant of the image processor that uses PIL, so that torchvision is not needed.

    Raises:
        UnsupportedError: it is not an image processor of the GLM-V family.
    """
    import transformers

    kind = read_json(folder / "preprocessor_config.json").get("image_processor_type", "")
    plain = str(kind).removesuffix("Fast").removesuffix("Pil")
    if plain not in ("Glm4vImageProcessor", "Glm46VImageProcessor"):
        raise UnsupportedError(f"{kind!r} is not an image processor of the GLM-V family.")
    return getattr(transformers, f"{plain}Pil").from_pretrained(folder, local_files_only=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that contains one JSON object.

    Raises:
        ModelLoadError: the file cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path.name} is not a JSON object.")
    return content


def _refuse_own_code(config: dict[str, Any]) -> None:
    if "auto_map" in config:
        raise UnsupportedError(
            "The checkpoint requires custom code (`auto_map` in config.json), which is not run.",
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
    """Return the tokens that generation_config.json or the family's dialect names as stop tokens."""
    path = folder / "generation_config.json"
    configured: int | Iterable[int] | None = read_json(path).get("eos_token_id") if path.is_file() else None
    named = {configured} if isinstance(configured, int) else set(configured or ())
    vocabulary = tokenizer.get_vocab()
    return frozenset(named | {vocabulary[token] for token in family.dialect.end_of_turn if token in vocabulary})
