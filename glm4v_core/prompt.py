"""A request to prompt text, through the checkpoint's own chat template."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from glm4v_core.conversation import Conversation
from glm4v_core.dialects import Dialect
from glm4v_core.errors import MessageError, MissingDependencyError, UnsupportedError
from glm4v_core.images import Image
from glm4v_core.parsing import Phase
from glm4v_core.types import Request

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prompt text with one image placeholder for each of `images`, in their order.

    Attributes:
        phase: where the model's output starts.
    """

    text: str
    images: tuple[Image, ...]
    phase: Phase


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A checkpoint's chat template. A base model has none and cannot chat: UnsupportedError."""

    source: str | None
    dialect: Dialect

    def __post_init__(self) -> None:
        _compile(self.source)

    def render(self, request: Request) -> Prompt:
        """Render a request.

        Raises:
            MessageError: its messages cannot be shown to this model.
            UnsupportedError: it wants tools, thinking or a part that this dialect does not have.
        """
        self._refuse_what_is_missing(request)
        tools = () if request.tool_choice == "none" else request.tools
        conversation = Conversation(request.messages, tools, self.dialect)
        text = self._rendered(conversation, request.thinking)
        images = tuple(conversation.images)
        shown = text.count(self.dialect.image_block)
        if shown != len(images):
            raise MessageError(
                f"The chat template shows {shown} of {len(images)} images.",
                hint="The checkpoint's chat template does not fit its tokenizer; compare it with the published one.",
            )
        return Prompt(text, images, self._phase(text))

    def _refuse_what_is_missing(self, request: Request) -> None:
        if request.tools and request.tool_choice != "none" and self.dialect.tools == "none":
            raise UnsupportedError(f"The {self.dialect.name} dialect knows no tools.")
        if request.thinking and self.dialect.think is None:
            raise UnsupportedError(f"The {self.dialect.name} dialect cannot think.", hint="Leave thinking off.")

    def _rendered(self, conversation: Conversation, thinking: bool | None) -> str:
        import jinja2

        switch: dict[str, Any] = {}
        if self.dialect.switch == "template" and thinking is not None:
            switch["enable_thinking"] = thinking
        try:
            text = _compile(self.source).render(
                messages=conversation.messages, tools=conversation.tools or None, add_generation_prompt=True, **switch
            )
        except jinja2.TemplateError as reason:
            raise MessageError(f"The chat template refuses these messages: {reason}") from reason
        if self.dialect.switch == "prefill" and thinking is False:
            # The only known way to keep this generation from thinking: begin its answer.
            text += "<think></think><answer>"
        return text

    def _phase(self, text: str) -> Phase:
        if self.dialect.think is None:
            return "answer"
        opened, closed = self.dialect.think
        begun = text.rpartition("<|assistant|>")[2]
        if closed in begun:
            return "answer"
        return "thinking" if opened in begun else "free"


@lru_cache
def _compile(source: str | None) -> jinja2.Template:
    """Compile as transformers does, so that both render the same text."""
    if not source:
        raise UnsupportedError(
            "This checkpoint has no chat template.",
            hint="It is a base model; use the chat model of the same family, such as GLM-4.1V-9B-Thinking.",
        )
    try:
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as reason:
        raise MissingDependencyError("Chat templates need jinja2.", hint="pip install 'glm4v[hf]'") from reason
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as reason:
        raise UnsupportedError(f"The checkpoint's chat template is not valid: {reason}") from reason


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML characters.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
