"""Finds files in folders, in natural order, and detects whether a file has changed."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from glm4v_core.errors import ImageNotFoundError, InputError
from glm4v_core.media.page_options import PageOptions

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pdf"})
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
_NAMED = 5
"""Maximum number of files that a warning lists by name."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """The files found under some paths.

    Attributes:
        files: named files, and pictures and PDFs in folders.
        skipped: files in folders that are neither pictures nor PDFs.
    """

    files: tuple[Path, ...]
    skipped: tuple[Path, ...]

    def check(self) -> None:
        """Raise an InputError if there is nothing to read."""
        if not self.files:
            raise InputError("No picture or PDF file was found.", hint="Pass files, or folders that contain them.")


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Size and modification time of a file; a file with an equal stamp counts as unchanged.

    Attributes:
        bytes: size of the file.
        modified: in ISO format, UTC; empty if the file does not exist or is not accessible.
    """

    bytes: int = 0
    modified: str = ""

    @classmethod
    def of(cls, file: Path) -> FileStamp:
        """Read the stamp of a file."""
        try:
            status = file.stat()
        except (OSError, ValueError):  # ValueError: a null character in the path
            return cls()
        return cls(status.st_size, datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="microseconds"))


def absolute_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute, normalised path. The file need not exist, and symbolic links are not resolved."""
    return Path(os.path.normpath(Path(path).absolute()))


def find_files(paths: Sequence[Path]) -> Found:
    """List files in natural order (2 before 10); folders are searched recursively, without hidden files.

    Files that are named directly are always listed. A path that does not exist and a folder that cannot be listed stay
    in the list, so that reading them reports the error.
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


def find_named(paths: Paths) -> Found:
    """List files as `find_files` does, for paths that a person typed.

    Raises:
        ImageNotFoundError: none of the paths exists.
    """
    named = _listed(paths)
    if not any(FileStamp.of(path).modified for path in named):
        raise ImageNotFoundError(f"There is no file or folder {', '.join(map(str, named[:_NAMED]))}.")
    return find_files(named)


def find_scans(paths: Paths) -> tuple[Path, ...]:
    """List named files, and the pictures and PDFs in folders. Other files in the folders are logged as a warning."""
    found = find_files(_listed(paths))
    if found.skipped:
        names = ", ".join(map(str, found.skipped[:_NAMED])) + (", ..." if len(found.skipped) > _NAMED else "")
        _log.warning("%d files are neither pictures nor PDFs and are not read: %s", len(found.skipped), names)
    return found.files


def pages_wanted(count: int, options: PageOptions) -> int:
    """Return how many pages of a document with `count` pages are read."""
    frames = options.get("frames", "all")
    return count if frames == "all" else min(count, 1 if frames == "first" else frames)


def _listed(paths: Paths) -> list[Path]:
    return [Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # access is denied, or the name is not valid
        return False


def _walk(folder: Path, closed: list[Path]) -> Iterator[Path]:
    """Yield the files under a folder; append folders that cannot be listed to `closed`."""
    for parent, folders, files in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        # Changed in place, so that os.walk does not enter hidden folders.
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _natural(path: Path) -> list[list[tuple[int, str]]]:
    """Return a sort key that compares the numbers in each part of a path by value."""
    return [
        [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", part.casefold())]
        for part in path.parts
    ]
