"""Train the bundled tiny checkpoint from a seed.

    python scripts/train_tiny.py --minutes 110            # start, or resume from the folder
    python scripts/train_tiny.py --export glm4v_core/tiny/checkpoint --scores out/documents/evaluation.json

Pages are generated on the fly in worker processes. Difficulty rises with accuracy; the learning rate falls
over the last part of the given time. `log.jsonl` holds one line every ten steps, ready to plot.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file
from tokenizers import Tokenizer

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from tiny.batches import Batch, loader
from tiny.card import Run, write_card
from tiny.export import export
from tiny.network import Losses, Trainee, build_config
from tiny.tokenizer import build_tokenizer
from tiny.wordings import every_text

WARMUP_STEPS = 120
DECAY_SHARE = 0.4
ASK_ABOVE = 0.85
"""Questions begin once the running share of correctly named cells is above this."""
RAISE_ABOVE = 0.75
"""The level rises while the running share of right tokens on pages is above this."""


class Trainer:
    """Holds everything a training run needs to stop and go on."""

    def __init__(self, folder: Path, seed: int, minutes: float, rate: float) -> None:
        self.folder, self.seed, self.minutes, self.rate = folder, seed, minutes, rate
        torch.manual_seed(seed)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer()
        self.trainee = Trainee(build_config(self.tokenizer))
        self.optimizers = make_optimizers(self.trainee)
        self.level = multiprocessing.Value("d", -1.0)
        self.step, self.elapsed, self.right = 0, 0.0, 0.0

    def _tokenizer(self) -> Tokenizer:
        """The run's own vocabulary: wordings may change between two parts of a run, token ids may not."""
        kept = self.folder / "tokenizer.json"
        if not kept.exists():
            build_tokenizer(every_text()).save(str(kept))
        return Tokenizer.from_file(str(kept))

    @property
    def checkpoint(self) -> Path:
        return self.folder / "last.pt"

    def resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.trainee.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.elapsed, self.right = state["step"], state["elapsed"], state["right"]
        self.level.value = state["level"]

    def start_from(self, folder: Path) -> None:
        """Take the weights and the vocabulary of an exported folder; only the auxiliary head starts from scratch."""
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.save(str(self.folder / "tokenizer.json"))
        self.trainee.network.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        self.trainee.take_positions()
        self.level.value = 1.0
        self.trainee.head_is_new = True

    @torch.no_grad()
    def average_with(self, folder: Path, share: float = 0.5) -> None:
        """Take the mean of these weights and an exported folder's, such as the one that the run started from.

        Two ends of a long run jump between lines at different places; their mean makes fewer errors than either.

        Args:
            folder: of the other weights.
            share: of the other weights in the mean.
        """
        self.trainee.give_positions()
        others = load_file(folder / "model.safetensors")
        for name, weight in self.trainee.network.state_dict().items():
            weight.lerp_(others[name].float(), share)
        self.trainee.take_positions()

    def save(self) -> None:
        state = {
            "model": self.trainee.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "elapsed": self.elapsed,
            "right": self.right,
            "level": self.level.value,
            "seed": self.seed,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def learning_rate(self) -> float:
        """Warm up, hold, then fall to 2 % over the last DECAY_SHARE of the time."""
        warm = min(1.0, (self.step + 1) / WARMUP_STEPS)
        left = max(0.0, 1 - self.elapsed / (60 * self.minutes)) / DECAY_SHARE
        return self.rate * warm * max(0.02, min(1.0, left))

    def train(self, workers: int) -> None:
        batches = loader(self.tokenizer, self.seed + self.step, self.level, workers)
        started, before, saved = time.monotonic(), self.elapsed, self.elapsed
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns) as progress, (self.folder / "log.jsonl").open("a") as log:
            task = progress.add_task("training", total=60 * self.minutes, completed=self.elapsed)
            while self.elapsed < 60 * self.minutes:
                line = self.take_step(next(batches))
                self.elapsed = before + time.monotonic() - started
                if self.step % 10 == 0:
                    log.write(json.dumps({"step": self.step, "seconds": round(self.elapsed), **line}) + "\n")
                    log.flush()
                    shown = f"step {self.step} level {self.level.value:.2f} right {self.right:.3f}"
                    progress.update(task, completed=self.elapsed, description=shown)
                if self.elapsed - saved > 300:
                    self.save()
                    saved = self.elapsed
        self.save()

    def take_step(self, batch: Batch) -> dict[str, Any]:
        rate = self.learning_rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
        self.trainee.head_is_new &= self.step < WARMUP_STEPS
        with torch.autocast("cpu", torch.bfloat16):
            losses = self.trainee(batch)
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.raise_level(losses)
        return {
            "level": round(self.level.value, 3),
            "pages": len(batch.grids),
            "text": None if losses.text is None else round(losses.text.item(), 4),
            "text_right": losses.text_right and round(losses.text_right, 4),
            "cell": None if losses.cell is None else round(losses.cell.item(), 4),
            "cell_right": losses.cell_right and round(losses.cell_right, 4),
            "norm": round(norm.item(), 3),
            "rate": round(rate, 6),
        }

    def export(self, folder: Path, scores: list[Path], remark: str = "") -> None:
        """Write the checkpoint folder with its card."""
        network = self.trainee.network
        self.trainee.give_positions()
        export(network, self.tokenizer, folder)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        run = Run(self.seed, self.step, self.elapsed / 60, remark)
        write_card(folder, network.config.to_dict(), parameters, run, self.folder / "log.jsonl", scores)

    def raise_level(self, losses: Losses) -> None:
        """Train to see, then to read one short line, then more and more."""
        if losses.cell_right is None:
            return
        seeing = self.level.value < 0
        right = losses.cell_right if losses.text_right is None else losses.text_right
        if seeing != (losses.text_right is None):
            return  # made before the level changed
        self.right = 0.95 * self.right + 0.05 * right
        if seeing and self.right > ASK_ABOVE:
            self.level.value, self.right = 0.0, 0.0
        elif not seeing and self.right > RAISE_ABOVE:
            self.level.value = min(1.0, self.level.value + 0.003)


