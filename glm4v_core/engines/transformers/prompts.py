"""From a request to what the model reads: token ids, positions, and pixels that are made when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from glm4v_core.dialect.parsing import Phase
from glm4v_core.dialect.template import Prompt
from glm4v_core.engines.checkpoint.images import MeasuredImage, ProcessorSizer
from glm4v_core.engines.checkpoint.prompt_tokenizer import PromptTokenizer
from glm4v_core.engines.transformers.prefixes import Identity

if TYPE_CHECKING:
    from glm4v_core.engines.transformers.loading import Checkpoint


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt as the model reads it.

    Attributes:
        ids: token ids, with one image token per visual token.
        identity: see `prefixes.Identity`.
        positions: [3, tokens], in time, height and width.
        rope_delta: mRoPE offset, the position of the next token minus its index (transformers' `rope_deltas`).
        phase: in which state the output starts.
    """

    ids: list[int]
    identity: Identity
    positions: torch.Tensor
    rope_delta: int
    images: tuple[MeasuredImage, ...]
    phase: Phase

    @property
    def image_tokens(self) -> int:
        return sum(image.tokens for image in self.images)


class Preparer:
    """Turns rendered prompts into token ids and images into patches, without torchvision. Thread-safe."""

    def __init__(self, checkpoint: Checkpoint, *, max_image_tokens: int | None) -> None:
        self._processor = checkpoint.image_processor
        self._rope_index = checkpoint.model.model.get_rope_index
        self._image_token: int = checkpoint.model.config.image_token_id
        sizer = ProcessorSizer(checkpoint.image_processor, max_image_tokens)
        self._tokenizer = PromptTokenizer(checkpoint.tokenizer, self._image_token, sizer)

    def prepare(self, prompt: Prompt) -> PreparedPrompt:
        """Tokenize a prompt, making room for its images.

        Raises:
            MessageError: placeholders and images do not match.
            ImageShapeError: an image is too elongated.
        """
        tokenized = self._tokenizer.tokenize(prompt)
        ids, identity = self._expand(tokenized.ids, tokenized.images)
        positions, rope_delta = self._positions(ids, tokenized.images)
        return PreparedPrompt(ids, identity, positions, rope_delta, tokenized.images, prompt.phase)

    def patches(self, image: MeasuredImage) -> torch.Tensor:
        """Resize, normalise and cut one image, [patches, patch size]."""
        result = self._processor(image.image.pixels, size=image.size, return_tensors="pt")
        pixels: torch.Tensor = result["pixel_values"]
        return pixels

    def _expand(self, short: Sequence[int], images: Sequence[MeasuredImage]) -> tuple[list[int], Identity]:
        """Repeat each image's token as often as the image has visual tokens; return the ids and the identity."""
        ids: list[int] = []
        identity: list[int] = []
        waiting = iter(images)
        for token in short:
            image = next(waiting) if token == self._image_token else None
            count = 1 if image is None else image.tokens
            ids += [token] * count
            identity += [token if image is None else _number(image.key)] * count
        return ids, np.array(identity, dtype=np.int64)

    def _positions(self, ids: list[int], images: Sequence[MeasuredImage]) -> tuple[torch.Tensor, int]:
        """Return the positions, [3, tokens], and the rope delta."""
        if not images:
            return torch.arange(len(ids)).expand(3, -1), 0
        tokens = torch.tensor([ids])
        grids = torch.tensor([[1, image.rows, image.columns] for image in images])
        positions, rope_delta = self._rope_index(tokens, (tokens == self._image_token).int(), image_grid_thw=grids)
        return positions[:, 0], int(rope_delta)


def _number(key: str) -> int:
    """Make a negative 63-bit number of an image's key: no token id, and no other image's number."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return -1 - (int.from_bytes(digest) >> 1)
