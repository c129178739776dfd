"""Files and folders -> their pages by number, for hosts that open each page in a task of its own."""

from __future__ import annotations

from pathlib import Path

from glm4v_core.errors import InputError
from glm4v_core.media.files import Paths, find_scans
from glm4v_core.media.page_options import PageOptions
from glm4v_core.media.pages import PageInfo, count_pages


def list_pages(paths: Paths, options: PageOptions) -> list[PageInfo]:
    """List the pages of files and folders, without opening any page.

    A file that cannot be opened is one entry with number 0: opening page 0 of it fails with the error to report.

    Args:
        paths: see `find_scans`.
        options: of `load_pages`.
    """
    return [page for file in find_scans(paths) for page in _pages_of(file, options)]


def _pages_of(file: Path, options: PageOptions) -> list[PageInfo]:
    try:
        count = count_pages(file, **options)
    except InputError:
        return [PageInfo(str(file))]
    return [PageInfo(str(file), number, count) for number in range(1, count + 1)]
