"""Grounding: boxes that a model wrote, in pixels of the original image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from glm4v_core.dialect.dialects import BOX_TAGS
from glm4v_core.types import Box

SCALE = 1000
"""Coordinates are thousandths of the image's width and height, origin top left."""

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_QUAD = re.compile(rf"[\[(<]{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[\])>]")
_KEYED = re.compile(r"""["']?\b(?:bbox_2d|box_2d)["']?\s*[:=]\s*(\[[\[\]\d\s.,]*\])""")
_LABEL = re.compile(r'"label"\s*:\s*("(?:[^"\\]|\\.)*")')
_SPAN = re.compile(rf"{re.escape(BOX_TAGS[0])}(.*?)(?:{re.escape(BOX_TAGS[1])}|\Z)", re.DOTALL)


def find_boxes(text: str, sizes: Sequence[tuple[int, int]]) -> tuple[Box, ...]:
    """Find the boxes in an answer, in order of appearance.

    Understood are `"bbox_2d": [...]` and `box_2d=[...]` anywhere, and between box tokens also bare `[x1, y1, x2, y2]`
    in square, round or angle brackets, nested or several. Points and numbers over 1000 are no boxes.

    Args:
        text: the answer with its box tokens.
        sizes: width and height of the request's original images. Answers do not say which image a box is in, so
            boxes belong to the first one.
    """
    if not sizes:
        return ()
    width, height = sizes[0]
    return tuple(
        Box(x1 * width / SCALE, y1 * height / SCALE, x2 * width / SCALE, y2 * height / SCALE, label)
        for _, label, (x1, y1, x2, y2) in sorted(_find(text))
    )


def _find(text: str) -> Iterator[tuple[int, str, tuple[float, ...]]]:
    """Yield position, label and coordinates."""
    keyed = list(_KEYED.finditer(text))
    for found in keyed:
        yield from _quads(text, found.start(1), found.end(1), _label_around(text, found))
    for span in _SPAN.finditer(text):
        if not any(span.start() <= found.start() < span.end() for found in keyed):
            yield from _quads(text, span.start(1), span.end(1), "")


def _quads(text: str, start: int, end: int, label: str) -> Iterator[tuple[int, str, tuple[float, ...]]]:
    for found in _QUAD.finditer(text, start, end):
        x1, y1, x2, y2 = (float(number) for number in found.groups())
        if max(x1, y1, x2, y2) <= SCALE:
            yield found.start(), label, (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def _label_around(text: str, found: re.Match[str]) -> str:
    """Read the label of the JSON object that holds a box."""
    start = text.rfind("{", 0, found.start())
    end = text.find("}", found.end())
    label = _LABEL.search(text, max(start, 0), end if end >= 0 else len(text))
    if start < 0 or label is None or "}" in text[start : found.start()]:
        return ""
    try:
        return str(json.loads(label[1], strict=False))
    except ValueError:  # an escape that JSON does not know
        return label[1][1:-1]
