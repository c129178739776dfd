"""Visual tokens of the images that prompts show, each image encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import torch

from glm4v_core.errors import EngineError, OutOfMemoryError

if TYPE_CHECKING:
    from glm4v_core.engines.checkpoint.images import MeasuredImage
    from glm4v_core.engines.transformers.prompts import PixelJobs, PreparedPrompt
    from glm4v_core.engines.transformers.reuse import ReuseCache
    from glm4v_core.engines.transformers.runner import Runner


class PatchProjection(torch.nn.Module):  # type: ignore[misc]  # its base is not analysed
    """The patch embedding's convolution, whose kernel never overlaps, as the one matrix product it is."""

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(convolution.weight.detach().flatten(1), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(patches.flatten(1), self.weight, self.bias)


class Vision:
    """Encodes images, or finds their features from earlier prompts.

    Args:
        patches: most patches encoded in one call, unless one image has more. Large batches pay on an accelerator; on a
            CPU they only miss its caches.
    """

    def __init__(self, runner: Runner, reuse: ReuseCache, jobs: PixelJobs, *, patches: int) -> None:
        self._runner = runner
        self._reuse = reuse
        self._jobs = jobs
        self._patches = patches

    def begin(self, images: Iterable[MeasuredImage]) -> list[Future[torch.Tensor]]:
        """Have the patches made of those images whose features are not known."""
        return [self._jobs.start(image) for image in images if self._reuse.features(image.key) is None]

    def features(self, prompts: Sequence[PreparedPrompt], starts: Sequence[int]) -> list[torch.Tensor | None]:
        """Return the visual tokens that each prompt shows from its start on; None without any."""
        shown = [_shown(prompt, start) for prompt, start in zip(prompts, starts, strict=True)]
        images = {image.key: image for group, _ in shown for image in group}
        found = {key: features for key in images if (features := self._reuse.features(key)) is not None}
        for chunk in self._chunks(image for key, image in images.items() if key not in found):
            pixels = [self._pixels(image) for image in chunk]
            encoded = self._runner.encode(pixels, [torch.tensor([[1, image.rows, image.columns]]) for image in chunk])
            for image, features in zip(chunk, encoded, strict=True):
                found[image.key] = features
                self._reuse.keep_features(image.key, features)
        return [torch.cat([found[image.key] for image in group])[-count:] if count else None for group, count in shown]

    def _pixels(self, image: MeasuredImage) -> torch.Tensor:
        job = self._jobs.start(image)
        failure = job.exception()
        if isinstance(failure, MemoryError):
            raise OutOfMemoryError("An image did not fit into memory.") from failure
        if failure is not None:
            raise EngineError(f"An image could not be prepared: {failure}") from failure
        return job.result()

    def _chunks(self, images: Iterable[MeasuredImage]) -> Iterator[list[MeasuredImage]]:
        chunk: list[MeasuredImage] = []
        patches = 0
        for image in images:
            size = image.rows * image.columns
            if chunk and patches + size > self._patches:
                yield chunk
                chunk, patches = [], 0
            chunk.append(image)
            patches += size
        if chunk:
            yield chunk


def _shown(prompt: PreparedPrompt, start: int) -> tuple[list[MeasuredImage], int]:
    """Return the images that reach beyond `start`, and how many of their tokens do."""
    count = int((prompt.identity[start:] < 0).sum())
    images: list[MeasuredImage] = []
    missing = count
    for image in reversed(prompt.images):
        if missing <= 0:
            break
        images.insert(0, image)
        missing -= image.tokens
    return images, count
