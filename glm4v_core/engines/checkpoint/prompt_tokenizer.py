"""From a rendered prompt to token ids, with one token for each image."""

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
        phase: in which state the output starts.
    """

    ids: list[int]
    images: tuple[MeasuredImage, ...]
    phase: Phase

    @property
    def image_tokens(self) -> int:
        return sum(image.tokens for image in self.images)

    @property
    def length(self) -> int:
        """Tokens that the model reads, each image at its full size."""
        return len(self.ids) - len(self.images) + self.image_tokens


class PromptTokenizer:
    """Turns rendered prompts into token ids. Thread-safe."""

    def __init__(self, tokenizer: Any, image_token: int, sizer: ImageSizer) -> None:
        self._tokenizer = tokenizer
        self._image_token = image_token
        self._sizer = sizer

    def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        """Tokenize a prompt and measure its images.

        Raises:
            MessageError: placeholders and images do not match.
            ImageShapeError: an image is too elongated.
        """
        images = tuple(self._sizer.measure(image) for image in prompt.images)
        ids: list[int] = self._tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
        places = ids.count(self._image_token)
        if places != len(images):
            raise MessageError(f"The prompt has {places} places for images, but {len(images)} images are given.")
        return TokenizedPrompt(ids, images, prompt.phase)
