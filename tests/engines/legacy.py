"""A checkpoint folder of the first generation, glm-4v-9b, without weights: configuration and tokenizer code."""

from __future__ import annotations

import json
from pathlib import Path

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


def write_legacy(folder: Path) -> Path:
    """Write the folder; its numbers are small, its names are those of the published files."""
    config = {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig", "AutoModel": "modeling_chatglm.ChatGLMModel"},
        "num_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "multi_query_group_num": 2,
        "kv_channels": 16,
        "ffn_hidden_size": 128,
        "padded_vocab_size": 320,
        "seq_length": 4096,
        "boi_token_id": 266,
        "eoi_token_id": 267,
        "pad_token_id": 256,
        "eos_token_id": [256, 263, 265],
        "vision_config": {"hidden_size": 32, "intermediate_size": 64, "image_size": 112, "patch_size": 14},
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
