"""A training run can stop and resume, slows down at its end, and gets harder as it learns."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from tiny.batches import Batch, collate, loader
from tiny.network import Losses
from tiny.sequences import Composer, Level
from tokenizers import Tokenizer
from train_tiny import ASK_ABOVE, DECAY_SHARE, RAISE_ABOVE, WARMUP_STEPS, Trainer

RATE = 6e-4


@pytest.fixture(scope="module")
def batches(fonts: None, tokenizer: Tokenizer) -> list[Batch]:
    """One batch of pages without questions, one with short answers."""
    composer = Composer(tokenizer, Random(1))
    return [collate([composer.page(Level(-1.0))]), collate([composer.page(Level(0.0)), composer.page(Level(0.0))])]


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path, seed=1, minutes=10, rate=RATE)


def test_stopping_and_resuming_changes_nothing(tmp_path: Path, batches: list[Batch]) -> None:
    kept, other = (Trainer(tmp_path, seed=seed, minutes=10, rate=RATE) for seed in (1, 2))
    first = kept.take_step(batches[0])
    assert first["cell"] > 0
    assert first["text"] is None
    kept.elapsed, kept.level.value, kept.right = 17.5, 0.25, 0.125
    kept.save()
    other.resume()
    assert (other.step, other.elapsed, other.level.value, other.right) == (1, 17.5, 0.25, 0.125)
    lines = [trainer.take_step(batches[1]) for trainer in (kept, other)]
    assert lines[0] == lines[1]
    assert lines[0]["text"] > 0
    for name, weight in kept.trainee.state_dict().items():
        assert torch.equal(weight, other.trainee.state_dict()[name]), name
    assert (other.step, other.level.value, other.right) == (kept.step, kept.level.value, kept.right)


def test_a_step_learns_everything_but_the_table_that_an_export_fills(trainer: Trainer, batches: list[Batch]) -> None:
    before = {name: weight.clone() for name, weight in trainer.trainee.named_parameters()}
    trainer.step = WARMUP_STEPS
    trainer.take_step(batches[1])
    same = {name for name, weight in trainer.trainee.named_parameters() if torch.equal(weight, before[name])}
    assert same == {"network.model.visual.embeddings.position_embedding.weight"}
    assert not before[same.pop()].any()


def test_a_run_without_a_checkpoint_starts_from_scratch(trainer: Trainer) -> None:
    trainer.resume()
    assert (trainer.step, trainer.level.value) == (0, -1.0)


def test_a_run_can_start_from_an_exported_folder(trainer: Trainer, exported: Path) -> None:
    trainer.start_from(exported)
    assert (trainer.step, trainer.level.value) == (0, 1.0)
    saved = load_file(exported / "model.safetensors")
    for name, weight in trainer.trainee.network.state_dict().items():
        assert torch.equal(weight, saved[name].float()), name


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_the_mean_with_an_exported_folder_can_be_exported(trainer: Trainer, exported: Path, share: float) -> None:
    torch.nn.init.normal_(trainer.trainee.page_positions.rows)
    trainer.trainee.give_positions()
    before = {name: weight.clone() for name, weight in trainer.trainee.network.state_dict().items()}
    trainer.average_with(exported, share)
    trainer.trainee.give_positions()
    saved = load_file(exported / "model.safetensors")
    for name, weight in trainer.trainee.network.state_dict().items():
        mean = (1 - share) * before[name] + share * saved[name].float()
        torch.testing.assert_close(weight, mean, rtol=1e-4, atol=1e-4)


def test_a_run_keeps_its_vocabulary(tmp_path: Path) -> None:
    made = Trainer(tmp_path, seed=1, minutes=10, rate=RATE).tokenizer
    made.add_tokens(["a later wording"])
    made.save(str(tmp_path / "tokenizer.json"))
    assert Trainer(tmp_path, seed=1, minutes=10, rate=RATE).tokenizer.token_to_id("a later wording") is not None


@pytest.mark.parametrize(
    ("step", "share", "factor"),
    [
        (0, 0.0, 1 / WARMUP_STEPS),
        (WARMUP_STEPS // 2 - 1, 0.0, 0.5),
        (WARMUP_STEPS, 0.0, 1.0),
        (5000, 1 - DECAY_SHARE, 1.0),
        (9000, 1 - DECAY_SHARE / 2, 0.5),
        (9999, 1.0, 0.02),
        (9999, 1.5, 0.02),
    ],
)
def test_the_learning_rate_warms_up_holds_and_falls(trainer: Trainer, step: int, share: float, factor: float) -> None:
    trainer.step, trainer.elapsed = step, share * 60 * trainer.minutes
    assert trainer.learning_rate() == pytest.approx(RATE * factor)


def test_questions_begin_when_cells_are_named_well(trainer: Trainer) -> None:
    steps = 0
    while trainer.level.value < 0:
        trainer.raise_level(Losses(cell_right=1.0))
        steps += 1
    assert 1 - 0.95 ** (steps - 1) <= ASK_ABOVE < 1 - 0.95**steps
    assert (trainer.level.value, trainer.right) == (0.0, 0.0)
    trainer.raise_level(Losses(cell_right=1.0))
    assert trainer.right == 0.0, "a batch from before counts no longer"


def test_the_level_rises_while_answers_on_pages_are_right_and_ends_at_one(trainer: Trainer) -> None:
    trainer.level.value = 0.5
    trainer.raise_level(Losses(text_right=1.0))
    assert trainer.right == 0.0, "a batch without pages does not count"
    while trainer.level.value == 0.5:
        assert trainer.right <= RAISE_ABOVE
        trainer.raise_level(Losses(cell_right=0.0, text_right=1.0))
    assert 0.5 < trainer.level.value < 0.51
    raised = trainer.level.value
    trainer.right = 0.0
    trainer.raise_level(Losses(cell_right=1.0, text_right=1.0))
    assert trainer.level.value == raised
    trainer.level.value, trainer.right = 0.9999, 1.0
    trainer.raise_level(Losses(cell_right=1.0, text_right=1.0))
    assert trainer.level.value == 1.0


def test_batches_follow_the_level_and_the_seed(fonts: None, trainer: Trainer) -> None:
    looking = next(loader(trainer.tokenizer, 5, trainer.level, workers=0))
    assert len(looking.ids) == 0
    assert len(looking.grids) == 24
    trainer.level.value = 0.0
    asked, again, other = (next(loader(trainer.tokenizer, seed, trainer.level, workers=0)) for seed in (5, 5, 6))
    assert asked.ids.tolist() == again.ids.tolist() != other.ids.tolist()
    assert len(asked.ids) == sum(asked.lengths) == len(asked.weights) == asked.positions.shape[1]


def test_training_stops_when_its_time_is_over(fonts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiny.batches.PAGES_TO_LOOK_AT", 1)
    trainer = Trainer(tmp_path, seed=1, minutes=10, rate=RATE)
    trainer.step, trainer.elapsed = 9, 60 * 10 - 0.001
    trainer.train(workers=0)
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert line["step"] == trainer.step == 10
    assert line["rate"] == pytest.approx(RATE * 0.02 * 10 / WARMUP_STEPS, abs=1e-6)
    assert torch.load(trainer.checkpoint, weights_only=True)["step"] == 10
