"""Grounding: finds the boxes in an answer and converts them to pixels of the original image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from glm4v_core.dialect.dialects import BOX_TAGS
from glm4v_core.types import Box

SCALE = 1000
"""Models give coordinates in thousandths of the image's width and height, from the top left corner."""

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_QUAD = re.compile(rf"[\[(<]{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[\])>]")
_KEYED = re.compile(r"""["']?\b(?:bbox_2d|box_2d)["']?\s*[:=]\s*(\[[\[\]\d\s.,]*\])""")
_LABEL = re.compile(r'"label"\s*:\s*("(?:[^"\\]|\\.)*")')
_SPAN = re.compile(rf"{re.escape(BOX_TAGS[0])}(.*?)(?:{re.escape(BOX_TAGS[1])}|\Z)", re.DOTALL)


def find_boxes(text: str, sizes: Sequence[tuple[int, int]]) -> tuple[Box, ...]:
    """Find the boxes in an answer, in order of appearance.

    The formats `"bbox_2d": [...]` and `box_2d=[...]` are recognised anywhere. Between box tokens a bare
    `[x1, y1, x2, y2]` in square, round or angle brackets is recognised too, also several of them or nested ones.
    Points, and groups with a number over 1000, are not boxes.

    Args:
        text: the answer with its box tokens.
        sizes: width and height in pixels of the request's original images. Answers do not say which image a box is
            in, so all boxes are assigned to the first one.

    Returns:
        Boxes in pixels; an empty tuple without images.
    """
    if not sizes:
        return ()
    width, height = sizes[0]
    return tuple(
        Box(x1 * width / SCALE, y1 * height / SCALE, x2 * width / SCALE, y2 * height / SCALE, label)
        for _, label, (x1, y1, x2, y2) in sorted(_find(text))
    )


def _find(text: str) -> Iterator[tuple[int, str, tuple[float, ...]]]:
    """Yield position in the text, label and coordinates (x1, y1, x2, y2) of each box."""
    keyed = list(_KEYED.finditer(text))
    for found in keyed:
        yield from _quads(text, found.start(1), found.end(1), _label_around(text, found))
    for span in _SPAN.finditer(text):
        # A box with a key inside box tokens was found above; it must not count twice.
        if not any(span.start() <= found.start() < span.end() for found in keyed):
            yield from _quads(text, span.start(1), span.end(1), "")


def _quads(text: str, start: int, end: int, label: str) -> Iterator[tuple[int, str, tuple[float, ...]]]:
    for found in _QUAD.finditer(text, start, end):
        x1, y1, x2, y2 = (float(number) for number in found.groups())
        if max(x1, y1, x2, y2) <= SCALE:
            yield found.start(), label, (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def _label_around(text: str, found: re.Match[str]) -> str:
    """Return the label of the JSON object that contains a box; empty if there is none."""
    start = text.rfind("{", 0, found.start())
    end = text.find("}", found.end())
    label = _LABEL.search(text, max(start, 0), end if end >= 0 else len(text))
    if start < 0 or label is None or "}" in text[start : found.start()]:
        return ""
    try:
        return str(json.loads(label[1], strict=False))
    except ValueError:  # an escape sequence that is not valid in JSON
        return label[1][1:-1]
