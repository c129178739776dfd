"""Pages of files by number, and tool choices, as both hosts take them from the core."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from glm4v_core import PageInfo, PageOptions, Tool
from glm4v_core.errors import ConstraintError, InputError
from glm4v_core.hosts import list_pages, load_page, read_tool_choice
from tests.support.workflow_answers import save_scans


def test_pages_are_listed_by_number_and_a_broken_file_is_page_zero(tmp_path: Path) -> None:
    fax, scan = save_scans(tmp_path)
    broken = tmp_path / "c.jpg"
    broken.write_bytes(b"\xff\xd8\xff cut off")
    listed = list_pages(tmp_path, PageOptions())
    assert listed[:5] == [PageInfo(str(fax), number, 5) for number in range(1, 6)]
    assert listed[5:] == [PageInfo(str(scan), 1, 2), PageInfo(str(scan), 2, 2), PageInfo(str(broken))]
    with pytest.raises(InputError, match=broken.name):
        load_page(broken, 0)


def test_a_file_with_too_many_pages_is_one_entry(tmp_path: Path) -> None:
    fax, _ = save_scans(tmp_path)
    assert list_pages(fax, PageOptions(max_pages=2)) == [PageInfo(str(fax))]


@pytest.mark.parametrize(
    ("choice", "read"),
    [
        (None, "auto"),
        (False, "auto"),
        (True, "required"),
        ("any", "required"),
        ("none", "none"),
        ("clock", "clock"),
        ({"type": "function", "function": {"name": "clock"}}, "clock"),
        ({"type": "tool", "name": "clock"}, "clock"),
        ({"type": "any"}, "required"),
    ],
)
def test_tool_choices_of_all_spellings(choice: str | bool | Mapping[str, Any] | None, read: str) -> None:
    assert read_tool_choice(choice, [Tool("clock")]) == read


def test_a_tools_name_comes_before_the_words() -> None:
    assert read_tool_choice("any", [Tool("any")]) == "any"
    with pytest.raises(ConstraintError, match="'watch'"):
        read_tool_choice("watch", [Tool("clock")])
