"""Files below folders, in natural order, and by what a file is known to be unchanged."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from glm4v_core.media.page_options import PageOptions

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pdf"})
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
_NAMED = 5
"""Files that a warning lists by name."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """The files below some paths.

    Attributes:
        skipped: files in folders that are neither pictures nor PDF.
    """

    files: tuple[Path, ...]
    skipped: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Size and modification time of a file; a file with an equal stamp counts as unchanged and is not opened.

    Attributes:
        modified: ISO time; empty when the file does not exist or cannot be looked at.
    """

    bytes: int = 0
    modified: str = ""

    @classmethod
    def of(cls, file: Path) -> FileStamp:
        try:
            status = file.stat()
        except (OSError, ValueError):  # ValueError: a null character in the path
            return cls()
        return cls(status.st_size, datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="microseconds"))


def absolute_path(path: str | os.PathLike[str]) -> Path:
    """Write a path so that it is the same whatever folder it is named from; it need not exist, and links stay."""
    return Path(os.path.normpath(Path(path).absolute()))


def find_files(paths: Sequence[Path]) -> Found:
    """List named files as they are, and folders recursively, without hidden files, in natural order (2 before 10).

    A path that does not exist and a folder that cannot be listed stay in the list; reading them fails.
    """
    files: list[Path] = []
    skipped: list[Path] = []
    for path in paths:
        if not _is_folder(path):
            files.append(path)
            continue
        closed: list[Path] = []
        for file in sorted([*_walk(path, closed), *closed], key=_natural):
            (files if file in closed or file.suffix.lower() in SUFFIXES else skipped).append(file)
    return Found(tuple(files), tuple(skipped))


def find_scans(paths: Paths) -> tuple[Path, ...]:
    """List named files, and the pictures and PDFs in folders; a warning in the log names the other files in them."""
    found = find_files([Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)])
    if found.skipped:
        names = ", ".join(map(str, found.skipped[:_NAMED])) + (", ..." if len(found.skipped) > _NAMED else "")
        _log.warning("%d files are neither pictures nor PDF and are not read: %s", len(found.skipped), names)
    return found.files


def pages_wanted(count: int, options: PageOptions) -> int:
    """Return how many pages are read of a document that has `count`."""
    frames = options.get("frames", "all")
    return count if frames == "all" else min(count, 1 if frames == "first" else frames)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # access is denied, or the name is impossible
        return False


def _walk(folder: Path, closed: list[Path]) -> Iterator[Path]:
    """Yield the files below a folder; folders that cannot be listed go into `closed`."""
    for parent, folders, files in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _natural(path: Path) -> list[list[tuple[int, str]]]:
    return [
        [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", part.casefold())]
        for part in path.parts
    ]
