"""LangChain's own unit suite for chat models. The scripted engine makes it run without weights."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_glm4v import ChatGLM4V


class TestStandard(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatGLM4V

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": "scripted"}

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"GLM4V_MODEL": "a/model"}, {"engine": "scripted"}, {"model": "a/model"}
