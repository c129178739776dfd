"""The tiny network: a real Glm4vForConditionalGeneration, and a training pass over a forest of questions at once."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Glm4vConfig, Glm4vForConditionalGeneration
from transformers.models.glm4v.configuration_glm4v import Glm4vVisionConfig
from transformers.models.glm4v.modeling_glm4v import apply_rotary_pos_emb, apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_attention_seqlens, get_vision_position_ids

from tiny.batches import Batch
from tiny.sequences import CELL_SLOTS, CLASSES

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def build_config(tokenizer: Tokenizer) -> Glm4vConfig:
    token = tokenizer.token_to_id
    vocabulary = (tokenizer.get_vocab_size() + 63) // 64 * 64
    stops = [token("<|endoftext|>"), token("<|user|>"), token("<|observation|>")]
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [4, 6, 6],
        },
        "pad_token_id": token("<|endoftext|>"),
        "eos_token_id": stops,
        "tie_word_embeddings": False,
        # The class always has this bias; vLLM loads it only where the configuration says so.
        "attention_bias": True,
    }
    vision = {
        "depth": 3,
        "hidden_size": 192,
        "num_heads": 3,
        "intermediate_size": 512,
        "out_hidden_size": 256,
        "image_size": 448,
        "patch_size": 14,
    }
    return Glm4vConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=False,
        image_token_id=token("<|image|>"),
        video_token_id=token("<|video|>"),
        image_start_token_id=token("<|begin_of_image|>"),
        image_end_token_id=token("<|end_of_image|>"),
        video_start_token_id=token("<|begin_of_video|>"),
        video_end_token_id=token("<|end_of_video|>"),
        eos_token_id=stops,
        pad_token_id=token("<|endoftext|>"),
    )


def start(network: nn.Module) -> None:
    """Give small layers weights of a size that suits them.

    The family's deviation of 0.02 fits 4096 wide layers. In layers of 200 it makes attention start flat and lets the
    layers' outputs drown the embeddings, which costs most of the time until reading begins.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding) and module.weight.requires_grad:
            nn.init.normal_(module.weight, std=0.7)
        elif name.endswith(("post_self_attn_layernorm", "post_mlp_layernorm")):
            nn.init.constant_(module.weight, 0.4)
    nn.init.normal_(network.lm_head.weight, std=0.5 * network.lm_head.in_features**-0.5)


@dataclass(slots=True)
class Losses:
    """What one batch costs, and the share of right characters; None where it has no text or no pages."""

    text: Tensor | None = None
    cell: Tensor | None = None
    text_right: float | None = None
    cell_right: float | None = None

    @property
    def total(self) -> Tensor:
        return sum((part for part in (self.text, self.cell) if part is not None), torch.zeros(()))


