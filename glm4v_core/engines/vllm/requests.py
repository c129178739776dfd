"""One request in vLLM's terms, as plain data. Nothing here imports vLLM."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glm4v_core.engines.checkpoint.images import MeasuredImage
from glm4v_core.engines.checkpoint.prompt_tokenizer import TokenizedPrompt
from glm4v_core.engines.checkpoint.tokens import TokenBytes
from glm4v_core.types import Request, TokenLogprob

if TYPE_CHECKING:
    import PIL.Image

LEAST_TOP_P = 1e-6
"""vLLM refuses a top_p of 0, which means the most likely token alone."""
KEPT_PIXELS = 2**26
"""Pixels of resized pages that are kept for further questions about them: 200 MB."""


def prompt_of(tokenized: TokenizedPrompt, pixels: Sequence[PIL.Image.Image], shortest: int) -> dict[str, Any]:
    """Write a prompt; images go by their content hash, so that each is prepared and encoded once.

    Args:
        pixels: the images in the size in which the model sees them.
        shortest: the image processor's own lower bound, by which it would enlarge an image that must stay small.
    """
    prompt: dict[str, Any] = {"prompt_token_ids": tokenized.ids}
    if pixels:
        prompt["multi_modal_data"] = {"image": list(pixels)}
        prompt["multi_modal_uuids"] = {"image": [image.key for image in tokenized.images]}
        smallest = min(image.size["shortest_edge"] for image in tokenized.images)
        if smallest < shortest:
            longest = max(image.size["longest_edge"] for image in tokenized.images)
            prompt["mm_processor_kwargs"] = {"size": {"shortest_edge": smallest, "longest_edge": longest}}
    return prompt


def sampling_of(request: Request, stop_token_ids: Sequence[int], max_tokens: int, *, budget: bool) -> dict[str, Any]:
    """Write sampling parameters, all but the grammar and the kind of output.

    Tokens come back without text: what they say, where a stop string or a loop ends them, is decided by `Transcript`,
    the same way for every engine that yields tokens.

    Args:
        budget: whether the model can think, so that a thinking budget means something.
    """
    sampling = request.sampling
    settings: dict[str, Any] = {
        "temperature": sampling.temperature or 0.0,
        "top_p": 1.0 if sampling.top_p is None else max(sampling.top_p, LEAST_TOP_P),
        "top_k": sampling.top_k or 0,
        "repetition_penalty": sampling.repetition_penalty or 1.0,
        "seed": sampling.seed,
        "logprobs": sampling.logprobs,
        "max_tokens": max_tokens,
        "stop_token_ids": list(stop_token_ids),
        "detokenize": False,
        "skip_special_tokens": False,
    }
    if budget and request.thinking_budget is not None:
        settings["thinking_token_budget"] = request.thinking_budget
    return settings


def logprob_of(token: int, found: Mapping[int, Any], alternatives: int, table: TokenBytes) -> TokenLogprob:
    """Read the entry of one token: itself and the likeliest alternatives by token number."""
    likeliest = sorted(found.items(), key=lambda entry: -entry[1].logprob)[:alternatives]
    top = tuple((table.text(other), float(entry.logprob)) for other, entry in likeliest)
    return TokenLogprob(table.text(token), float(found[token].logprob), top)


class ResizedPages:
    """Makes images as large as the model sees them, with Pillow, and keeps the last ones. Thread-safe.

    vLLM's own resampling differs by a little from the one that the transformers engine uses; an image that has its
    final size already passes through it unchanged, so that both engines see the same pixels.
    """

    def __init__(self, patch: int, resample: int, room: int = KEPT_PIXELS) -> None:
        self._patch = patch
        self._resample = resample
        self._room = room
        self._kept: OrderedDict[str, PIL.Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, image: MeasuredImage) -> PIL.Image.Image:
        """Return an image in its final size."""
        size = (image.columns * self._patch, image.rows * self._patch)
        if image.image.pixels.size == size:
            return image.image.pixels
        with self._lock:
            if (known := self._kept.get(image.key)) is not None:
                self._kept.move_to_end(image.key)
                return known
        import PIL.Image

        made = image.image.pixels.resize(size, PIL.Image.Resampling(self._resample))
        with self._lock:
            self._kept[image.key] = made
            while sum(kept.width * kept.height for kept in self._kept.values()) > self._room and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return made
