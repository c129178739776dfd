"""Tokenizes rendered prompts; each image is a single token at first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glm4v_core.dialect.parsing import Phase
from glm4v_core.dialect.template import Prompt
from glm4v_core.engines.checkpoint.images import ImageSizer, MeasuredImage
from glm4v_core.errors import MessageError


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt as token ids, with one image token for each image.

    Attributes:
        ids: token ids.
        images: in the order of their tokens.
        phase: in which the model's output starts.
    """

    ids: list[int]
    images: tuple[MeasuredImage, ...]
    phase: Phase

    @property
    def image_tokens(self) -> int:
        """Number of visual tokens of all images."""
        return sum(image.tokens for image in self.images)

    @property
    def length(self) -> int:
        """Number of tokens that the model reads, counting all visual tokens of each image."""
        return len(self.ids) - len(self.images) + self.image_tokens


class PromptTokenizer:
    """Converts rendered prompts to token ids. Thread-safe.

    Args:
        tokenizer: of transformers.
        image_token: id of the token that represents an image.
        sizer: determines the sizes of images.
    """

    def __init__(self, tokenizer: Any, image_token: int, sizer: ImageSizer) -> None:
        self._tokenizer = tokenizer
        self._image_token = image_token
        self._sizer = sizer

    def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        """Tokenize a prompt and measure its images.

        Raises:
            MessageError: the numbers of placeholders and images differ.
            ImageShapeError: an image is too elongated.
        """
        images = tuple(self._sizer.measure(image) for image in prompt.images)
        ids: list[int] = self._tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
        places = ids.count(self._image_token)
        if places != len(images):
            raise MessageError(f"The prompt has {places} image placeholders but {len(images)} images.")
        return TokenizedPrompt(ids, images, prompt.phase)
