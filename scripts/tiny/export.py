"""Write the trained network as a checkpoint folder like any on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, Glm4vForConditionalGeneration, PreTrainedTokenizerFast

from tiny.tokenizer import SPECIAL, VISIBLE

TEMPLATE = Path(__file__).parents[2] / "tests" / "templates" / "46v.jinja"
"""Written from the specification of the 4.6V dialect; the tests hold it to every rule."""
PIXELS = {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 448 * 448}
"""Areas over the two frames of a still image: one cell to a page of 448 x 448 px."""


def export(network: Glm4vForConditionalGeneration, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights (bf16), configuration, tokenizer, chat template and processor files."""
    folder.mkdir(parents=True, exist_ok=True)
    network.to(torch.bfloat16).save_pretrained(folder)
    stops = network.config.text_config.eos_token_id
    GenerationConfig(do_sample=False, eos_token_id=stops, pad_token_id=stops[0]).save_pretrained(folder)
    _tokenizer(tokenizer).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text())
    _write(folder / "preprocessor_config.json", _processor("Glm46VImageProcessor"))
    _write(folder / "video_preprocessor_config.json", _processor("Glm46VVideoProcessor"))


def _tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        extra_special_tokens=[token for token in SPECIAL if token not in VISIBLE and token != "<|endoftext|>"],
    )


def _processor(kind: str) -> dict[str, Any]:
    return {
        "processor_class": "Glm46VProcessor",
        kind.replace("Glm46VImageProcessor", "image_processor_type").replace(
            "Glm46VVideoProcessor", "video_processor_type"
        ): kind,
        "size": PIXELS,
        "do_rescale": True,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
