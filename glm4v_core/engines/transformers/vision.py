"""Encodes the images of prompts to visual tokens, each image only once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch

from glm4v_core.errors import EngineError, OutOfMemoryError

if TYPE_CHECKING:
    from glm4v_core.engines.checkpoint.images import MeasuredImage
    from glm4v_core.engines.transformers.reuse import ReuseCache


@dataclass(slots=True, eq=False, weakref_slot=True)
class ImageFeatures:
    """The features of one image, or the preparation of them; shared by all waiting requests with this image.

    Attributes:
        patches: [patches, values per patch], prepared in another thread; None once the image is encoded.
        features: [visual tokens, hidden size]; None until the image is encoded.
    """

    image: MeasuredImage
    patches: Future[torch.Tensor] | None
    features: torch.Tensor | None

    @property
    def ready(self) -> bool:
        """Whether the patches are complete, or are not needed any more."""
        return self.patches is None or self.patches.done()


class Vision:
    """Encodes images, or finds their features from earlier prompts. Not thread-safe.

    Args:
        model: a `...ForConditionalGeneration` of the GLM-V family.
        reuse: keeps the features.
        executor: prepares patches.
        cut: resizes an image and cuts it into patches, [patches, values per patch]; runs in `executor`.
        most: maximum number of patches encoded in one call, unless a single image has more. Large batches are faster
            on an accelerator; on a CPU they only cause cache misses.
    """

    def __init__(
        self,
        model: Any,
        reuse: ReuseCache,
        executor: Executor,
        cut: Callable[[MeasuredImage], torch.Tensor],
        *,
        most: int,
    ) -> None:
        self._encode = model.model.get_image_features
        self._device: torch.device = model.lm_head.weight.device
        self._reuse = reuse
        self._executor = executor
        self._cut = cut
        self._most = most
        self._begun: WeakValueDictionary[str, ImageFeatures] = WeakValueDictionary()

    def begin(self, images: Iterable[MeasuredImage]) -> list[ImageFeatures]:
        """Look up the features of images, and start preparing the patches of images without features."""
        return [self._begin(image) for image in images]

    def encode(self, prompts: Sequence[tuple[Sequence[ImageFeatures], int]]) -> list[torch.Tensor | None]:
        """Return the visual tokens to prefill for each prompt, encoding images that are not encoded yet.

        Args:
            prompts: for each prompt its images, and how many of their visual tokens to return, counted from the end.

        Returns:
            [count, hidden size] for each prompt; None if its count is 0.

        Raises:
            OutOfMemoryError, EngineError: the patches of an image could not be prepared.
        """
        shown = [_last(images, count) for images, count in prompts]
        missing = dict.fromkeys(image for images in shown for image in images if image.features is None)
        for chunk in self._chunks(missing):
            patches = torch.cat([_made(each.patches) for each in chunk if each.patches is not None]).to(self._device)
            grids = torch.tensor([[1, each.image.rows, each.image.columns] for each in chunk]).to(self._device)
            for each, features in zip(chunk, self._encode(patches, grids).pooler_output, strict=True):
                # A copy per image, because a view would keep the memory of the whole chunk alive in the cache. The
                # patches are dropped, since they are many times larger than the features.
                each.patches, each.features = None, features.clone()
                self._reuse.keep(each.image.key, each.features)
        counts = [count for _, count in prompts]
        return [_joined(images)[-count:] if count else None for images, count in zip(shown, counts, strict=True)]

    def _begin(self, image: MeasuredImage) -> ImageFeatures:
        # Waiting requests with the same image share one preparation. The dictionary forgets it after the last of them.
        begun = self._begun.get(image.key)
        if begun is None:
            features = self._reuse.get(image.key)
            patches = self._executor.submit(self._cut, image) if features is None else None
            begun = self._begun[image.key] = ImageFeatures(image, patches, features)
        return begun

    def _chunks(self, images: Iterable[ImageFeatures]) -> Iterator[list[ImageFeatures]]:
        """Group images into chunks of at most `most` patches."""
        chunk: list[ImageFeatures] = []
        patches = 0
        for each in images:
            size = each.image.rows * each.image.columns
            if chunk and patches + size > self._most:
                yield chunk
                chunk, patches = [], 0
            chunk.append(each)
            patches += size
        if chunk:
            yield chunk


def _last(images: Sequence[ImageFeatures], count: int) -> Sequence[ImageFeatures]:
    """Return as many images from the end as are needed for `count` visual tokens."""
    first = len(images)
    while count > 0:
        first -= 1
        count -= images[first].image.tokens
    return images[first:]


def _joined(images: Sequence[ImageFeatures]) -> torch.Tensor:
    """Concatenate the features of encoded images, [visual tokens, hidden size]."""
    return torch.cat([image.features for image in images if image.features is not None])


def _made(patches: Future[torch.Tensor]) -> torch.Tensor:
    """Wait for patches and return them, [patches, values per patch].

    Raises:
        OutOfMemoryError, EngineError: they could not be prepared.
    """
    failure = patches.exception()
    if isinstance(failure, MemoryError):
        raise OutOfMemoryError("An image did not fit into memory.") from failure
    if failure is not None:
        raise EngineError(f"An image could not be prepared: {failure}") from failure
    return patches.result()
