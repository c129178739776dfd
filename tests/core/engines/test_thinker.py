"""The 4.1V dialect on every engine: reasoning that cannot be switched off, and an answer in tags.

The model is random. On vLLM it is the base with a LoRA adapter, on transformers the two worked into one; the server has
the base alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glm4v_core import Glm4v
from glm4v_core.types import Choices, Request
from tests.support.checkpoints import build_checkpoint, write_adapter
from tests.support.engine_calls import ask, page
from tests.support.serving import ENGINES, SETTINGS, Engine, serving

pytestmark = [pytest.mark.loopback, pytest.mark.filterwarnings("default")]

LABELS = Choices(("invoice", "receipt", "信件"))
FLAGS = (
    *("--chat-template-content-format", "string", "--interleave-mm-strings"),
    *("--hf-overrides", '{"text_config": {"attention_bias": true}}'),
)
"""What docs/scaling.md and docs/engines.md say that such a checkpoint needs."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("thinker")
    base = build_checkpoint(root / "base", generation="4.1V")
    write_adapter(base, root / "adapter", root / "merged")
    return {name: root / name for name in ("base", "adapter", "merged")}


@pytest.fixture(scope="module")
def references(folders: dict[str, Path]) -> Iterator[dict[str, Glm4v]]:
    """The transformers engine, whose answers are compared with `generate()` elsewhere."""
    with (
        Glm4v.load(folders["base"], "transformers") as base,
        Glm4v.load(folders["merged"], "transformers") as merged,
    ):
        yield {"base": base, "merged": merged}


@pytest.fixture(scope="module", params=ENGINES)
def loaded(request: pytest.FixtureRequest, folders: dict[str, Path], references: dict[str, Glm4v]) -> Iterator[Engine]:
    match request.param:
        case "transformers":
            yield Engine("transformers", references["merged"])
        case "vllm":
            with Glm4v.load(folders["base"], "vllm", lora=str(folders["adapter"]), **SETTINGS) as model:
                yield Engine("vllm", model)
        case _:
            with serving(folders["base"], folders["base"].parent / "log", *FLAGS) as (url, process):
                options = {"base_url": url, "family": "GLM-4.1V-9B-Thinking", "grammars": True}
                with Glm4v.load(None, "server", **options) as model:
                    yield Engine("server", model, process)


GREEDY = {
    "thought": ask("Hello", thinking=True, max_tokens=30, logprobs=1),
    "answer": ask("请逐行识别图片中的文字", max_tokens=30, logprobs=1),
    "images": ask(page(1), "Read it", page(2, 224, 140), max_tokens=30, logprobs=1),
}

BROKEN_LINES = {"images": ask(page(1), "\nRead it\n", page(2, 224, 140), max_tokens=30, logprobs=1)}
"""How a server with these flags renders a message of several parts."""


def test_an_adapter_changes_every_answer(references: dict[str, Glm4v]) -> None:
    for request in GREEDY.values():
        with_it, without = (references[name].generate(request) for name in ("merged", "base"))
        assert (with_it.text, with_it.thinking) != (without.text, without.thinking)


@pytest.mark.skipif("vllm" not in ENGINES, reason="needs vLLM")
@pytest.mark.parametrize("loaded", ["vllm", "server"], indirect=True)
@pytest.mark.parametrize("name", GREEDY)
def test_weights_biases_and_adapter_are_all_used(loaded: Engine, references: dict[str, Glm4v], name: str) -> None:
    request: Request = GREEDY[name]
    reference, same = references["merged"], request
    if loaded.name == "server":
        reference, same = references["base"], BROKEN_LINES.get(name, request)
    found, expected = loaded.model.generate(request), reference.generate(same)
    assert (found.text, found.thinking, found.finish) == (expected.text, expected.thinking, expected.finish)
    assert found.logprobs
    for ours, theirs in zip(found.logprobs, expected.logprobs, strict=False):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=0.01)


def test_a_constraint_applies_after_the_reasoning(loaded: Engine) -> None:
    requests = [
        ask("Label it", constraint=LABELS, max_tokens=60, thinking=True, thinking_budget=5),
        ask("Label it", constraint=LABELS, max_tokens=60, thinking=False),
        ask(page(1), "Label it", constraint=LABELS, max_tokens=60, thinking=True, thinking_budget=0),
    ]
    answers = loaded.model.generate_many(requests)
    assert {answer.text for answer in answers} <= set(LABELS.options)
    assert [answer.finish for answer in answers] == ["stop"] * 3
    assert answers[0].usage.thinking <= 5 + 2 * (loaded.name == "server")  # see test_engines.py
    assert answers[1].thinking == ""
