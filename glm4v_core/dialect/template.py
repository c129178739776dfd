"""Renders the prompt of a request with the checkpoint's chat template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from glm4v_core.dialect.conversation import Conversation
from glm4v_core.dialect.dialects import Dialect
from glm4v_core.dialect.parsing import Phase
from glm4v_core.errors import MessageError, MissingDependencyError, UnsupportedError
from glm4v_core.media.image import Image
from glm4v_core.types import Request


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prompt text with one placeholder for each of `images`, in the same order.

    Attributes:
        text: not yet tokenized.
        images: in the order of their placeholders.
        phase: where the model's output starts.
    """

    text: str
    images: tuple[Image, ...]
    phase: Phase


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A checkpoint's chat template, rendered as transformers' `apply_chat_template` renders it.

    Attributes:
        source: text of the template; None for a base model, which does not have one.
        dialect: of the model's family.
        special_tokens: the tokenizer's `special_tokens_map`; templates may use its names.

    Raises:
        UnsupportedError: the template is missing or not valid.
        MissingDependencyError: transformers is not installed.
    """

    source: str | None
    dialect: Dialect
    special_tokens: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.source:
            raise UnsupportedError(
                "This checkpoint has no chat template.",
                hint="It is a base model; use the chat model of the same family, such as GLM-4.1V-9B-Thinking.",
            )
        render = _renderer()
        import jinja2

        try:
            render([], chat_template=self.source)  # compiles the template; the result is cached
        except jinja2.TemplateError as error:
            raise UnsupportedError(f"The checkpoint's chat template is not valid: {error}") from error

    def render(self, request: Request) -> Prompt:
        """Render the prompt of a complete request.

        Raises:
            MessageError: the template cannot render its messages.
            UnsupportedError: a message has a part that is not supported.
        """
        tools = () if request.tool_choice == "none" else request.tools
        conversation = Conversation(request.messages, tools, self.dialect)
        text = self._rendered(conversation, request.thinking)
        images = tuple(conversation.images)
        shown = text.count(self.dialect.image_block)
        if shown != len(images):
            raise MessageError(
                f"The chat template shows {shown} of {len(images)} images.",
                hint="The chat template does not match the tokenizer; compare it with the published one.",
            )
        return Prompt(text, images, self._phase(text))

    def _rendered(self, conversation: Conversation, thinking: bool | None) -> str:
        import jinja2

        variables = dict(self.special_tokens)
        if self.dialect.switch == "template" and thinking is not None:
            variables["enable_thinking"] = thinking
        try:
            (text,), _ = _renderer()(
                [conversation.messages],
                tools=conversation.tools or None,
                chat_template=self.source,
                add_generation_prompt=True,
                **variables,
            )
        # The last two come from expressions in the template, such as the sum of a number and a string.
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise MessageError(f"The chat template refuses these messages: {error}") from error
        if self.dialect.switch == "prefill" and thinking is False:
            # This generation cannot turn reasoning off; starting the answer for it is the only way to skip it.
            text += "<think></think><answer>"
        return text

    def _phase(self, text: str) -> Phase:
        """Tell from the end of the prompt where the model's output starts."""
        if self.dialect.think is None:
            return "answer"
        opened, closed = self.dialect.think
        begun = text.rpartition("<|assistant|>")[2]
        if closed in begun:
            return "answer"
        return "thinking" if opened in begun else "free"


def _renderer() -> Callable[..., tuple[list[str], Any]]:
    """Import the function behind every tokenizer's `apply_chat_template`.

    It does not need a tokenizer, so it also works for one with custom code that replaces `apply_chat_template`.
    """
    try:
        import jinja2  # noqa: F401 - imported here, because transformers' own error would not name our extra
        from transformers.utils.chat_template_utils import render_jinja_template
    except ImportError as error:
        raise MissingDependencyError(
            f"Chat templates need transformers and jinja2: {error}.", hint="pip install 'glm4v[hf]'"
        ) from error
    renderer: Callable[..., tuple[list[str], Any]] = render_jinja_template
    return renderer
