"""The 4.1V dialect, on both engines of this process: a thought that cannot be switched off, and an answer in tags.

The model is random. On vLLM it is the base with a LoRA adapter, on transformers the two worked into one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glm4v_core import Glm4v
from glm4v_core.types import Choices, Request
from tests.engines.checkpoints import build_checkpoint, write_adapter
from tests.engines.serving import ENGINES, SETTINGS
from tests.engines.talking import ask, page

pytestmark = [pytest.mark.loopback, pytest.mark.filterwarnings("default")]

LABELS = Choices(("invoice", "receipt", "信件"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("thinker")
    base = build_checkpoint(root / "base", generation="4.1V")
    write_adapter(base, root / "adapter", root / "merged")
    return {name: root / name for name in ("base", "adapter", "merged")}


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path]) -> Iterator[Glm4v]:
    with Glm4v.load(folders["merged"], "transformers") as model:
        yield model


@pytest.fixture(scope="module", params=[name for name in ENGINES if name != "server"])
def model(request: pytest.FixtureRequest, folders: dict[str, Path], reference: Glm4v) -> Iterator[Glm4v]:
    if request.param == "transformers":
        yield reference
        return
    with Glm4v.load(folders["base"], "vllm", lora=str(folders["adapter"]), **SETTINGS) as loaded:
        yield loaded


GREEDY = [
    ask("Hello", thinking=True, max_tokens=30, logprobs=1),
    ask("请逐行识别图片中的文字", max_tokens=30, logprobs=1),
    ask(page(1), "Read it", page(2, 224, 140), max_tokens=30, logprobs=1),
]


@pytest.mark.skipif("vllm" not in ENGINES, reason="needs vLLM")
@pytest.mark.parametrize("model", ["vllm"], indirect=True)
@pytest.mark.parametrize("request_", GREEDY, ids=["thought", "answer", "images"])
def test_weights_biases_and_adapter_are_all_used(
    model: Glm4v, reference: Glm4v, folders: dict[str, Path], request_: Request
) -> None:
    found, expected = model.generate(request_), reference.generate(request_)
    assert (found.text, found.thinking, found.finish) == (expected.text, expected.thinking, expected.finish)
    for ours, theirs in zip(found.logprobs, expected.logprobs, strict=False):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=0.01)
    with Glm4v.load(folders["base"], "transformers") as base:
        without = base.generate(request_)
        assert (without.text, without.thinking) != (expected.text, expected.thinking)


def test_a_constraint_begins_after_the_thought(model: Glm4v) -> None:
    requests = [
        ask("Label it", constraint=LABELS, max_tokens=60, thinking=True, thinking_budget=5),
        ask("Label it", constraint=LABELS, max_tokens=60, thinking=False),
        ask(page(1), "Label it", constraint=LABELS, max_tokens=60, thinking=True, thinking_budget=0),
    ]
    answers = model.generate_many(requests)
    assert {answer.text for answer in answers} <= set(LABELS.options)
    assert [answer.finish for answer in answers] == ["stop"] * 3
    assert answers[0].usage.thinking <= 5
    assert answers[1].thinking == ""
