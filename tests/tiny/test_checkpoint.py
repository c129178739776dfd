"""A training run writes an ordinary checkpoint, small enough for the wheel."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import torch
from tiny.card import Run, write_card
from tiny.tokenizer import VISIBLE

from glm4v_core import Glm4v, Image, Message, Request, Sampling
from glm4v_core.dialect.dialects import GLM46V
from glm4v_core.engines.transformers.loading import Checkpoint


def test_it_is_recognised_and_small(checkpoint: Checkpoint, exported: Path) -> None:
    assert checkpoint.family.name == "tiny"
    assert sum(parameter.numel() for parameter in checkpoint.model.parameters()) <= 6_000_000
    assert sum(path.stat().st_size for path in exported.iterdir()) <= 13_000_000
    assert json.loads((exported / "config.json").read_text())["dtype"] == "bfloat16"


def test_it_ends_turns_as_its_dialect_says(checkpoint: Checkpoint) -> None:
    ends = {checkpoint.tokenizer.convert_ids_to_tokens(token) for token in checkpoint.stop_token_ids}
    assert ends == {"<|endoftext|>", "<|user|>", "<|observation|>"} >= set(GLM46V.end_of_turn) - {"<|assistant|>"}
    assert checkpoint.tokenizer.eos_token == checkpoint.tokenizer.pad_token == "<|endoftext|>"


def test_visible_tags_are_kept_when_special_tokens_are_skipped(checkpoint: Checkpoint) -> None:
    text = "".join(sorted(VISIBLE))
    ids = checkpoint.tokenizer(f"{text}<|user|>", add_special_tokens=False)["input_ids"]
    assert checkpoint.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_untrained_weights_are_finite_and_widely_spread(checkpoint: Checkpoint) -> None:
    weights = dict(checkpoint.model.named_parameters())
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert weights["model.language_model.embed_tokens.weight"].std() > 0.5
    assert not weights["model.visual.embeddings.position_embedding.weight"].any()


def test_it_answers_about_a_page(exported: Path) -> None:
    page = Image.load(PIL.Image.new("L", (90, 60), 240))
    with Glm4v.load(str(exported)) as model:
        completion = model.generate(Request((Message.user(page, "Read the text."),), sampling=Sampling(max_tokens=3)))
    assert completion.usage.image == 6
    assert 1 <= completion.usage.completion <= 3


def test_the_card_states_run_size_and_scores(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "Seed 1, 0 steps, 0 minutes" in card
    assert "| 0 | 10 | seeing only | 12.5% |  |  |" in card
    assert "| 100 | 990 | 1.00 | 99.1% | 0.042 | 98.5% |" in card
    assert "**documents** (50 pages)" in card
    assert "| cer | 1.25% | 1.00% to 2.00% | 400 |" in card
    assert "{" not in card


def test_a_card_says_that_there_are_no_scores(exported: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        json.dumps({"step": 10, "seconds": 60, "level": 0.0, "cell": 1.0, "cell_right": 0.5, "text": None}) + "\n"
    )
    config = json.loads((exported / "config.json").read_text())
    write_card(tmp_path, config, 5_000_000, Run(7, 10, 1.0), log, [])
    card = (tmp_path / "README.md").read_text()
    assert "Not scored yet." in card
    assert "(5.00 million parameters, bf16)" in card
