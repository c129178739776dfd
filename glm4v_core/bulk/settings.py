"""settings.json: the settings of the results in a folder, so that a resumed run uses the same ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glm4v_core.bulk.rows import open_text, writing
from glm4v_core.errors import ConfigError
from glm4v_core.tasks.workflow import Settings

SETTINGS = "settings.json"
_SHOWN = 300
"""Maximum number of characters of a value in a message."""


def check_settings(folder: Path, settings: Settings) -> None:
    """Compare settings, section by section, with those of the earlier run.

    Raises:
        ConfigError: they differ, or the earlier ones cannot be read.
    """
    path = folder / SETTINGS
    try:
        known = json.loads(path.read_bytes())
        differences = list(_differences(known, settings))
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}, which says how the results were made, cannot be read: {error}.",
            hint="Choose another folder (--out), or replace the results (--overwrite).",
        ) from error
    if differences:
        raise ConfigError(
            f"The results in {folder} were made with other settings. {' '.join(differences)}",
            hint="Use the same settings, choose another folder (--out), or replace the results (--overwrite).",
        )


def write_settings(folder: Path, settings: Settings) -> None:
    """Write the settings of the results in this folder."""
    with writing(folder / SETTINGS), open_text(folder / SETTINGS) as file:
        json.dump(settings, file, ensure_ascii=False, indent=1)


def _differences(known: Settings, settings: Settings) -> Iterator[str]:
    for section, values in settings.items():
        before = known.get(section, {})
        for name in {**before, **values}:
            if before.get(name) != values.get(name):
                yield f"{name} was {_shown(before.get(name))} and is {_shown(values.get(name))}."


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
