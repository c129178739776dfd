"""Prepares prompts for the model: token ids, positions and, when they are needed, image patches."""

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
        identity: [tokens], see `prefixes.Identity`.
        positions: [3, tokens], positions in time, height and width (mRoPE).
        rope_delta: mRoPE offset: position minus index of the next token (transformers' `rope_deltas`).
        images: in the order of their tokens.
        phase: in which the model's output starts.
    """

    ids: list[int]
    identity: Identity
    positions: torch.Tensor
    rope_delta: int
    images: tuple[MeasuredImage, ...]
    phase: Phase

    @property
    def image_tokens(self) -> int:
        """Number of visual tokens of all images."""
        return sum(image.tokens for image in self.images)


class Preparer:
    """Converts rendered prompts to token ids and images to patches, without torchvision. Thread-safe."""

    def __init__(self, checkpoint: Checkpoint, *, max_image_tokens: int | None) -> None:
        self._processor = checkpoint.image_processor
        self._rope_index = checkpoint.model.model.get_rope_index
        self._image_token: int = checkpoint.model.config.image_token_id
        sizer = ProcessorSizer(checkpoint.image_processor, max_image_tokens)
        self._tokenizer = PromptTokenizer(checkpoint.tokenizer, self._image_token, sizer)

    def prepare(self, prompt: Prompt) -> PreparedPrompt:
        """Tokenize a prompt and compute its positions.

        Raises:
            MessageError: the numbers of placeholders and images differ.
            ImageShapeError: an image is too elongated.
        """
        tokenized = self._tokenizer.tokenize(prompt)
        ids, identity = self._expand(tokenized.ids, tokenized.images)
        positions, rope_delta = self._positions(ids, tokenized.images)
        return PreparedPrompt(ids, identity, positions, rope_delta, tokenized.images, prompt.phase)

    def patches(self, image: MeasuredImage) -> torch.Tensor:
        """Resize and normalise an image and cut it into patches, [patches, values per patch]."""
        result = self._processor(image.image.pixels, size=image.size, return_tensors="pt")
        pixels: torch.Tensor = result["pixel_values"]
        return pixels

    def _expand(self, short: Sequence[int], images: Sequence[MeasuredImage]) -> tuple[list[int], Identity]:
        """Repeat each image's token once per visual token; return token ids and identity, [tokens] each."""
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
        """Return the positions, [3, tokens], and the rope delta of a prompt."""
        if not images:  # text has the same position in all three dimensions
            return torch.arange(len(ids)).expand(3, -1), 0
        tokens = torch.tensor([ids])
        grids = torch.tensor([[1, image.rows, image.columns] for image in images])
        positions, rope_delta = self._rope_index(tokens, (tokens == self._image_token).int(), image_grid_thw=grids)
        return positions[:, 0], int(rope_delta)


def _number(key: str) -> int:
    """Hash an image's key to a negative number, which cannot be a token id."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return -1 - (int.from_bytes(digest) >> 1)
