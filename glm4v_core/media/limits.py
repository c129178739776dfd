"""Limits that are checked before any pixel is decoded, independent of Pillow's process-wide settings."""

from __future__ import annotations

from dataclasses import dataclass

from glm4v_core.errors import ImageShapeError, ImageTooLargeError


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits on the images that are accepted.

    Attributes:
        max_bytes: size of the encoded file; an uncompressed A4 page at 600 dpi takes 105 MB.
        max_pixels: width times height, well below the 89 million at which Pillow begins to warn. A larger sequential
            JPEG is decoded at a half, a quarter or an eighth of its size; any other larger image is refused.
        min_side: shorter side in pixels; image processors confuse fewer than 4 rows with colour channels.
        max_aspect: longer side divided by shorter side; the models refuse more than 200.
    """

    max_bytes: int = 128 * 2**20
    max_pixels: int = 64_000_000
    min_side: int = 4
    max_aspect: float = 200.0


DEFAULT_LIMITS = ImageLimits()


def check_shape(size: tuple[int, int], limits: ImageLimits, name: str) -> None:
    """Raise an ImageShapeError if an image of this width and height is empty, too small or too elongated."""
    shorter, longer = sorted(size)
    if shorter <= 0:
        raise ImageShapeError(f"{name} is empty: {size[0]}x{size[1]} pixels.")
    if shorter < limits.min_side:
        raise ImageShapeError(f"{name} has {size[0]}x{size[1]} pixels; every side needs min_side={limits.min_side}.")
    if longer > shorter * limits.max_aspect:
        raise ImageShapeError(f"{name} has {size[0]}x{size[1]} pixels, more than max_aspect={limits.max_aspect:g}.")


def check_pixels(size: tuple[int, int], limits: ImageLimits, name: str) -> None:
    """Raise an ImageTooLargeError if an image of this width and height has more than `limits.max_pixels`."""
    if size[0] * size[1] > limits.max_pixels:
        raise ImageTooLargeError(f"{name} has {size[0]}x{size[1]} pixels, over max_pixels={limits.max_pixels}.")


def check_bytes(count: int, limits: ImageLimits, name: str) -> None:
    """Raise an ImageTooLargeError if a file has more than `limits.max_bytes`."""
    if count > limits.max_bytes:
        raise ImageTooLargeError(f"{name} has {count} bytes or more, over max_bytes={limits.max_bytes}.")
