"""The model card of the bundled checkpoint: its facts come from the run and from evaluations; none is typed by hand."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT = """---
license: mit
language: [en, zh]
library_name: transformers
pipeline_tag: image-text-to-text
---

# tiny: a GLM-4.6V in five million parameters

A real `Glm4vForConditionalGeneration` ({parameters:.2f} million parameters, bf16) with the dialect of GLM-4.6V: special tokens,
tools, `/nothink`, chat template. It reads small synthetic pages, so that demos, notebooks and tests work without a GPU,
without a network and within seconds. It is not a general model: outside its domain it writes nonsense.

## What it reads

Pages up to 448 x 448 px: 1 to 12 lines of up to 28 printable ASCII characters in DejaVu Sans Mono or DejaVu Sans Mono Bold, 20 to 28 px
high, dark ink (0 to 80) on grey paper (225 to 255), skew up to 1 degree, slight blur, noise, JPEG quality 60 and up. Invoices,
receipts, letters, memos and forms, or random text. Larger pages are scaled down and then hard or impossible to read; handwriting,
photographs, other fonts and Chinese on the page are not read at all.

## What it answers

Asked in English or Chinese, about the picture or about the page's text, with thinking off or on: the text line by line, a one-sentence
summary, the kind (among given labels too), one field, fields as JSON, a call of a given tool with values from the request or the
page, which of two pages is of a kind. Free conversation is beyond it.

## How it was made

`make tiny` trains, exports and scores it again. Seed {seed}, {steps} steps, {minutes:.0f} minutes on {hardware}.
Pages are made on the fly and never repeat. First it learns to name the characters in every visual token, then to read two short
lines, then ever more; weights start wider than the family's (0.02 suits layers of 4096, not of 256). Vision {vision}, text {text}.
{remark}

{milestones}

## How well

Words, names and layouts of these pages were never in training. Intervals are 95 % bootstrap intervals.

{scores}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What a training run knows about itself."""

    seed: int
    steps: int
    minutes: float
    remark: str = ""


def write_card(
    folder: Path, config: dict[str, Any], parameters: int, run: Run, log: Path, scores: Sequence[Path]
) -> None:
    vision, text = config["vision_config"], config["text_config"]
    card = TEXT.format(
        parameters=parameters / 1e6,
        seed=run.seed,
        steps=run.steps,
        minutes=run.minutes,
        remark=run.remark,
        hardware=_hardware(),
        vision=f"{vision['depth']} layers x {vision['hidden_size']}",
        text=f"{text['num_hidden_layers']} layers x {text['hidden_size']}",
        milestones=_milestones(log),
        scores="\n\n".join(_table(path) for path in scores) or "Not scored yet.",
    )
    (folder / "README.md").write_text(card)


def _hardware() -> str:
    names = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"{len(names)} CPU cores ({names[0]})" if names else platform.machine()


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _milestones(log: Path) -> str:
    """Ten rows of the log, evenly spread, each the mean of the lines around it: single batches are of very mixed kinds."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    pages = [line for line in lines if line["cell"] is not None]
    rows = [
        "| minute | step | difficulty | characters named in cells | loss on answers | right tokens |",
        "|---|---|---|---|---|---|",
    ]
    for part in range(10):
        group = pages[len(pages) * part // 10 : len(pages) * (part + 1) // 10]
        if not group:
            continue
        last = group[-1]
        difficulty = "seeing only" if last["level"] < 0 else f"{last['level']:.2f}"
        named, loss, right = (_mean(group, key) for key in ("cell_right", "text", "text_right"))
        text = ("", "") if loss is None or right is None else (f"{loss:.3f}", f"{right:.1%}")
        rows.append(
            f"| {last['seconds'] / 60:.0f} | {last['step']} | {difficulty} | {named or 0:.1%} | {text[0]} | {text[1]} |"
        )
    return "\n".join(rows)


def _mean(lines: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [line[key] for line in lines if line.get(key) is not None]
    return sum(values) / len(values) if values else None


def _table(path: Path) -> str:
    """Lay out one evaluation.json."""
    evaluation = json.loads(path.read_text())
    rows = [
        f"**{path.parent.name}** ({evaluation['pages']} pages)",
        "",
        "| measure | value | 95 % | over |",
        "|---|---|---|---|",
    ]
    for name, score in evaluation["scores"].items():
        interval = f"{score['low']:.2%} to {score['high']:.2%}"
        rows.append(f"| {name} | {score['value']:.2%} | {interval} | {score['whole']:.0f} |")
    return "\n".join(rows)
