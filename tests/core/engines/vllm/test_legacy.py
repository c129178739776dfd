"""The first generation, glm-4v-9b: vLLM's classes for it, with random weights and its own tokenizer code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from glm4v_core import Glm4v
from glm4v_core.errors import MessageError, UnsupportedError
from glm4v_core.types import Choices
from tests.support.engine_calls import ask, page
from tests.support.legacy import COMMIT, IMAGE_TOKENS, write_legacy, write_weights
from tests.support.serving import SETTINGS

pytestmark = [pytest.mark.loopback, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Glm4v]:
    folder = tmp_path_factory.mktemp("legacy")
    write_weights(write_legacy(folder))
    with pytest.MonkeyPatch.context() as patch:
        # vLLM's processes load the tokenizer's code, too.
        patch.setenv("HF_MODULES_CACHE", str(folder / "modules"))
        with Glm4v.load(folder, "vllm", trust_remote_code=True, revision=COMMIT, **SETTINGS) as loaded:
            yield loaded


def test_one_image_reaches_the_model(model: Glm4v) -> None:
    first, again, other = model.generate_many(ask(page(seed), "Read", max_tokens=12) for seed in (1, 1, 2))
    blind = model.generate(ask("Read", max_tokens=12))
    assert first.text == again.text != other.text
    assert (first.usage.image, blind.usage.image) == (IMAGE_TOKENS, 0)
    # The model adds a token at either end, in place of the tags around the image.
    assert first.usage.prompt == blind.usage.prompt + IMAGE_TOKENS + 2
    assert model.count_tokens(ask(page(1), "Read", max_tokens=1)).prompt == first.usage.prompt
    with pytest.raises(MessageError, match="takes 1"):
        model.generate(ask(page(1), page(2), "Read"))


def test_unsupported_requests_are_refused(model: Glm4v) -> None:
    with pytest.raises(UnsupportedError, match="does not support constraints"):
        model.generate(ask(page(1), "Label it", constraint=Choices(("a", "b"))))
