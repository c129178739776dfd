"""Lets the core's steps ask through a LlamaIndex LLM, so that LlamaIndex's observers see every call."""

from __future__ import annotations

from glm4v_core import Completion, Image, Request, Text
from glm4v_core.errors import MessageError
from glm4v_core.hosts import call_settings
from llamaindex_glm4v._results import to_completion
from llamaindex_glm4v.llm import GLM4VMultiModal


class ObservedModel:
    """Answers steps of `glm4v_core.tasks`; settings that a step leaves open come from the LLM."""

    def __init__(self, llm: GLM4VMultiModal) -> None:
        self._llm = llm

    async def agenerate(self, request: Request) -> Completion:
        """Return the whole answer.

        Raises:
            MessageError: the request is not one question about images.
        """
        images, prompt = _question(request)
        options = call_settings(request)
        if request.thinking is not None:
            options["thinking"] = request.thinking
        return to_completion(await self._llm.acomplete(prompt, images, formatted=True, **options))


def _question(request: Request) -> tuple[list[Image], str]:
    parts = [part for message in request.messages for part in message.parts]
    images = [part for part in parts if isinstance(part, Image)]
    match parts[len(images) :]:
        case [Text(prompt)] if not request.tools and len(request.messages) == 1:
            return images, prompt
    raise MessageError("A step asks one question, after images if there are any.")
