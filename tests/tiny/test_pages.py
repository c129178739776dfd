"""Letters are printed where their records say, in the product's own view of the page."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny.batches import patchify
from tiny.documents import make_document
from tiny.export import PIXELS
from tiny.pages import LARGEST, LARGEST_FONT, SMALLEST_FONT, Glyph, columns, print_page, rows, to_grid
from tiny.sequences import CELL_SLOTS, CLASSES, NAMED, PRINTABLE, cells
from transformers import Glm46VImageProcessorPil

from glm4v_core.dialect.families import FAMILIES
from glm4v_core.dialect.resize import visual_size

pytestmark = pytest.mark.usefixtures("fonts")
SPACE = CLASSES - 1
SPREAD = ["H H H H H H H H H H H H H"] * 12
"""Letters in a line are far apart, so the ink around a position belongs to one letter."""


def ink_offsets(pixels: np.ndarray, glyphs: Sequence[Glyph], reach: tuple[float, float]) -> np.ndarray:
    """Distance of the centre of the ink around each glyph from its recorded position, [glyphs, 2]."""
    height, width = pixels.shape
    offsets = []
    for glyph in glyphs:
        left, right, top, bottom = (
            round(edge) for edge in (glyph.x - reach[0], glyph.x + reach[0], glyph.y - reach[1], glyph.y + reach[1])
        )
        if min(left, top) >= 0 and right <= width and bottom <= height:
            ys, xs = np.nonzero(pixels[top:bottom, left:right] < 150)
            assert len(xs), f"no ink around {glyph}"
            offsets.append((left + xs.mean() + 0.5 - glyph.x, top + ys.mean() + 0.5 - glyph.y))
    return np.array(offsets)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_letters_are_printed_at_their_recorded_positions(seed: int, clean: bool) -> None:
    page, glyphs = print_page(Random(seed), SPREAD, size=24, clean=clean)
    pixels, moved = to_grid(page, glyphs)
    across, down = pixels.shape[1] / page.width, pixels.shape[0] / page.height
    offsets = ink_offsets(pixels, moved, (12 * across, 13 * down))
    assert len(offsets) > 100
    assert np.abs(offsets).max() < 2.5


def test_recorded_positions_are_right_on_average_at_any_skew() -> None:
    """A wrong sign of the skew would tear the corners apart by up to eight pixels."""
    for seed in range(6):
        page, glyphs = print_page(Random(seed), SPREAD, size=24)
        offsets = ink_offsets(np.asarray(page), glyphs, (12, 13))
        assert np.abs(offsets.mean(0)).max() < 1.5
        assert offsets.std(0).max() < 0.8


@pytest.mark.parametrize("seed", range(12))
def test_pages_of_documents_stay_within_what_the_model_sees(seed: int) -> None:
    random = Random(seed)
    document = make_document(random, "train")
    page, glyphs = print_page(random, list(document.lines))
    assert page.mode == "L"
    assert 28 <= min(page.size) <= max(page.size) <= LARGEST
    assert "".join(glyph.character for glyph in glyphs) == "".join(document.text.split())
    assert all(-4 <= g.x < page.width + 4 and -4 <= g.y < page.height + 4 for g in glyphs)


@pytest.mark.parametrize("size", range(SMALLEST_FONT, LARGEST_FONT + 1))
def test_the_fullest_page_fits_at_every_font_size(size: int) -> None:
    page, glyphs = print_page(Random(size), ["M" * columns(size)] * rows(size), size=size, clean=True)
    assert max(page.size) <= LARGEST
    assert len(glyphs) == columns(size) * rows(size)
    assert max(glyph.x for glyph in glyphs) + 0.3 * size <= page.width
    assert max(glyph.y for glyph in glyphs) + 0.36 * size <= page.height


def test_one_line_is_named_cell_by_cell() -> None:
    text = "Total: 12 EUR"
    pixels, glyphs = to_grid(*print_page(Random(1), [text], clean=True))
    named = cells(glyphs, pixels.shape).reshape(pixels.shape[0] // 28, pixels.shape[1] // 28, CELL_SLOTS)
    (row,) = np.flatnonzero(named.any((1, 2)))
    line = [cell for cell in named[row] if cell.any()]
    read = ["".join(PRINTABLE[code - 1] for code in cell[:NAMED] if code) for cell in line]
    assert "".join(read) == text.replace(" ", "")
    after, place = [], 0
    for part in read:
        place = text.index(part[-1], place) + 1
        after.append(SPACE if text[place : place + 1] == " " else PRINTABLE.find(text[place : place + 1] or "?") + 1)
    after[-1] = 0
    assert [cell[NAMED] for cell in line] == after
    assert not any(cell[NAMED + 1] for cell in line)
    assert {cell[-1] for cell in line} == {1}


def test_cells_name_two_lines_in_reading_order_what_follows_on_each_and_the_upper_one() -> None:
    glyphs = [Glyph("a", 5, 7, 0, "b"), Glyph("b", 20, 7, 0, "c"), Glyph("c", 33, 7, 0, "")]
    glyphs += [Glyph("x", 5, 20, 1, " "), Glyph("y", 33, 20, 1, ""), Glyph("!", 60, 5, 1, "")]
    named = cells(glyphs, (28, 56))
    codes = {character: PRINTABLE.index(character) + 1 for character in "abcxy"}
    assert named.tolist() == [
        [codes["a"], codes["b"], codes["x"], 0, 0, 0, codes["c"], SPACE, 1],
        [codes["c"], codes["y"], 0, 0, 0, 0, 0, 0, 1],
    ]


def test_a_cell_names_no_more_than_its_slots() -> None:
    glyphs = [Glyph("z", 1 + 3 * i, 9, 0, "z") for i in range(9)]
    assert cells(glyphs, (28, 28)).tolist() == [[PRINTABLE.index("z") + 1] * 7 + [0, 1]]


@given(st.integers(28, LARGEST), st.integers(28, LARGEST))
@settings(deadline=None)
def test_pages_become_the_size_that_the_product_shows_them_in(width: int, height: int) -> None:
    pixels, (moved,) = to_grid(Image.new("L", (width, height)), [Glyph("x", width, height / 2, 0, "")])
    bounds = {"min_pixels": PIXELS["shortest_edge"] / 2, "max_pixels": PIXELS["longest_edge"] / 2}
    assert pixels.shape[::-1] == visual_size(width, height, **bounds)
    assert (moved.x, moved.y) == pytest.approx((pixels.shape[1], pixels.shape[0] / 2))


def test_the_page_limit_is_that_of_the_family() -> None:
    (tiny,) = (family for family in FAMILIES if family.name == "tiny")
    assert tiny.limits.max_pixels == PIXELS["longest_edge"] / 2 == LARGEST**2


@pytest.mark.parametrize("seed", range(3))
def test_patches_are_those_of_the_image_processor(seed: int) -> None:
    page, glyphs = print_page(Random(seed), ["Seen alike", "by both"])
    pixels, _ = to_grid(page, glyphs)
    plain = {"do_normalize": False, "do_rescale": False}
    patches = Glm46VImageProcessorPil(size=PIXELS)([page.convert("RGB")], return_tensors="np", **plain)["pixel_values"]
    grey = patches.reshape(len(patches), 3, 2, 196)
    assert (grey == patchify(pixels)[:, None, None]).all()


def test_the_same_seed_prints_the_same_page() -> None:
    (first, glyphs), (second, _), (other, _) = (print_page(Random(seed), ["Alike"]) for seed in (1, 1, 2))
    assert first.tobytes() == second.tobytes()
    assert (first.size, first.tobytes()) != (other.size, other.tobytes())
    assert "".join(glyph.character for glyph in glyphs) == "Alike"


def test_a_tab_sets_the_second_part_flush_right() -> None:
    _, glyphs = print_page(Random(3), ["a\tb", "0123456789"], clean=True)
    (b,), (nine,) = ([glyph for glyph in glyphs if glyph.character == c] for c in "b9")
    assert b.x == pytest.approx(nine.x)
    assert next(glyph for glyph in glyphs if glyph.character == "a").after == " "


def test_missing_fonts_are_named_with_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiny.pages.FONT_FOLDER", "/nowhere")
    with pytest.raises(FileNotFoundError, match="fonts-dejavu-core"):
        print_page(Random(0), ["?"], size=97)
