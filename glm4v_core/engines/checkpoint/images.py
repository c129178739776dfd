"""Image sizers: the size to which a checkpoint's image processor resizes an image, and its number of visual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from glm4v_core.dialect.resize import visual_size
from glm4v_core.media.image import Image


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """One image of a prompt, and the size at which the model sees it.

    Attributes:
        image: before it is resized.
        key: content hash and size; equal for images with equal features.
        size: the image processor's bounds for this image, shortest_edge and longest_edge in pixels over two frames.
        rows: patches from top to bottom, after resizing.
        columns: patches from left to right, after resizing.
        tokens: its visual tokens in the prompt.
    """

    image: Image
    key: str
    size: dict[str, int]
    rows: int
    columns: int
    tokens: int


class ImageSizer(Protocol):
    """Determines the size at which a model sees images."""

    def bounds(self) -> dict[str, int]:
        """Return the smallest and largest area as shortest_edge and longest_edge, in pixels over two frames."""
        ...

    def measure(self, image: Image) -> MeasuredImage:
        """Return the size of an image in patches and visual tokens."""
        ...


class SquareSizer:
    """The image sizer of the first generation, which resizes every image to the same square.

    Args:
        side: of the square, in pixels.
        patch: side of a patch, in pixels; one visual token covers 2 x 2 patches.
    """

    def __init__(self, side: int, patch: int) -> None:
        self._side = side
        self._patches = side // patch

    def bounds(self) -> dict[str, int]:
        return dict.fromkeys(("shortest_edge", "longest_edge"), 2 * self._side**2)

    def measure(self, image: Image) -> MeasuredImage:
        count, tokens = self._patches, (self._patches // 2) ** 2
        return MeasuredImage(image, f"{image.sha256}:{self._side}", self.bounds(), count, count, tokens)


class ProcessorSizer:
    """Computes the size to which a checkpoint's image processor resizes images. Thread-safe.

    Args:
        processor: an image processor of the GLM-V family.
        max_image_tokens: maximum number of visual tokens per image; None for the limits of processor and image only.
    """

    def __init__(self, processor: Any, max_image_tokens: int | None) -> None:
        self._processor = processor
        self._limit = max_image_tokens

    def bounds(self, *limits: int | None) -> dict[str, int]:
        """Return the smallest and largest area, in pixels over two frames.

        Args:
            limits: further limits on the visual tokens of an image, besides the sizer's; None is ignored.
        """
        processor = self._processor
        side = processor.patch_size * processor.merge_size
        shortest, longest = processor.size["shortest_edge"], processor.size["longest_edge"]
        for limit in (*limits, self._limit):
            longest = longest if limit is None else min(longest, limit * side**2 * processor.temporal_patch_size)
        return {"shortest_edge": min(shortest, longest), "longest_edge": longest}

    def measure(self, image: Image) -> MeasuredImage:
        """Return the size of an image in patches and visual tokens.

        Raises:
            ImageShapeError: the image is too elongated.
        """
        size = self.bounds(image.max_tokens)
        rows, columns = self._grid(image, size)
        key = f"{image.sha256}:{size['shortest_edge']}:{size['longest_edge']}"
        return MeasuredImage(image, key, size, rows, columns, rows * columns // self._processor.merge_size**2)

    def _grid(self, image: Image, size: dict[str, int]) -> tuple[int, int]:
        processor = self._processor
        frames = processor.temporal_patch_size
        width, height = visual_size(
            image.width,
            image.height,
            min_pixels=size["shortest_edge"] / frames,
            max_pixels=size["longest_edge"] / frames,
            factor=processor.patch_size * processor.merge_size,
        )
        return height // processor.patch_size, width // processor.patch_size
