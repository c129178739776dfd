"""Finding the files of a loader or a graph."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from glm4v_core import find_files

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
_NAMED = 5
"""Files that a warning lists by name."""

_log = logging.getLogger(__name__)


def find_scans(paths: Paths) -> tuple[Path, ...]:
    """List files as they are, and pictures and PDFs in folders; a warning names what else these hold."""
    found = find_files([Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)])
    if found.skipped:
        names = ", ".join(map(str, found.skipped[:_NAMED])) + (", ..." if len(found.skipped) > _NAMED else "")
        _log.warning("%d files are neither pictures nor PDF and are not read: %s", len(found.skipped), names)
    return found.files
