"""Facts about the model generations, as data. No other code depends on the name of a model."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from glm4v_core.dialect.dialects import BOX_TAGS, GLM4V, GLM41V, GLM45V, GLM46V, THINK_TAGS, TOOL_TAGS, Dialect
from glm4v_core.errors import UnknownOptionError, UnsupportedError
from glm4v_core.types import Sampling

__all__ = [
    "BOX_TAGS",
    "FAMILIES",
    "GLM4V",
    "GLM41V",
    "GLM45V",
    "GLM46V",
    "THINK_TAGS",
    "TOOL_TAGS",
    "Dialect",
    "EngineName",
    "Family",
    "VisionLimits",
    "family_named",
    "published_as",
    "recognise",
]

EngineName = Literal["transformers", "vllm", "server"]


@dataclass(frozen=True, slots=True)
class VisionLimits:
    """Limits of the images in one prompt.

    Attributes:
        max_images: maximum number of images in one prompt.
        min_pixels: smallest area of one still image after resizing. Checkpoints publish twice this number and twice
            `max_pixels`, because they count the two frames into which a still image is duplicated.
        max_pixels: largest area, likewise.
        patch: side of one patch in pixels.
        merge: one visual token covers merge x merge patches.
    """

    max_images: int = 300
    min_pixels: int = 6_272
    max_pixels: int = 4_816_896
    patch: int = 14
    merge: int = 2


@dataclass(frozen=True, slots=True)
class Family:
    """One model generation.

    Attributes:
        hub_ids: the current name first, then older names and official FP8 variants.
        architectures: as in a checkpoint's config.json.
        model_types: likewise.
        context: maximum number of tokens of a prompt and its completion together.
        sampling: default for every setting; top_k 0 is off.
        thinking: whether the model reasons if the caller does not say.
        needs: library name to the first version that can run it.
        weights_gb: size of the weights in GB in bfloat16; FP8 takes about half.
        limits: for images.
        engines: engines that can run it.
        biased_attention: whether queries, keys and values have a bias. transformers infers it from the architecture.
            vLLM reads it from the configuration and silently drops the bias if the configuration does not mention it.
        remote_tokenizer: whether its tokenizer is code in the checkpoint, which the caller must allow.
        chat: whether its checkpoints have a chat template.
        never_thinks: True if the model ignores a request to think.
        ocr_prompt: replaces the built-in OCR prompt if the model was trained on a fixed one.
        page_question: replaces the built-in wording of a question to one of several pages, for a model that is too
            small for it; contains `{question}`.
    """

    name: str
    dialect: Dialect
    hub_ids: tuple[str, ...]
    architectures: tuple[str, ...]
    model_types: tuple[str, ...]
    context: int
    sampling: Sampling
    thinking: bool
    needs: Mapping[str, str] = field(hash=False)
    weights_gb: float
    limits: VisionLimits = VisionLimits()
    engines: tuple[EngineName, ...] = ("transformers", "vllm", "server")
    biased_attention: bool = False
    remote_tokenizer: bool = False
    chat: bool = True
    never_thinks: bool = False
    ocr_prompt: str | None = None
    page_question: str | None = None


def _sampling(temperature: float, top_p: float, top_k: int, max_tokens: int) -> Sampling:
    return Sampling(temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=1.0, max_tokens=max_tokens)


_DENSE = ("Glm4vForConditionalGeneration",)
_MIXTURE = ("Glm4vMoeForConditionalGeneration",)

FAMILIES: tuple[Family, ...] = (
    Family(
        name="GLM-4v-9b",
        dialect=GLM4V,
        hub_ids=("zai-org/glm-4v-9b", "THUDM/glm-4v-9b"),
        architectures=("ChatGLMModel", "ChatGLMForConditionalGeneration", "GLM4VForCausalLM"),
        model_types=("chatglm",),
        context=8_192,
        sampling=_sampling(0.8, 0.8, 0, 2_500),
        thinking=False,
        needs={"vllm": "0.6.0"},
        weights_gb=28,
        limits=VisionLimits(max_images=1, min_pixels=1_254_400, max_pixels=1_254_400),
        engines=("vllm", "server"),
        remote_tokenizer=True,
    ),
    Family(
        name="GLM-4.1V-9B-Thinking",
        dialect=GLM41V,
        hub_ids=("zai-org/GLM-4.1V-9B-Thinking", "THUDM/GLM-4.1V-9B-Thinking"),
        architectures=_DENSE,
        model_types=("glm4v",),
        context=65_536,
        sampling=_sampling(0.8, 0.6, 2, 8_192),
        thinking=True,
        needs={"transformers": "4.53.0", "vllm": "0.9.2"},
        weights_gb=20.6,
        biased_attention=True,
    ),
    Family(
        name="GLM-4.1V-9B-Base",
        dialect=GLM41V,
        hub_ids=("zai-org/GLM-4.1V-9B-Base", "THUDM/GLM-4.1V-9B-Base"),
        architectures=_DENSE,
        model_types=("glm4v",),
        context=65_536,
        sampling=_sampling(0.8, 0.6, 2, 8_192),
        thinking=False,
        needs={"transformers": "4.53.0", "vllm": "0.9.2"},
        weights_gb=20.6,
        biased_attention=True,
        chat=False,
    ),
    Family(
        name="GLM-4.5V",
        dialect=GLM45V,
        hub_ids=("zai-org/GLM-4.5V", "zai-org/GLM-4.5V-FP8"),
        architectures=_MIXTURE,
        model_types=("glm4v_moe",),
        context=65_536,
        sampling=_sampling(1.0, 1e-4, 1, 16_384),
        thinking=True,
        needs={"transformers": "4.55.0", "vllm": "0.10.1"},
        weights_gb=215,
    ),
    Family(
        name="GLM-4.6V",
        dialect=GLM46V,
        hub_ids=("zai-org/GLM-4.6V", "zai-org/GLM-4.6V-FP8"),
        architectures=_MIXTURE,
        model_types=("glm4v_moe",),
        context=131_072,
        sampling=_sampling(0.8, 0.6, 2, 16_384),
        thinking=True,
        needs={"transformers": "5.0.0", "vllm": "0.12.0"},
        weights_gb=215,
    ),
    Family(
        name="GLM-4.6V-Flash",
        dialect=GLM46V,
        hub_ids=("zai-org/GLM-4.6V-Flash",),
        architectures=_DENSE,
        model_types=("glm4v",),
        context=131_072,
        sampling=_sampling(0.8, 0.6, 2, 16_384),
        thinking=True,
        needs={"transformers": "5.0.0", "vllm": "0.12.0"},
        weights_gb=20.6,
        biased_attention=True,
    ),
    Family(
        name="GLM-OCR",
        dialect=GLM46V,
        hub_ids=("zai-org/GLM-OCR",),
        architectures=("GlmOcrForConditionalGeneration",),
        model_types=("glm_ocr",),
        context=131_072,
        sampling=_sampling(0.0, 1.0, 0, 8_192),
        # It never reasons, but with the switch off the template appends /nothink, absent from its training prompts.
        thinking=True,
        needs={"transformers": "5.0.1", "vllm": "0.17.0"},
        weights_gb=2.6,
        never_thinks=True,
        ocr_prompt="Text Recognition:",
    ),
    Family(
        name="tiny",
        dialect=GLM46V,
        hub_ids=(),
        architectures=_DENSE,
        model_types=("glm4v",),
        context=4_096,
        sampling=_sampling(0.0, 1.0, 0, 1_024),
        thinking=False,
        needs={"transformers": "5.0.0", "vllm": "0.12.0"},
        weights_gb=0.013,
        biased_attention=True,
        limits=VisionLimits(max_images=8, max_pixels=200_704),
        page_question="{question}",
    ),
)


def family_named(name: str) -> Family:
    """Look up a family by its name in `FAMILIES`.

    Raises:
        UnknownOptionError: no family has this name.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise UnknownOptionError(
        f"There is no family {name!r}.", hint="Families: " + ", ".join(family.name for family in FAMILIES) + "."
    )


