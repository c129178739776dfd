"""The page on scaling agrees in both languages with the code and the models' facts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from glm4v_core.dialect.families import FAMILIES
from glm4v_core.dialect.resize import visual_size

PAGES = {
    name: (Path(__file__).parents[2] / "docs" / name).read_text("utf-8") for name in ("scaling.md", "scaling.zh.md")
}
NUMBERS = re.compile(r"^\| \d+ dpi \| (\d+) x (\d+) \| (\d+) x (\d+) = (\d+)", re.MULTILINE)


def test_both_languages_have_the_same_commands_formulas_and_numbers() -> None:
    english, chinese = PAGES.values()
    blocks = re.compile(r"```\w+\n[\s\S]*?```|^    .+$", re.MULTILINE)
    assert blocks.findall(english) == blocks.findall(chinese)
    assert NUMBERS.findall(english) == NUMBERS.findall(chinese)
    names = re.compile(r"`[^`\n]+`")
    shared = {name for name in names.findall(english) if not name.startswith("`memory bandwidth")}
    assert shared <= set(names.findall(chinese))


@pytest.mark.parametrize("row", NUMBERS.findall(PAGES["scaling.md"]), ids="x".join)
def test_tokens_of_a_page_are_what_the_code_computes(row: tuple[str, ...]) -> None:
    width, height, columns, rows, tokens = map(int, row)
    limits = next(family.limits for family in FAMILIES if family.name == "GLM-4.6V-Flash")
    side = limits.patch * limits.merge
    size = visual_size(width, height, min_pixels=limits.min_pixels, max_pixels=limits.max_pixels, factor=side)
    assert size == (columns * side, rows * side)
    assert columns * rows == tokens <= limits.max_pixels // side**2
