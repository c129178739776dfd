"""Checkpoint folders with random weights: real classes, real files, at most a few million parameters."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

Architecture = Literal["glm4v", "glm4v_moe", "glm_ocr"]
Generation = Literal["4.1V", "4.6V"]

ROLES = [
    *["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"],
    *["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
    *["<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"],
]
THINKER_TAGS = [
    *["<|image|>", "<|video|>", "<think>", "</think>", "<answer>", "</answer>"],
    *["<|begin_of_box|>", "<|end_of_box|>"],
]
CALLER_TAGS = [
    *["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
    *["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "/nothink"],
    *["<|begin_of_box|>", "<|end_of_box|>", "<|image|>", "<|video|>"],
]

THINKER_TEMPLATE = (Path(__file__).parents[1] / "templates" / "41v.jinja").read_text()
CALLER_TEMPLATE = """[gMASK]<sop>
{%- macro parts(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content -%}
{%- if part.type in ('image', 'image_url') -%}<|begin_of_image|><|image|><|end_of_image|>
{%- elif part.type == 'text' -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
<|system|>
# Tools
<tools>
{% for tool in tools %}{{ tool | tojson(ensure_ascii=False) }}
{% endfor %}</tools>
<tool_call>{function-name}
<arg_key>{arg-key-1}</arg_key>
<arg_value>{arg-value-1}</arg_value>
</tool_call>
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}<|user|>
{{ parts(message.content) }}{%- if enable_thinking is defined and not enable_thinking -%}/nothink{%- endif -%}
{%- elif message.role == 'assistant' -%}<|assistant|>
<think></think>
{{ parts(message.content) }}
{%- elif message.role == 'tool' -%}<|observation|>
<tool_response>
{{ parts(message.content) }}
</tool_response>
{%- elif message.role == 'system' -%}<|system|>
{{ parts(message.content) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>
{{ '<think></think>\n' if (enable_thinking is defined and not enable_thinking) else '' }}
{%- endif -%}
"""

CORPUS = [
    "Read the text on this page, line by line. Output only the text.",
    "Summarize this document in one sentence: its kind, the parties, the date and the amount.",
    "Which label fits this document best? Answer with one label only: invoice, receipt, letter, contract, form.",
    '{"name": "Müller & Söhne", "total": 1234.56, "paid": true, "items": [null, false]}',
    "请逐行识别图片中的文字，只输出文字。这份文档属于哪一类？只回答一个标签。",
    "The quick brown fox jumps over the lazy dog 0123456789 times; naïve café, 12:30, № 7, 50 €, emoji 😀🎉.",
]


def write_tokenizer(
    folder: Path, *, vocabulary: int, generation: Generation = "4.6V"
) -> transformers.PreTrainedTokenizerFast:
    tags, template = (THINKER_TAGS, THINKER_TEMPLATE) if generation == "4.1V" else (CALLER_TAGS, CALLER_TEMPLATE)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(ROLES) - len(tags),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=1,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # Real checkpoints flag only some of these as special; nothing may depend on the flag.
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ROLES])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in tags])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def text_settings(tokenizer: Any, *, architecture: Architecture, hidden: int, layers: int) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [4, 6, 6]}
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": hidden * 3,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "rope_parameters": rope,
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    }
    if architecture == "glm4v_moe":
        settings |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
        settings |= {"n_group": 1, "topk_group": 1}
    return settings


def configuration(
    tokenizer: Any, architecture: Architecture, text: dict[str, Any], vision: dict[str, Any]
) -> transformers.PretrainedConfig:
    ids = tokenizer.convert_tokens_to_ids
    config_class = {
        "glm4v": transformers.Glm4vConfig,
        "glm4v_moe": transformers.Glm4vMoeConfig,
        "glm_ocr": transformers.GlmOcrConfig,
    }[architecture]
    return config_class(
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"),
        video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
    )


def build_checkpoint(
    folder: Path,
    *,
    architecture: Architecture = "glm4v",
    vocabulary: int = 620,
    hidden: int = 128,
    layers: int = 2,
    vision_hidden: int = 64,
    vision_layers: int = 2,
    seed: int = 0,
    generation: Generation = "4.6V",
) -> Path:
    """Write a folder as published: weights, configuration, tokenizer, image processor, chat template."""
    random.seed(seed)
    torch.manual_seed(seed)
    tokenizer = write_tokenizer(folder, vocabulary=vocabulary, generation=generation)
    text = text_settings(tokenizer, architecture=architecture, hidden=hidden, layers=layers)
    vision = {
        "depth": vision_layers,
        "hidden_size": vision_hidden,
        "num_heads": vision_hidden // 64,
        "image_size": 336,
        "out_hidden_size": hidden,
        "intermediate_size": vision_hidden * 3,
    }
    config = configuration(tokenizer, architecture, text, vision)
    # Wide initial weights spread the logits, so that rounding never decides which token is the largest.
    config.text_config.initializer_range = 0.3
    config.vision_config.initializer_range = 0.1
    model = transformers.AutoModelForImageTextToText.from_config(config)
    _draw_biases(model)
    closing = ["</answer>"] if generation == "4.1V" else []
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|user|>", "<|observation|>", *closing])
    model.generation_config = transformers.GenerationConfig(eos_token_id=ends, pad_token_id=ends[0])
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "Glm4vImageProcessor" if architecture == "glm4v" else "Glm46VImageProcessor",
        "size": {"shortest_edge": 12544, "longest_edge": 28 * 28 * 2 * 400},
        "do_rescale": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def _draw_biases(model: torch.nn.Module) -> None:
    """A bias of zero, as a new model has it, would not show when an engine leaves it out."""
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.bias"):
            torch.nn.init.normal_(parameter, std=0.5)


ADAPTED = ("q_proj", "v_proj")
RANK = 4


def write_adapter(base: Path, folder: Path, merged: Path) -> None:
    """Write a LoRA adapter with random weights, and the base with the adapter worked into its weights."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(base)
    generator = torch.Generator().manual_seed(3)
    adapter = {}
    for name, module in model.named_modules():
        if name.endswith(ADAPTED) and isinstance(module, torch.nn.Linear):
            down = torch.randn(RANK, module.in_features, generator=generator) / 8
            up = torch.randn(module.out_features, RANK, generator=generator) / 8
            adapter |= {
                f"base_model.model.{name}.lora_A.weight": down,
                f"base_model.model.{name}.lora_B.weight": up,
            }
            module.weight.data += up @ down
    shutil.copytree(base, merged)
    model.save_pretrained(merged)
    folder.mkdir()
    save_file(adapter, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": list(ADAPTED), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
