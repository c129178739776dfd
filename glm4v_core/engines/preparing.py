"""From a request to what the model reads: token ids, positions, and pixels that are made when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np
import torch

from glm4v_core.engines.prefix_cache import Identity
from glm4v_core.errors import ImageShapeError, MessageError
from glm4v_core.images import Image
from glm4v_core.parsing import Phase
from glm4v_core.prompt import Prompt

if TYPE_CHECKING:
    from glm4v_core.engines.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One image of a prompt.

    Attributes:
        key: content hash and size, the same for images that give the same features.
        size: the image processor's bounds for this image.
        grid: [1, 3], its patches in time, height and width.
        tokens: visual tokens it takes in the prompt.
    """

    image: Image
    key: str
    size: dict[str, int]
    grid: torch.Tensor
    tokens: int


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt as the model reads it.

    Attributes:
        ids: token ids, with one image token per visual token.
        identity: see `prefix_cache.Identity`.
        positions: [3, tokens], in time, height and width.
        shift: what the next token's position is beyond its index.
        phase: in which state the output starts.
    """

    ids: list[int]
    identity: Identity
    positions: torch.Tensor
    shift: int
    images: tuple[PreparedImage, ...]
    phase: Phase

    @property
    def image_tokens(self) -> int:
        return sum(image.tokens for image in self.images)


class Preparer:
    """Turns rendered prompts into token ids and images into patches, without torchvision. Thread-safe."""

    def __init__(self, checkpoint: Checkpoint, *, max_image_tokens: int | None) -> None:
        self._tokenizer = checkpoint.tokenizer
        self._processor = checkpoint.image_processor
        self._rope_index = checkpoint.model.model.get_rope_index
        self._image_token: int = checkpoint.model.config.image_token_id
        self._max_image_tokens = max_image_tokens

    def prepare(self, prompt: Prompt) -> PreparedPrompt:
        """Tokenize a prompt, making room for its images.

        Raises:
            MessageError: placeholders and images do not match.
            ImageShapeError: an image is too elongated.
        """
        images = tuple(self._measure(image) for image in prompt.images)
        short = self._tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
        if short.count(self._image_token) != len(images):
            places = short.count(self._image_token)
            raise MessageError(f"The prompt has {places} places for images, but {len(images)} images are given.")
        ids, identity = self._expand(short, images)
        positions, shift = self._positions(ids, images)
        return PreparedPrompt(ids, identity, positions, shift, images, prompt.phase)

    def patches(self, image: PreparedImage) -> torch.Tensor:
        """Resize, normalise and cut one image, [patches, patch size]."""
        result = self._processor(image.image.pixels, size=image.size, return_tensors="pt")
        pixels: torch.Tensor = result["pixel_values"]
        return pixels

    def _measure(self, image: Image) -> PreparedImage:
        processor = self._processor
        side = processor.patch_size * processor.merge_size
        shortest, longest = processor.size["shortest_edge"], processor.size["longest_edge"]
        for limit in (image.max_tokens, self._max_image_tokens):
            # The processor's bounds are areas over the frames into which a still image is doubled.
            longest = longest if limit is None else min(longest, limit * side**2 * processor.temporal_patch_size)
        size = {"shortest_edge": min(shortest, longest), "longest_edge": longest}
        rows, columns = self._grid(image, size)
        grid = torch.tensor([[1, rows, columns]])
        key = f"{image.sha256}:{size['shortest_edge']}:{longest}"
        return PreparedImage(image, key, size, grid, rows * columns // processor.merge_size**2)

    def _grid(self, image: Image, size: dict[str, int]) -> tuple[int, int]:
        from transformers.models.glm4v.image_processing_pil_glm4v import smart_resize

        processor = self._processor
        try:
            height, width = smart_resize(
                num_frames=processor.temporal_patch_size,
                height=image.height,
                width=image.width,
                temporal_factor=processor.temporal_patch_size,
                factor=processor.patch_size * processor.merge_size,
                min_pixels=size["shortest_edge"],
                max_pixels=size["longest_edge"],
            )
        except ValueError as error:
            size_text = f"{image.width}x{image.height}"
            raise ImageShapeError(f"An image of {size_text} pixels cannot be shown: {error}.") from error
        return height // processor.patch_size, width // processor.patch_size

    def _expand(self, short: Sequence[int], images: Sequence[PreparedImage]) -> tuple[list[int], Identity]:
        ids: list[int] = []
        identity: list[int] = []
        waiting = iter(images)
        for token in short:
            image = next(waiting) if token == self._image_token else None
            count = 1 if image is None else image.tokens
            ids += [token] * count
            identity += [token if image is None else _number(image.key)] * count
        return ids, np.array(identity, dtype=np.int64)

    def _positions(self, ids: list[int], images: Sequence[PreparedImage]) -> tuple[torch.Tensor, int]:
        if not images:
            return torch.arange(len(ids)).expand(3, -1), 0
        tokens = torch.tensor([ids])
        grids = torch.cat([image.grid for image in images])
        positions, shift = self._rope_index(tokens, (tokens == self._image_token).int(), image_grid_thw=grids)
        return positions[:, 0], int(shift)


def _number(key: str) -> int:
    """Make a negative 63-bit number of an image's key: no token id, and no other image's number."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return -1 - (int.from_bytes(digest) >> 1)


class PixelJobs:
    """Makes patches in other threads, each image once however many requests wait for it."""

    def __init__(self, preparer: Preparer, executor: Executor) -> None:
        self._preparer = preparer
        self._executor = executor
        self._running: WeakValueDictionary[str, Future[torch.Tensor]] = WeakValueDictionary()

    def start(self, image: PreparedImage) -> Future[torch.Tensor]:
        job = self._running.get(image.key)
        if job is None:
            job = self._running[image.key] = self._executor.submit(self._preparer.patches, image)
        return job
