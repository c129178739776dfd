"""The bundled tiny checkpoint, available without network or configuration."""

from __future__ import annotations

from pathlib import Path

from glm4v_core.errors import ModelNotFoundError

CHECKPOINT = Path(__file__).parent / "checkpoint"


def checkpoint_path() -> Path:
    """Return the folder of the bundled checkpoint.

    Raises:
        ModelNotFoundError: this copy of glm4v does not include it.
    """
    if not (CHECKPOINT / "config.json").is_file():
        raise ModelNotFoundError(
            "This copy of glm4v does not include the tiny checkpoint.",
            hint="Install glm4v from its wheel, or create the files with scripts/train_tiny.py.",
        )
    return CHECKPOINT
