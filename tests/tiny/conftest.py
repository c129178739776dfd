"""The programs in scripts/ as modules, a vocabulary, and one untrained checkpoint folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny.pages import FONT_FOLDER, FONTS
from tiny.tokenizer import build_tokenizer
from tiny.wordings import every_text
from tokenizers import Tokenizer

from glm4v_core.engines.transformers.loading import Checkpoint, load_checkpoint
from glm4v_core.engines.transformers.options import TransformersOptions

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    # torch's compiler still imports what torch deprecates.
    from train_tiny import Trainer

SCORE = {"value": 0.0125, "low": 0.01, "high": 0.02, "whole": 400}


@pytest.fixture(scope="session", autouse=True)
def _nothing_compiled() -> Iterator[None]:
    """Compiling takes longer than all of these tests."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="session")
def fonts() -> None:
    """Skip where the system lacks the fonts that pages are printed in."""
    if not all((Path(FONT_FOLDER) / name).exists() for name in FONTS):
        pytest.skip("DejaVu Sans Mono is not installed; on Debian and Ubuntu it is in fonts-dejavu-core")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return build_tokenizer(every_text())


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder as a training run of zero steps writes it, with a card from a log and one evaluation."""
    run = tmp_path_factory.mktemp("run")
    trainer = Trainer(run, seed=1, minutes=10, rate=6e-4)
    looking = {"step": 10, "seconds": 30, "level": -1.0, "pages": 24, "cell": 3.2, "cell_right": 0.125}
    reading = {"step": 990, "seconds": 5970, "level": 1.0, "pages": 9, "cell": 0.1, "cell_right": 0.991}
    lines = [looking | {"text": None, "text_right": None}, reading | {"text": 0.0421, "text_right": 0.985}]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = run / "documents" / "evaluation.json"
    scores.parent.mkdir()
    scores.write_text(json.dumps({"pages": 50, "scores": {"cer": SCORE}}))
    folder = tmp_path_factory.mktemp("checkpoint")
    trainer.export(folder, [scores])
    return folder


@pytest.fixture(scope="session")
def checkpoint(exported: Path) -> Checkpoint:
    return load_checkpoint(exported, TransformersOptions())
