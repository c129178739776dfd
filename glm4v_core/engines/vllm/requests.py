"""Converts a request to vLLM's format, as plain data. Nothing here imports vLLM."""

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
"""Used for a top_p of 0, which vLLM refuses. It leaves only the most likely token, too."""
KEPT_PIXELS = 2**26
"""Maximum number of pixels of resized pages that are kept for further questions about them; about 200 MB."""


def prompt_of(tokenized: TokenizedPrompt, pixels: Sequence[PIL.Image.Image], shortest: int) -> dict[str, Any]:
    """Return a prompt for vLLM. Images are identified by content hash, so that each is processed only once.

    Args:
        tokenized: the prompt.
        pixels: its images, at the size at which the model sees them.
        shortest: the image processor's own smallest area, in pixels over two frames. It must be lowered for smaller
            images, which would be enlarged otherwise.
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
    """Return the sampling parameters, except for the grammar and the kind of output.

    vLLM returns tokens without text. `Transcript` converts them to text and applies stop strings and the repetition
    guard, as for the transformers engine.

    Args:
        request: complete and checked.
        stop_token_ids: tokens that end the answer.
        max_tokens: maximum number of new tokens.
        budget: whether the model can reason, so that a thinking budget applies.
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
    """Return the log probability of one token, with the most likely alternatives.

    Args:
        token: the one that was chosen.
        found: token id to vLLM's log probability.
        alternatives: how many to list.
        table: texts of the tokens.
    """
    likeliest = sorted(found.items(), key=lambda entry: -entry[1].logprob)[:alternatives]
    top = tuple((table.text(other), float(entry.logprob)) for other, entry in likeliest)
    return TokenLogprob(table.text(token), float(found[token].logprob), top)


class ResizedPages:
    """Resizes images to the size at which the model sees them, with Pillow, and keeps recent ones. Thread-safe.

    vLLM's resampling differs slightly from that of the transformers engine. vLLM does not change an image that already
    has its final size, so with this both engines see the same pixels.

    Args:
        patch: side of a patch, in pixels.
        resample: Pillow's number of the resampling filter.
        room: maximum number of pixels to keep.
    """

    def __init__(self, patch: int, resample: int, room: int = KEPT_PIXELS) -> None:
        self._patch = patch
        self._resample = resample
        self._room = room
        self._kept: OrderedDict[str, PIL.Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, image: MeasuredImage) -> PIL.Image.Image:
        """Return the pixels of an image at its final size."""
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