def published_as(name: str) -> Family | None:
    """Guess the family from the name of a published model, for a server that tells nothing else.

    Args:
        name: hub id, alias or path. The longest known name in it counts, so that `GLM-4.6V-Flash-AWQ` is a Flash.
    """
    known = {hub_id.rpartition("/")[2].lower(): family for family in FAMILIES for hub_id in family.hub_ids}
    found = [known_name for known_name in known if re.search(rf"(?<!\w){re.escape(known_name)}(?!\w)", name.lower())]
    return known[max(found, key=len)] if found else None


def recognise(config: Mapping[str, Any], vocabulary: Container[str], template: str | None) -> Family:
    """Return the family of a checkpoint, recognised from its content, never from its name.

    Args:
        config: the checkpoint's config.json.
        vocabulary: the tokenizer's token strings.
        template: the chat template's text; None for a base model.

    Raises:
        UnsupportedError: no known family matches.
    """
    dialect = _dialect(vocabulary, template)
    model_type = config.get("model_type")
    fitting = [
        family
        for family in FAMILIES
        if family.dialect is dialect and model_type in family.model_types and family.chat == bool(template)
    ]
    if not fitting:
        raise UnsupportedError(
            f"This checkpoint (model type {model_type!r}) does not belong to a known GLM-V family.",
            hint="Known families: " + ", ".join(family.name for family in FAMILIES) + ".",
        )
    return _by_context(fitting, config)


def _dialect(vocabulary: Container[str], template: str | None) -> Dialect | None:
    if "<|begin_of_image|>" not in vocabulary:
        return None
    if "<tool_call>" in vocabulary and "/nothink" in vocabulary:
        return _switched_dialect(template or "")
    if "<think>" in vocabulary and "<answer>" in vocabulary:
        return GLM41V
    return None if "<|image|>" in vocabulary else GLM4V


def _switched_dialect(template: str) -> Dialect | None:
    if "enable_thinking" not in template:
        return None
    # Templates mention `image_url` only for images in tool results, which exist since 4.6V.
    return GLM46V if "image_url" in template else GLM45V


def _by_context(families: list[Family], config: Mapping[str, Any]) -> Family:
    """Return the family with the smallest context that is large enough for the checkpoint's."""
    text_config = config.get("text_config") or config
    context = text_config.get("max_position_embeddings") or 0
    ordered = sorted(families, key=lambda family: family.context)
    if not context:
        return ordered[-1]
    return next((family for family in ordered if family.context >= context), ordered[-1])
