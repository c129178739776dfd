"""Families are recognised by vocabulary and template text, never by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glm4v_core.dialect.families import FAMILIES, GLM4V, GLM41V, GLM45V, GLM46V, Dialect, Family, recognise
from glm4v_core.errors import UnsupportedError

TEMPLATES = Path(__file__).parents[2] / "templates"
TEMPLATE_OF = {"glm4v": "{{ messages }}", "glm41v": "41v.jinja", "glm45v": "45v.jinja", "glm46v": "46v.jinja"}


def template_text(dialect: Dialect) -> str:
    name = TEMPLATE_OF[dialect.name]
    return (TEMPLATES / name).read_text() if name.endswith(".jinja") else name


def checkpoint(family: Family) -> tuple[dict[str, Any], set[str], str | None]:
    """Build what the family's checkpoints hold, without any name in it."""
    config = {
        "model_type": family.model_types[0],
        "text_config": {"max_position_embeddings": family.context},
    }
    vocabulary = {"a", *family.dialect.control_tokens}
    if family.dialect is GLM41V:
        vocabulary -= {"<tool_call>", "</tool_call>"}  # only our own text about tools uses them there
    return config, vocabulary, template_text(family.dialect) if family.chat else None


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_recognised_from_its_own_files(family: Family) -> None:
    assert recognise(*checkpoint(family)) is family


def test_model_type_alone_does_not_decide() -> None:
    flash = next(family for family in FAMILIES if family.name == "GLM-4.6V-Flash")
    thinking = next(family for family in FAMILIES if family.name == "GLM-4.1V-9B-Thinking")
    config, _, _ = checkpoint(flash)
    _, vocabulary, template = checkpoint(thinking)
    config["_name_or_path"] = "zai-org/GLM-4.6V-Flash"
    assert recognise(config, vocabulary, template) is thinking


def test_the_network_shape_separates_families_of_one_dialect() -> None:
    _, vocabulary, template = checkpoint(FAMILIES[-1])
    names = [recognise({"model_type": kind}, vocabulary, template).name for kind in ("glm4v", "glm4v_moe", "glm_ocr")]
    assert names == ["GLM-4.6V-Flash", "GLM-4.6V", "GLM-OCR"]


@pytest.mark.parametrize(
    ("context", "name"),
    [(2_048, "tiny"), (4_096, "tiny"), (8_192, "GLM-4.6V-Flash"), (1_000_000, "GLM-4.6V-Flash")],
)
def test_the_context_length_identifies_the_tiny_model(context: int, name: str) -> None:
    _, vocabulary, template = checkpoint(FAMILIES[-1])
    config = {"model_type": "glm4v", "text_config": {"max_position_embeddings": context}}
    assert recognise(config, vocabulary, template).name == name


@pytest.mark.parametrize(
    ("config", "vocabulary", "template"),
    [
        pytest.param({"model_type": "llama"}, {"a"}, "{{ messages }}", id="other model"),
        pytest.param({}, set(GLM46V.control_tokens), "enable_thinking image_url", id="no model type"),
        pytest.param(
            {"model_type": "glm5_next"}, set(GLM46V.control_tokens), "enable_thinking image_url", id="newer shape"
        ),
        pytest.param({"model_type": "glm4v"}, set(GLM46V.control_tokens), "Reasoning Effort", id="newer template"),
        pytest.param({"model_type": "glm4v"}, set(GLM46V.control_tokens), None, id="base model without a row"),
        pytest.param({"model_type": "chatglm"}, {"<|begin_of_image|>", "<|image|>"}, "x", id="unknown dialect"),
    ],
)
def test_an_unknown_checkpoint_is_refused(config: dict[str, Any], vocabulary: set[str], template: str | None) -> None:
    with pytest.raises(UnsupportedError, match="does not belong to a known GLM-V family") as caught:
        recognise(config, vocabulary, template)
    assert "GLM-4.6V-Flash" in caught.value.hint


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_has_complete_data(family: Family) -> None:
    sampling = family.sampling
    settings = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty, sampling.max_tokens)
    assert None not in settings
    assert sampling.max_tokens is not None
    assert sampling.max_tokens < family.context
    assert set(family.needs) <= set(family.engines)
    assert 0 < family.limits.min_pixels <= family.limits.max_pixels
    assert not family.thinking or family.dialect.think


def test_families_have_their_published_numbers() -> None:
    rows = {family.name: family for family in FAMILIES}
    assert rows["GLM-4.1V-9B-Thinking"].hub_ids == (
        "zai-org/GLM-4.1V-9B-Thinking",
        "THUDM/GLM-4.1V-9B-Thinking",
    )
    assert rows["GLM-OCR"].ocr_prompt == "Text Recognition:"
    assert rows["GLM-4v-9b"].limits.max_images == 1
    assert rows["GLM-4.6V"].limits.max_pixels == 6_144 * 28 * 28
    assert rows["GLM-4.6V"].limits.min_pixels == 8 * 28 * 28
    assert not rows["tiny"].thinking


@pytest.mark.parametrize("dialect", [GLM4V, GLM41V, GLM45V, GLM46V], ids=lambda dialect: dialect.name)
def test_every_token_a_dialect_uses_is_a_control_token(dialect: Dialect) -> None:
    used = {dialect.image_placeholder, *dialect.end_of_turn, *(dialect.think or ()), *(dialect.answer or ())}
    assert used <= set(dialect.control_tokens)
    assert len(set(dialect.control_tokens)) == len(dialect.control_tokens)
