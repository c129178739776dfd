"""Visual tokens of the images that prompts show, each image encoded once."""

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
    """One image on its way to its visual tokens; shared by all requests in line that show it.

    Attributes:
        patches: [patches, patch size], being made in another thread; None once the image is encoded.
        features: [tokens, hidden size]; None until the image is encoded.
    """

    image: MeasuredImage
    patches: Future[torch.Tensor] | None
    features: torch.Tensor | None

    @property
    def ready(self) -> bool:
        """Whether the patches are made."""
        return self.patches is None or self.patches.done()


class Vision:
    """Encodes images, or finds their features from earlier prompts. Not thread-safe.

    Args:
        model: a `...ForConditionalGeneration` of the family.
        cut: resizes an image and cuts it into patches; runs in `executor`.
        most: most patches encoded in one call, unless one image has more. Large batches pay on an accelerator; on a
            CPU they only miss its caches.
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
        """Find the features of images, and have the patches made of those that are not known."""
        return [self._begin(image) for image in images]

    def encode(self, prompts: Sequence[tuple[Sequence[ImageFeatures], int]]) -> list[torch.Tensor | None]:
        """Return the visual tokens that are to be read of each prompt, [count, hidden size].

        Args:
            prompts: the images of each prompt, and how many of its visual tokens are to be read, the last ones; with 0
                the result is None.
        """
        shown = [_last(images, count) for images, count in prompts]
        missing = dict.fromkeys(image for images in shown for image in images if image.features is None)
        for chunk in self._chunks(missing):
            patches = torch.cat([_made(each.patches) for each in chunk if each.patches is not None]).to(self._device)
            grids = torch.tensor([[1, each.image.rows, each.image.columns] for each in chunk]).to(self._device)
            for each, features in zip(chunk, self._encode(patches, grids).pooler_output, strict=True):
                # Own memory for each image, so that dropping one from the cache gives its bytes back. The patches of a
                # page are many times larger than its features.
                each.patches, each.features = None, features.clone()
                self._reuse.keep(each.image.key, each.features)
        counts = [count for _, count in prompts]
        return [_joined(images)[-count:] if count else None for images, count in zip(shown, counts, strict=True)]

    def _begin(self, image: MeasuredImage) -> ImageFeatures:
        begun = self._begun.get(image.key)
        if begun is None:
            features = self._reuse.get(image.key)
            patches = self._executor.submit(self._cut, image) if features is None else None
            begun = self._begun[image.key] = ImageFeatures(image, patches, features)
        return begun

    def _chunks(self, images: Iterable[ImageFeatures]) -> Iterator[list[ImageFeatures]]:
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
    """Return the last images that have `count` visual tokens together, or a part of the first one's more."""
    first = len(images)
    while count > 0:
        first -= 1
        count -= images[first].image.tokens
    return images[first:]


def _joined(images: Sequence[ImageFeatures]) -> torch.Tensor:
    """Join the features of encoded images, [tokens, hidden size]."""
    return torch.cat([image.features for image in images if image.features is not None])


def _made(patches: Future[torch.Tensor]) -> torch.Tensor:
    """Return patches, [patches, patch size], waiting for them.

    Raises:
        OutOfMemoryError, EngineError: they could not be made.
    """
    failure = patches.exception()
    if isinstance(failure, MemoryError):
        raise OutOfMemoryError("An image did not fit into memory.") from failure
    if failure is not None:
        raise EngineError(f"An image could not be prepared: {failure}") from failure
    return patches.result()
