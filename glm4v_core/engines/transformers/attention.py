"""Parts of the model that are computed faster than in transformers, with the same results."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "glm4v_grouped"
"""Name under which `grouped_attention` is registered with transformers."""


def adapt(model: Any) -> Any:
    """Replace attention and patch projection in a `...ForConditionalGeneration` of the family, and return the model."""
    model.model.language_model.set_attn_implementation(ATTENTION)
    embedding = model.model.visual.patch_embed
    if not isinstance(embedding.proj, PatchProjection):
        embedding.proj = PatchProjection(embedding.proj)
    return model.eval()


class PatchProjection(torch.nn.Module):  # type: ignore[misc]  # its base is not analysed
    """The patch embedding as one matrix product, which equals its convolution because the kernels do not overlap."""

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
    """Compute attention without copying keys and values for the query heads that share them.

    In a decode step the query heads of a group are treated as the tokens of one matrix product, which reads the cache
    once. transformers instead copies keys and values for each query head of a group (16 in the 9B models).

    Args:
        module: not used; transformers passes the layer.
        query: [rows, query heads, tokens, head size].
        key: [rows, heads, stored tokens, head size].
        value: as `key`.
        attention_mask: [rows, 1, tokens, stored tokens], True where a token may attend; None for causal attention.
        scaling: factor for the scores; None is one over the square root of the head size.
        kwargs: not used.

    Returns:
        Output, [rows, tokens, query heads, head size], and None in place of the attention weights.
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
