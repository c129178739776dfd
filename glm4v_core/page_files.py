"""Files and folders -> pages, one by one, failures among them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from glm4v_core.errors import Glm4vError
from glm4v_core.pages import FailedPage, Page, PageOptions, load_pages
from glm4v_core.workflow import Failure, PageFailure, PageInfo

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pdf"})


@dataclass(frozen=True, slots=True)
class Found:
    """What lies under some paths.

    Attributes:
        skipped: files in folders that are neither pictures nor PDF.
    """

    files: tuple[Path, ...]
    skipped: tuple[Path, ...]


def find_files(paths: Sequence[Path]) -> Found:
    """List named files as they are, and folders recursively, without hidden files, sorted as people count.

    A path that does not exist stays in the list, to fail as a page of its own.
    """
    files: list[Path] = []
    skipped: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        for file in sorted(_walk(path), key=_natural):
            (files if file.suffix.lower() in SUFFIXES else skipped).append(file)
    return Found(tuple(files), tuple(skipped))


def read_pages(files: Sequence[Path], options: PageOptions) -> Iterator[Page | PageFailure]:
    """Open one file after the other, each when its first page is wanted."""
    for file in files:
        try:
            for page in load_pages(file, errors="yield", **options):
                yield page if isinstance(page, Page) else _failure(page)
        except Glm4vError as error:
            yield PageFailure(PageInfo(str(file)), Failure.of(error))


def _failure(page: FailedPage) -> PageFailure:
    return PageFailure(PageInfo(page.source, page.number, page.count), Failure.of(page.error))


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _natural(path: Path) -> list[list[tuple[int, str]]]:
    return [
        [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", part.casefold())]
        for part in path.parts
    ]
