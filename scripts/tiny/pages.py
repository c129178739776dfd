"""Print lines on a synthetic scanned page: font, paper, ink, skew, blur, noise, JPEG."""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONT_FOLDER = "/usr/share/fonts/truetype/dejavu"
FONTS = ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf")
LARGEST = 448
SMALLEST_FONT, LARGEST_FONT = 20, 28


@dataclass(frozen=True, slots=True)
class Glyph:
    """A printed character, the pixel where its centre lies, its line, and what follows it there ("" at the end)."""

    character: str
    x: float
    y: float
    line: int
    after: str

    def at(self, x: float, y: float) -> Glyph:
        return replace(self, x=x, y=y)


@functools.lru_cache(64)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    path = Path(FONT_FOLDER) / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; on Debian and Ubuntu: apt-get install fonts-dejavu-core")
    return ImageFont.truetype(path, size)


@functools.cache
def _noise() -> np.ndarray:
    """A bank of unit Gaussian noise; pages cut windows from it, which is far cheaper than drawing new noise."""
    return np.random.default_rng(0).standard_normal((1200, 1200)).astype(np.float32)


def columns(size: int) -> int:
    """Most characters a line of this font size may hold on the widest page."""
    return min(28, int((LARGEST - 12) / (size * 0.6021)))


def rows(size: int) -> int:
    return min(12, int((LARGEST - 12) / (size * 1.17)))


def print_page(
    random: Random, lines: list[str], *, size: int | None = None, clean: bool = False
) -> tuple[Image.Image, list[Glyph]]:
    """Draw `lines` on a page that is just large enough, up to 448 x 448 px.

    Args:
        size: font size in px; None draws one that fits.
        clean: no skew, blur, noise or JPEG.

    Returns:
        The page (mode L) and the glyphs in reading order, spaces left out.
    """
    longest = max((len(line.replace("\t", "  ")) for line in lines), default=1)
    if size is None:
        fitting = [s for s in range(SMALLEST_FONT, LARGEST_FONT + 1) if longest <= columns(s) and len(lines) <= rows(s)]
        size = random.choice(fitting or [SMALLEST_FONT])
    face = font(random.choice(FONTS), size)
    advance = face.getlength("M")
    tallest = (LARGEST - 8) / max(1, len(lines))
    pitch = random.uniform(size * 1.16, max(size * 1.16, min(size * 1.6, tallest)))
    text_width, text_height = longest * advance, len(lines) * pitch
    spare_x, spare_y = LARGEST - text_width, LARGEST - text_height
    width = int(text_width + random.uniform(0.5, 1) * min(spare_x, random.choice((16, 40, 120))))
    height = int(text_height + random.uniform(0.5, 1) * min(spare_y, random.choice((16, 40, 120))))
    width, height = min(LARGEST, max(width, 28)), min(LARGEST, max(height, 28))
    paper, ink = random.randint(225, 255), random.randint(0, 80)
    page = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(page)
    left = random.uniform(0.1, 0.9) * max(0, width - text_width)
    top = random.uniform(0.2, 0.8) * max(0, height - text_height)
    glyphs: list[Glyph] = []
    centred = random.random() < 0.3
    for row, line in enumerate(lines):
        y = top + row * pitch
        parts = _place(line, left, longest, advance, centred and row == 0)
        for index, (x, part) in enumerate(parts):
            draw.text((x, y), part, fill=ink, font=face)
            follows = [*part[1:], " " if index + 1 < len(parts) else ""]
            glyphs += [
                Glyph(c, x + (i + 0.5) * advance, y + size * 0.6, row, after)
                for i, (c, after) in enumerate(zip(part, follows, strict=True))
                if c != " "
            ]
    if clean:
        return page, glyphs
    page, glyphs = _skew(random, page, glyphs, paper)
    return _degrade(random, page), glyphs


def _place(line: str, left: float, longest: int, advance: float, centred: bool) -> list[tuple[float, str]]:
    """Split a line at its tab into parts with their x; the second part is flush right."""
    first, _, second = line.partition("\t")
    if not second:
        return [(left + ((longest - len(first)) * advance / 2 if centred else 0), first)]
    return [(left, first), (left + (longest - len(second)) * advance, second)]


def _skew(random: Random, page: Image.Image, glyphs: list[Glyph], paper: int) -> tuple[Image.Image, list[Glyph]]:
    if random.random() < 0.3:
        return page, glyphs
    angle = random.uniform(-1, 1)
    turned = page.rotate(angle, Image.Resampling.BICUBIC, fillcolor=paper)
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    cx, cy = page.width / 2, page.height / 2
    moved = [
        g.at(cx + (g.x - cx) * cosine + (g.y - cy) * sine, cy - (g.x - cx) * sine + (g.y - cy) * cosine) for g in glyphs
    ]
    return turned, moved


def _degrade(random: Random, page: Image.Image) -> Image.Image:
    if random.random() < 0.5:
        page = page.filter(ImageFilter.GaussianBlur(random.uniform(0.2, 0.8)))
    if random.random() < 0.7:
        strength = random.uniform(1, 8)
        x, y = random.randrange(1200 - LARGEST), random.randrange(1200 - LARGEST)
        grain = _noise()[y : y + page.height, x : x + page.width]
        page = Image.fromarray(np.clip(np.asarray(page, dtype=np.float32) + strength * grain, 0, 255).astype(np.uint8))
    if random.random() < 0.5:
        buffer = io.BytesIO()
        page.save(buffer, "JPEG", quality=random.randint(60, 95))
        page = Image.open(buffer)
        page.load()
    return page


def to_grid(page: Image.Image, glyphs: list[Glyph], factor: int = 28) -> tuple[np.ndarray, list[Glyph]]:
    """Resize to whole cells as the image processor does; return uint8 pixels and the moved glyphs."""
    width, height = max(1, round(page.width / factor)) * factor, max(1, round(page.height / factor)) * factor
    sx, sy = width / page.width, height / page.height
    pixels = np.asarray(page.resize((width, height), Image.Resampling.BICUBIC))
    return pixels, [g.at(g.x * sx, g.y * sy) for g in glyphs]
