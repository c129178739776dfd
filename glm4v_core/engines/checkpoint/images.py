"""How large a checkpoint's image processor makes an image, and what that costs in tokens of the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from glm4v_core.dialect.resize import visual_size
from glm4v_core.media.image import Image


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """One image of a prompt, and the size in which the model sees it.

    Attributes:
        key: content hash and size, the same for images that give the same features.
        size: the image processor's bounds for this image.
        rows, columns: patches of the resized image.
        tokens: visual tokens it takes in the prompt.
    """

    image: Image
    key: str
    size: dict[str, int]
    rows: int
    columns: int
    tokens: int


class ImageSizer(Protocol):
    """Determines the size in which a model sees images."""

    def bounds(self) -> dict[str, int]:
        """Return the least and the largest area of an image, in pixels over two frames."""
        ...

    def measure(self, image: Image) -> MeasuredImage:
        """Return the size of an image and what it costs."""
        ...


class SquareSizer:
    """The image sizer of the first generation: every image becomes one square.

    Args:
        side: pixels of the square.
        patch: pixels of a patch; one visual token covers two by two of them.
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
    """Sizes images as the image processor of one checkpoint resizes them. Thread-safe.

    Args:
        processor: an image processor of the GLM-V family.
        max_image_tokens: visual tokens one image may take; None leaves it to the processor and the image.
    """

    def __init__(self, processor: Any, max_image_tokens: int | None) -> None:
        self._processor = processor
        self._limit = max_image_tokens

    def bounds(self, *limits: int | None) -> dict[str, int]:
        """Return the processor's bounds, in pixels over two frames.

        Args:
            limits: visual tokens that an image may take, besides the sizer's own limit; None is no limit.
        """
        processor = self._processor
        side = processor.patch_size * processor.merge_size
        shortest, longest = processor.size["shortest_edge"], processor.size["longest_edge"]
        for limit in (*limits, self._limit):
            longest = longest if limit is None else min(longest, limit * side**2 * processor.temporal_patch_size)
        return {"shortest_edge": min(shortest, longest), "longest_edge": longest}

    def measure(self, image: Image) -> MeasuredImage:
        """Return the size of an image and what it costs.

        Raises:
            ImageShapeError: it is too elongated.
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
