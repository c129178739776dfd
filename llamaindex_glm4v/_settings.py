"""The settings of a `GLM4VMultiModal` and of its calls, and the metadata it reports."""

from __future__ import annotations

from llama_index.core.base.llms.types import LLMMetadata
from pydantic import ConfigDict

from glm4v_core.hosts import CallSettings


class GLM4VMetadata(LLMMetadata):
    """What the loaded model can do."""

    num_input_files: int
    """Most images in one request."""


class LLMCallSettings(CallSettings):
    """Settings for both the constructor of `GLM4VMultiModal` and its calls."""

    model_config = ConfigDict(title="a call of GLM4VMultiModal")

    thinking: bool | None = None
    """Whether the model thinks first; None is its family's default."""
    thinking_budget: int | None = None
    """Most tokens of reasoning; then the answer begins."""
