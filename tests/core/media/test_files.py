"""Finding files in the order that people expect, and reading them with failures among the pages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from glm4v_core.media.files import FileStamp, absolute_path, find_files
from glm4v_core.media.pages import Page
from glm4v_core.tasks.results import PageFailure, read_pages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture = PIL.Image.new("RGB", (30, 30), "white")
    for name in ("p10.JPG", "p2.png", "P1.Webp", "b/x1.gif", "b/deep/中文.BMP", ".hidden.png", ".git/y.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    picture.save(tmp_path / "two.tiff", save_all=True, append_images=[picture])
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "noextension").write_text("x")
    return tmp_path


def test_folders_are_searched_in_natural_order_without_hidden_files(folder: Path) -> None:
    found = find_files([folder])
    assert [str(path.relative_to(folder)) for path in found.files] == [
        "b/deep/中文.BMP",
        "b/x1.gif",
        "P1.Webp",
        "p2.png",
        "p10.JPG",
        "two.tiff",
    ]
    assert [path.name for path in found.skipped] == ["noextension", "notes.txt"]


def test_folders_that_cannot_be_listed_are_returned_like_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def closed(path: str) -> Any:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)  # root may list everything
    files = find_files([folder]).files
    assert folder / "b" / "deep" in files
    (failure,) = read_pages([folder / "b" / "deep"], {})
    assert isinstance(failure, PageFailure)


@pytest.mark.parametrize("name", ["x" * 300, "null\0", "loop"])
def test_paths_that_cannot_be_examined_become_failed_pages(folder: Path, name: str) -> None:
    (folder / "loop").symlink_to("loop")
    found = find_files([folder / name])
    assert found.files == (folder / name,)
    assert FileStamp.of(folder / name) == FileStamp(0, "")
    (failure,) = read_pages(found.files, {})
    assert isinstance(failure, PageFailure)
    assert failure.error.code == "image_not_found"


def test_a_stamp_changes_with_the_file(folder: Path) -> None:
    file = folder / "notes.txt"
    os.utime(file, ns=(0, 1_500_000_000_123_456_000))
    assert FileStamp.of(file) == FileStamp(1, "2017-07-14T02:40:00.123456+00:00")
    file.write_text("xy")
    assert FileStamp.of(file).bytes == 2


def test_named_files_are_kept_unchanged_and_in_the_given_order(folder: Path) -> None:
    named = [folder / "two.tiff", folder / ".hidden.png", folder / "notes.txt", folder / "gone.png"]
    assert find_files(named).files == tuple(named)


def test_pages_come_one_by_one_with_failures_among_them(folder: Path) -> None:
    files = [folder / "two.tiff", folder / "gone.png", folder / "notes.txt", folder / "p2.png"]
    pages = list(read_pages(files, {}))
    assert [(Path(page.source).name, page.number) if isinstance(page, Page) else page.error.code for page in pages] == [
        ("two.tiff", 1),
        ("two.tiff", 2),
        "image_not_found",
        "image_format",
        ("p2.png", 1),
    ]
    failure = pages[2]
    assert isinstance(failure, PageFailure)
    assert failure.page.source == str(folder / "gone.png")
    assert failure.error.hint


def test_a_broken_page_leaves_the_others_of_its_file(folder: Path) -> None:
    data = bytearray((folder / "two.tiff").read_bytes())
    picture = PIL.Image.effect_noise((200, 200), 60)
    picture.save(folder / "cut.tiff", save_all=True, append_images=[picture], compression="tiff_lzw")
    data = (folder / "cut.tiff").read_bytes()
    # The strip of the first frame is damaged, the second one is unchanged.
    (folder / "cut.tiff").write_bytes(data[:200] + bytes(4000) + data[4200:])
    pages = list(read_pages([folder / "cut.tiff"], {}))
    assert [(type(page), page.number if isinstance(page, Page) else page.page.number) for page in pages] == [
        (PageFailure, 1),
        (Page, 2),
    ]


def test_options_reach_the_reader(folder: Path) -> None:
    assert len(list(read_pages([folder / "two.tiff"], {"frames": "first"}))) == 1
    (failure,) = read_pages([folder / "two.tiff"], {"max_pages": 1})
    assert isinstance(failure, PageFailure)
    assert failure.error.code == "page_limit"


def test_an_absolute_path_is_the_same_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = tmp_path / "scans" / "a.png"
    named = ("scans/a.png", "./scans//b/../a.png", wanted, f"{tmp_path}/scans/a.png")
    assert {absolute_path(path) for path in named} == {wanted}
