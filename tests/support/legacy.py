"""A checkpoint folder of the first generation, glm-4v-9b: configuration, tokenizer code, and random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

COMMIT = "0123456789abcdef" * 2 + "01234567"
TOKENS = [
    *["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"],
    *["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
    *["<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"],
]
TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CODE = '''
from transformers import PreTrainedTokenizer


class ChatGLM4Tokenizer(PreTrainedTokenizer):
    """One token per byte, and a vocabulary of bytes, as the published tokenizer has."""

    vocab_files_names = {}
    model_input_names = ["input_ids", "attention_mask"]

    @property
    def vocab_size(self):
        return 256

    def get_vocab(self):
        return {**{bytes([index]): index for index in range(256)}, **self.added_tokens_encoder}

    def _tokenize(self, text, **kwargs):
        return [bytes([byte]) for byte in text.encode()]

    def _convert_token_to_id(self, token):
        return token[0]

    def _convert_id_to_token(self, index):
        return bytes([index])

    def save_vocabulary(self, folder, prefix=None):
        return ()
'''


HIDDEN, HEADS, GROUPS, HEAD, INNER, VOCABULARY, LAYERS = 128, 4, 2, 32, 192, 320, 2
SEEN, SEEN_INNER, SIDE, PATCH = 64, 96, 112, 14
IMAGE_TOKENS = (SIDE // PATCH // 2) ** 2


def write_legacy(folder: Path) -> Path:
    """Write the folder without weights; its numbers are small, its names are those of the published files."""
    vision = {
        "hidden_size": SEEN,
        "intermediate_size": SEEN_INNER,
        "num_heads": 2,
        "num_hidden_layers": LAYERS,
        "image_size": SIDE,
        "patch_size": PATCH,
        "in_channels": 3,
        "num_positions": (SIDE // PATCH) ** 2 + 1,
        "hidden_act": "gelu",
        "dropout_prob": 0.0,
        "layer_norm_eps": 1e-6,
        "scaling_factor": 8,
    }
    config = {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig", "AutoModel": "modeling_chatglm.ChatGLMModel"},
        "num_layers": LAYERS,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "kv_channels": HEAD,
        "multi_query_attention": True,
        "multi_query_group_num": GROUPS,
        "ffn_hidden_size": INNER,
        "add_qkv_bias": True,
        "original_rope": True,
        "rmsnorm": True,
        "layernorm_epsilon": 1.5625e-07,
        "padded_vocab_size": VOCABULARY,
        "seq_length": 4096,
        "tie_word_embeddings": False,
        "boi_token_id": 266,
        "eoi_token_id": 267,
        "pad_token_id": 256,
        "eos_token_id": [256, 263, 265],
        "vision_config": vision,
    }
    tokenizer = {
        "tokenizer_class": "ChatGLM4Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]},
        "chat_template": TEMPLATE,
        "added_tokens_decoder": {
            str(256 + index): {"content": token, "special": True} for index, token in enumerate(TOKENS)
        },
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "tokenization_chatglm.py").write_text(CODE)
    return folder


def write_weights(folder: Path) -> Path:
    """Write random weights under the published names."""
    generator = torch.Generator().manual_seed(0)
    shapes = _shapes_of_language() | _shapes_of_vision()
    weights = {
        name: torch.ones(shape)
        if "norm" in name and name.endswith("weight")
        else torch.randn(shape, generator=generator) / 8
        for name, shape in shapes.items()
    }
    save_file({f"transformer.{name}": weight for name, weight in weights.items()}, folder / "model.safetensors")
    return folder


def _shapes_of_language() -> dict[str, tuple[int, ...]]:
    width = (HEADS + 2 * GROUPS) * HEAD
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.word_embeddings.weight": (VOCABULARY, HIDDEN),
        "encoder.final_layernorm.weight": (HIDDEN,),
        "output_layer.weight": (VOCABULARY, HIDDEN),
    }
    for layer in range(LAYERS):
        place = f"encoder.layers.{layer}"
        shapes |= {
            f"{place}.input_layernorm.weight": (HIDDEN,),
            f"{place}.self_attention.query_key_value.weight": (width, HIDDEN),
            f"{place}.self_attention.query_key_value.bias": (width,),
            f"{place}.self_attention.dense.weight": (HIDDEN, HEADS * HEAD),
            f"{place}.post_attention_layernorm.weight": (HIDDEN,),
            f"{place}.mlp.dense_h_to_4h.weight": (2 * INNER, HIDDEN),
            f"{place}.mlp.dense_4h_to_h.weight": (HIDDEN, INNER),
        }
    return shapes


def _shapes_of_vision() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "vision.patch_embedding.cls_embedding": (1, SEEN),
        "vision.patch_embedding.position_embedding.weight": ((SIDE // PATCH) ** 2 + 1, SEEN),
        **_layer("vision.patch_embedding.proj", (SEEN, 3, PATCH, PATCH)),
        **_layer("vision.conv", (HIDDEN, SEEN, 2, 2)),
        "vision.boi": (1, 1, HIDDEN),
        "vision.eoi": (1, 1, HIDDEN),
        "vision.linear_proj.linear_proj.weight": (HIDDEN, HIDDEN),
        **_layer("vision.linear_proj.norm1", (HIDDEN,)),
        "vision.linear_proj.gate_proj.weight": (INNER, HIDDEN),
        "vision.linear_proj.dense_h_to_4h.weight": (INNER, HIDDEN),
        "vision.linear_proj.dense_4h_to_h.weight": (HIDDEN, INNER),
    }
    for layer in range(LAYERS):
        place = f"vision.transformer.layers.{layer}"
        shapes |= {
            **_layer(f"{place}.input_layernorm", (SEEN,)),
            **_layer(f"{place}.attention.query_key_value", (3 * SEEN, SEEN)),
            **_layer(f"{place}.attention.dense", (SEEN, SEEN)),
            **_layer(f"{place}.mlp.fc1", (SEEN_INNER, SEEN)),
            **_layer(f"{place}.mlp.fc2", (SEEN, SEEN_INNER)),
            **_layer(f"{place}.post_attention_layernorm", (SEEN,)),
        }
    return shapes


def _layer(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
