"""Caps that are checked before any pixel is decoded. Nothing here reads or changes Pillow's process-wide settings."""

from __future__ import annotations

from dataclasses import dataclass

from glm4v_core.errors import ImageShapeError, ImageTooLargeError


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What the image gate lets through.

    Attributes:
        max_bytes: encoded size; an uncompressed A4 page at 600 dpi takes 105 MB.
        max_pixels: decoded size, well under the 89 million at which Pillow begins to warn.
            A sequential JPEG above it is decoded at a half, a quarter or an eighth; everything else is refused.
        min_side: below 4 pixels image processors cannot tell rows from colour channels.
        max_aspect: longer side through shorter; the models refuse more than 200.
    """

    max_bytes: int = 128 * 2**20
    max_pixels: int = 64_000_000
    min_side: int = 4
    max_aspect: float = 200.0


DEFAULT_LIMITS = ImageLimits()


def check_shape(size: tuple[int, int], limits: ImageLimits, name: str) -> None:
    """Refuse empty, tiny and elongated images."""
    shorter, longer = sorted(size)
    if shorter <= 0:
        raise ImageShapeError(f"{name} is empty: {size[0]}x{size[1]} pixels.")
    if shorter < limits.min_side:
        raise ImageShapeError(f"{name} has {size[0]}x{size[1]} pixels; each side needs min_side={limits.min_side}.")
    if longer > shorter * limits.max_aspect:
        raise ImageShapeError(f"{name} has {size[0]}x{size[1]} pixels, more than max_aspect={limits.max_aspect:g}.")


def check_pixels(size: tuple[int, int], limits: ImageLimits, name: str) -> None:
    """Refuse images that would take too much memory."""
    if size[0] * size[1] > limits.max_pixels:
        raise ImageTooLargeError(f"{name} has {size[0]}x{size[1]} pixels, over max_pixels={limits.max_pixels}.")


def check_bytes(count: int, limits: ImageLimits, name: str) -> None:
    """Refuse files that are too long."""
    if count > limits.max_bytes:
        raise ImageTooLargeError(f"{name} has {count} bytes or more, over max_bytes={limits.max_bytes}.")