def make_optimizers(trainee: Trainee) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside layers, AdamW for the rest (embeddings, norms, biases, convolutions, the auxiliary head)."""
    matrices, places, others = [], [], []
    for name, parameter in trainee.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = parameter.ndim == 2 and ("layers." in name or "blocks." in name or "merger." in name)
        kind = matrices if inside else places if "page_positions." in name else others
        kind.append(parameter)
    muon = torch.optim.Muon([{"params": matrices, "scale": 2.0}], weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": others, "scale": 1.0}, {"params": places, "scale": 4.0}]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adam]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("training"), help="checkpoints and log")
    parser.add_argument("--minutes", type=float, default=110, help="training time in all, resumed parts included")
    parser.add_argument(
        "--start-from", type=Path, help="take the weights of an exported folder and continue at full difficulty"
    )
    parser.add_argument("--seed", type=int, default=20261120)
    parser.add_argument("--rate", type=float, default=6e-4, help="learning rate of AdamW; Muon takes twice that")
    parser.add_argument("--remark", default="", help="a sentence for the model card about this run")
    parser.add_argument("--workers", type=int, default=2, help="processes that make pages")
    parser.add_argument("--export", type=Path, help="write the checkpoint folder here instead of training")
    parser.add_argument("--average-with", type=Path, help="export the mean with the weights of this exported folder")
    parser.add_argument("--share", type=float, default=0.5, help="weight of that folder in the mean")
    parser.add_argument("--scores", type=Path, nargs="*", default=[], help="evaluation.json files for the model card")
    options = parser.parse_args()
    trainer = Trainer(options.folder, options.seed, options.minutes, options.rate)
    trainer.resume()
    if options.start_from and not trainer.step:
        trainer.start_from(options.start_from)
    if options.average_with:
        trainer.average_with(options.average_with, options.share)
    if options.export:
        trainer.export(options.export, options.scores, options.remark)
    else:
        trainer.train(options.workers)


if __name__ == "__main__":
    main()
