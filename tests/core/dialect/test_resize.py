"""The size rule equals that of the installed image processor."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glm4v_core.dialect.resize import visual_size, visual_tokens
from glm4v_core.errors import ImageShapeError

smart_resize = pytest.importorskip("transformers.models.glm4v.image_processing_pil_glm4v").smart_resize


@settings(deadline=None)
@given(
    width=st.integers(1, 20_000),
    height=st.integers(1, 20_000),
    shortest=st.sampled_from([12544, 6272, 50176, 12545]),
    longest=st.sampled_from([9633792, 2 * 28 * 28 * 100, 28 * 28 * 15000, 9633791]),
    factor=st.sampled_from([28, 32]),
)
@example(width=3, height=600, shortest=12544, longest=9633792, factor=28)
@example(width=600, height=3, shortest=12544, longest=9633792, factor=28)
@example(width=1, height=1, shortest=12544, longest=9633792, factor=28)
def test_sizes_equal_those_of_the_image_processor(
    width: int, height: int, shortest: int, longest: int, factor: int
) -> None:
    try:
        rows, columns = smart_resize(2, height, width, factor=factor, min_pixels=shortest, max_pixels=longest)
    except ValueError:
        with pytest.raises(ImageShapeError, match="elongated"):
            visual_size(width, height, min_pixels=shortest / 2, max_pixels=longest / 2, factor=factor)
        return
    size = visual_size(width, height, min_pixels=shortest / 2, max_pixels=longest / 2, factor=factor)
    assert size == (columns, rows)


@pytest.mark.parametrize(
    ("width", "height", "tokens"), [(6000, 4000, 6144), (4000, 3000, 6030), (1024, 768, 999), (1, 1, 9)]
)
def test_token_counts_follow_from_sizes(width: int, height: int, tokens: int) -> None:
    assert visual_tokens(width, height, min_pixels=6272, max_pixels=4816896) == tokens


def test_empty_sizes_are_refused() -> None:
    with pytest.raises(ImageShapeError, match="empty"):
        visual_size(0, 10, min_pixels=6272, max_pixels=4816896)
