"""Grounding in every form that the models use, in pixels of the original image."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm4v_core.dialect.boxes import find_boxes
from glm4v_core.types import Box

SIZES = [(2000, 500)]
ONE = Box(200, 100, 600, 200)
TWO = Box(0, 0, 1998, 499.5)


def boxed(text: str) -> str:
    return f"It is <|begin_of_box|>{text}<|end_of_box|> there."


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (boxed("[100,200,300,400]"), (ONE,)),
        (boxed("[[100, 200, 300, 400]]"), (ONE,)),
        (boxed("(100,200,300,400)"), (ONE,)),
        (boxed("<100, 200, 300, 400>"), (ONE,)),
        (boxed("[100.0,200.0,300,400]"), (ONE,)),
        (boxed("[300,400,100,200]"), (ONE,)),
        (boxed("[[100,200,300,400],\n[0,0,999,999]]"), (ONE, TWO)),
        (boxed("[100,200,300,400]") + boxed("[0,0,999,999]"), (ONE, TWO)),
        ("<|begin_of_box|>[100,200,300,400]", (ONE,)),
        ('[{"label": "猫", "bbox_2d": [100, 200, 300, 400]}]', (Box(200, 100, 600, 200, "猫"),)),
        (
            boxed('[{"bbox_2d": [100,200,300,400], "label": "a \\"b\\""}, {"bbox_2d": [0,0,999,999]}]'),
            (Box(200, 100, 600, 200, 'a "b"'), TWO),
        ),
        ('{"label": "\\x", "bbox_2d": [[100,200,300,400]]', (Box(200, 100, 600, 200, "\\x"),)),
        ("click box_2d=[[100,200,300,400]] now", (ONE,)),
        ("{'bbox_2d': [100,200,300,400]}", (ONE,)),
        ('{"label": "other"} box_2d=[[100,200,300,400]] {"label": "other"}', (ONE,)),
        ("box_2d=[[100,200,300,400]]" + boxed("[0,0,999,999]"), (ONE, TWO)),
        ("[100,200,300,400] in prose", ()),
        (boxed("42"), ()),
        (boxed("[100,200]"), ()),
        (boxed("[100,200,300,1200]"), ()),
        ("", ()),
    ],
)
def test_boxes_are_found(text: str, boxes: tuple[Box, ...]) -> None:
    assert find_boxes(text, SIZES) == boxes


def test_without_an_image_there_are_no_boxes() -> None:
    assert find_boxes(boxed("[1,2,3,4]"), []) == ()


pieces = st.sampled_from(["<|begin_of_box|>", "[1,2,3,4]", '{"bbox_2d": [', '"label": "\\', "}", "]", '"', "9" * 400])


@settings(deadline=None)
@given(st.lists(pieces | st.text(max_size=5), max_size=12).map("".join))
def test_boxes_lie_inside_the_image_whatever_the_model_writes(text: str) -> None:
    for box in find_boxes(text, SIZES):
        assert 0 <= box.x1 <= box.x2 <= 2000
        assert 0 <= box.y1 <= box.y2 <= 500
