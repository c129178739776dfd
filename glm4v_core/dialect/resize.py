"""How the GLM-V image processors resize images, as plain arithmetic."""

from __future__ import annotations

import math

from glm4v_core.errors import ImageShapeError

MAX_ASPECT_RATIO = 200


def visual_size(width: int, height: int, *, min_pixels: float, max_pixels: float, factor: int = 28) -> tuple[int, int]:
    """Return the size to which the GLM-V image processors resize an image.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        min_pixels: smallest area of one still image. The `size` in a preprocessor_config.json counts two frames, so
            halve its shortest_edge and longest_edge.
        max_pixels: largest area, likewise. For a budget of n visual tokens pass n * factor**2.
        factor: side of one visual token in pixels, which is patch size times merge size.

    Returns:
        Width and height in pixels, multiples of factor.

    Raises:
        ImageShapeError: the image is empty, or more than 200 times as long as it is wide.
    """
    if min(width, height) < 1:
        raise ImageShapeError(f"An image of {width}x{height} pixels is empty.")
    # The order of the steps and each rounding follow the processors, since one pixel may cost a row of tokens.
    if min(width, height) < factor:
        enlargement = max(factor / width, factor / height)
        width, height = int(width * enlargement), int(height * enlargement)
    if max(width, height) / min(width, height) > MAX_ASPECT_RATIO:
        raise ImageShapeError(f"An image of {width}x{height} pixels is too elongated for the model.")
    columns, rows = round(width / factor), round(height / factor)
    # Sides are rounded to the nearest multiple. Only if the area is then out of bounds, the exact sides are scaled by
    # the square root of the ratio and rounded towards the allowed range.
    area = columns * rows * factor**2
    if area > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        columns = max(1, math.floor(width / shrink / factor))
        rows = max(1, math.floor(height / shrink / factor))
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        columns, rows = math.ceil(width * grow / factor), math.ceil(height * grow / factor)
    return columns * factor, rows * factor


def visual_tokens(width: int, height: int, *, min_pixels: float, max_pixels: float, factor: int = 28) -> int:
    """Return the number of visual tokens for an image of this size; arguments and errors as for `visual_size`."""
    wide, high = visual_size(width, height, min_pixels=min_pixels, max_pixels=max_pixels, factor=factor)
    return wide // factor * (high // factor)