class PagePositions(nn.Module):
    """Learned places on a page: the network's table of 32 x 32 places, kept as a sum of rows and columns.

    The family stretches its table over the page by bicubic interpolation of every patch, which costs more than a block.
    The sum of a row and a column may be stretched along each side alone. Reading needs the places: rotary positions tell
    how far apart two patches are, but only a learned row tells apart two lines with the same words.
    """

    def __init__(self, config: Glm4vVisionConfig) -> None:
        super().__init__()
        self.side = config.image_size // config.patch_size
        self.rows = nn.Parameter(torch.zeros(self.side, config.hidden_size))
        self.columns = nn.Parameter(torch.zeros(self.side, config.hidden_size))

    def forward(self, grids: Tensor) -> Tensor:
        """Give the places of all patches, cell by cell of 2 x 2, [patches, hidden]."""
        places = []
        for _, height, width in grids.tolist():
            rows = _stretched(self.side, height) @ self.rows
            columns = _stretched(self.side, width) @ self.columns
            place = (rows[:, None] + columns).view(height // 2, 2, width // 2, 2, -1)
            places.append(place.transpose(1, 2).flatten(0, 3))
        return torch.cat(places)

    @torch.no_grad()
    def take(self, table: Tensor) -> None:
        square = table.float().view(self.side, self.side, -1)
        self.rows.copy_(square.mean(1))
        self.columns.copy_(square.mean(0) - square.mean((0, 1)))

    @torch.no_grad()
    def give(self, table: Tensor) -> None:
        table.copy_((self.rows[:, None] + self.columns).flatten(0, 1))


@functools.lru_cache(256)
def _stretched(side: int, length: int) -> Tensor:
    """The weights of bicubic interpolation from `side` places to `length`, [length, side]."""
    places = (torch.arange(length) + 0.5) / length * 2 - 1
    grid = torch.stack((torch.zeros(length), places), -1)[None, :, None]
    each = torch.eye(side)[None, :, :, None]
    return functional.grid_sample(each, grid, mode="bicubic", align_corners=False, padding_mode="border")[0, :, :, 0].T


class Trainee(nn.Module):
    """The model with the auxiliary head that names the characters of each cell; the head is dropped after training."""

    def __init__(self, config: Glm4vConfig) -> None:
        super().__init__()
        self.network = Glm4vForConditionalGeneration(config)
        self.cell_head = nn.Linear(config.vision_config.out_hidden_size, CELL_SLOTS * CLASSES)
        self.head_is_new = False
        """Whether the auxiliary head must first learn what trained weights see, without pulling at them."""
        nn.init.zeros_(self.network.model.visual.embeddings.position_embedding.weight).requires_grad_(False)
        self.page_positions = PagePositions(config.vision_config)
        start(self.network)

    def take_positions(self) -> None:
        """Take the learned positions from the network's own table, as after loading exported weights."""
        self.page_positions.take(self.network.model.visual.embeddings.position_embedding.weight)

    def give_positions(self) -> None:
        """Write the learned positions into the network's own table, as before an export."""
        self.page_positions.give(self.network.model.visual.embeddings.position_embedding.weight)

    def forward(self, batch: Batch) -> Losses:
        losses = Losses()
        embedded = self.network.get_input_embeddings()(batch.ids)
        if len(batch.patches):
            seen = self.see(batch)
            named = self.cell_head(seen.detach() if self.head_is_new else seen).view(-1, CLASSES).float()
            wanted = batch.cells.reshape(-1)
            losses.cell = functional.cross_entropy(named, wanted)
            losses.cell_right = (named.detach().argmax(-1) == wanted)[wanted > 0].float().mean().item()
            mask = (batch.ids == self.network.config.image_token_id)[:, None]
            embedded = embedded.masked_scatter(mask, seen.to(embedded.dtype))
        if len(batch.ids):
            hidden = self.think(embedded, batch)
            weight = batch.weights[1:]
            where = weight > 0
            logits = self.network.lm_head(hidden[:-1][where]).float()
            target, weight = batch.ids[1:][where], weight[where]
            each = functional.cross_entropy(logits, target, reduction="none")
            losses.text = (each * weight).sum() / weight.sum()
            losses.text_right = (logits.detach().argmax(-1) == target).float().mean().item()
        return losses

    def think(self, embedded: Tensor, batch: Batch) -> Tensor:
        """Run the text model over all segments; a segment sees its root and itself."""
        text = self.network.model.language_model
        hidden = embedded[None]
        cos, sin = text.rotary_emb(hidden, batch.positions[:, None])
        for layer in text.layers:
            query, key, value = _text_projections(layer, hidden, cos, sin)
            hidden = _text_rest(layer, hidden, forest_attention(query, key, value, batch))
        return text.norm(hidden)[0]

    def see(self, batch: Batch) -> Tensor:
        """Encode grey pages as the model does three equal channels and two equal frames, six times cheaper at the patches."""
        visual = self.network.model.visual
        kernel = visual.patch_embed.proj.weight.sum(2)
        std, mean = kernel.new_tensor(STD), kernel.new_tensor(MEAN)
        grey = (kernel / std[:, None, None]).sum(1).flatten(1)
        bias = visual.patch_embed.proj.bias - (kernel * (mean / std)[:, None, None]).sum((1, 2, 3))
        hidden = functional.linear(batch.patches.float() / 255, grey, bias)
        hidden = visual.post_conv_layernorm(hidden) + self.page_positions(batch.grids)
        cos, sin = visual.rotary_pos_emb(hidden, get_vision_position_ids(batch.grids, 2))
        borders, _ = get_vision_attention_seqlens(batch.grids, visual.config)
        lengths = (borders[1:] - borders[:-1]).tolist()
        for block in visual.blocks:
            query, key, value = _vision_projections(block, hidden, cos, sin)
            hidden = _vision_rest(block, hidden, page_attention(query, key, value, lengths))
        hidden = visual.post_layernorm(hidden)
        hidden = hidden.view(-1, 2, 2, hidden.shape[-1]).permute(0, 3, 1, 2)
        merged: Tensor = visual.merger(visual.downsample(hidden).flatten(1))
        return merged


# The parts of a layer around its attention, compiled once for all layers: on a CPU most time of eager training goes to
# element-wise operations that the compiler fuses.


@torch.compile(dynamic=True)
def _text_projections(layer: nn.Module, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    attention, normed = layer.self_attn, layer.input_layernorm(hidden)
    query, key, value = (
        project(normed).view(1, hidden.shape[1], -1, attention.head_dim).transpose(1, 2).float()
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    return query, key, value


@torch.compile(dynamic=True)
def _text_rest(layer: nn.Module, hidden: Tensor, attended: Tensor) -> Tensor:
    hidden = hidden + layer.post_self_attn_layernorm(layer.self_attn.o_proj(attended))
    rest: Tensor = hidden + layer.post_mlp_layernorm(layer.mlp(layer.post_attention_layernorm(hidden)))
    return rest


@torch.compile(dynamic=True)
def _vision_projections(block: nn.Module, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    joined = block.attn.qkv(block.norm1(hidden)).view(hidden.shape[0], 3, block.attn.num_heads, -1).float()
    query, key, value = joined.unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
    return query, key, value


@torch.compile(dynamic=True)
def _vision_rest(block: nn.Module, hidden: Tensor, attended: Tensor) -> Tensor:
    hidden = hidden + block.attn.proj(attended)
    rest: Tensor = hidden + block.mlp(block.norm2(hidden))
    return rest


def forest_attention(query: Tensor, key: Tensor, value: Tensor, batch: Batch) -> Tensor:
    """Attend per segment to its parent and itself, [1, heads, tokens, size] to [1, tokens, heads * size]."""
    queries, keys, values = (tensor.split(batch.lengths, 2) for tensor in (query, key, value))
    attended = []
    with torch.autocast("cpu", enabled=False):
        for index, parent in enumerate(batch.parents):
            seen, said, mask = keys[index], values[index], None
            if parent is not None:
                mask = _below(batch.lengths[parent], batch.lengths[index])
                seen, said = torch.cat((keys[parent], seen), 2), torch.cat((values[parent], said), 2)
            attended.append(
                functional.scaled_dot_product_attention(
                    queries[index], seen, said, attn_mask=mask, is_causal=mask is None, enable_gqa=True
                )
            )
    return torch.cat(attended, 2).transpose(1, 2).flatten(2)


@functools.lru_cache(4096)
def _below(prefix: int, length: int) -> Tensor:
    allowed = torch.ones(length, prefix + length, dtype=torch.bool).tril(prefix)
    return torch.zeros(length, prefix + length).masked_fill_(~allowed, float("-inf"))


def page_attention(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """Attend within each page, [patches, heads, size] to [patches, heads * size]."""
    with torch.autocast("cpu", enabled=False):
        parts = [
            functional.scaled_dot_product_attention(*(part.transpose(0, 1)[None] for part in page))
            for page in zip(*(tensor.split(lengths) for tensor in (query, key, value)), strict=True)
        ]
    return torch.cat([part[0].transpose(0, 1) for part in parts]).flatten(1)
