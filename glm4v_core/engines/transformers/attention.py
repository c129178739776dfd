"""Parts of the model that are computed in another way than transformers does, with the same results."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "glm4v_grouped"
"""The name under which transformers finds `grouped_attention`."""


def adapt(model: Any) -> Any:
    """Put this attention and patch projection into a `...ForConditionalGeneration` of the family, and return it."""
    model.model.language_model.set_attn_implementation(ATTENTION)
    embedding = model.model.visual.patch_embed
    if not isinstance(embedding.proj, PatchProjection):
        embedding.proj = PatchProjection(embedding.proj)
    return model.eval()


class PatchProjection(torch.nn.Module):  # type: ignore[misc]  # its base is not analysed
    """The patch embedding's convolution, whose kernel never overlaps, as the one matrix product it is."""

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(convolution.weight.detach().flatten(1), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Project patches, [patches, channels, frames, height, width], to [patches, hidden size]."""
        return linear(patches.flatten(1), self.weight, self.bias)


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend without repeating keys and values for the query heads that share them.

    While decoding, the query heads of one group become the rows of one small matrix. That reads the cache once, where
    the usual repetition copies it as often as a group has heads (16 in the 9B models).

    Args:
        module: not used; transformers passes the layer.
        query: [rows, query heads, tokens, head size].
        key: [rows, heads, stored tokens, head size].
        value: as `key`.
        attention_mask: [rows, 1, tokens, stored tokens], True where a token may look; None is causal.
        scaling: factor of the scores; None is one over the square root of the head size.
        kwargs: not used.

    Returns:
        [rows, tokens, query heads, head size], and no weights.
    """
    rows, heads, tokens, size = query.shape
    shared = key.shape[1]
    if tokens == 1:
        query = query.view(rows, shared, heads // shared, size)
        output = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
        return output.reshape(rows, 1, heads, size), None
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, is_causal=attention_mask is None, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, grouped_attention)
