"""How each generation writes prompts and answers, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DialectName = Literal["glm4v", "glm41v", "glm45v", "glm46v"]
TagPair = tuple[str, str]

ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
END_OF_TURN = ("<|endoftext|>", "<|user|>", "<|observation|>")
BOX_TAGS: TagPair = ("<|begin_of_box|>", "<|end_of_box|>")
THINK_TAGS: TagPair = ("<think>", "</think>")
TOOL_TAGS = (
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)
_COMMON_TOKENS = (
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    *ROLE_TOKENS,
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
_VISION_TOKENS = ("<|image|>", "<|video|>", *THINK_TAGS, *BOX_TAGS)
_SPEECH_AND_CODE_TOKENS = (
    *("<|begin_of_audio|>", "<|end_of_audio|>", "<|begin_of_transcription|>", "<|end_of_transcription|>"),
    *("<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>"),
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one generation writes prompts and answers.

    Attributes:
        image_placeholder: the placeholder an engine replaces by the visual tokens of one image.
        think, answer: opening and closing tag, None where the generation has no such span.
        switch: how thinking is turned off: by the template, by starting the answer for the model, or not at all.
        tools: who explains tools to the model: its template, our own system text, or nobody.
        user_content: whether the template reads a user turn as a list of items or as one text.
        images_in_tool_results: whether the template renders images inside a tool result.
        end_thinking: what closes a thought from outside, when its token budget is spent.
        end_of_turn: tokens with which the model ends its turn.
        control_tokens: every string to which the tokenizer, or our own tool text, gives a meaning.
    """

    name: DialectName
    image_placeholder: str
    think: TagPair | None
    answer: TagPair | None
    switch: Literal["template", "prefill", "none"]
    tools: Literal["template", "prompt", "none"]
    user_content: Literal["items", "text"]
    images_in_tool_results: bool
    end_thinking: str
    end_of_turn: tuple[str, ...]
    control_tokens: tuple[str, ...]

    @property
    def image_block(self) -> str:
        """What one image looks like in the prompt."""
        return f"<|begin_of_image|>{self.image_placeholder}<|end_of_image|>"


GLM4V = Dialect(
    name="glm4v",
    image_placeholder="<|endoftext|>",
    think=None,
    answer=None,
    switch="none",
    tools="none",
    user_content="text",
    images_in_tool_results=False,
    end_thinking="",
    end_of_turn=END_OF_TURN,
    control_tokens=_COMMON_TOKENS,
)
GLM41V = Dialect(
    name="glm41v",
    image_placeholder="<|image|>",
    think=THINK_TAGS,
    answer=("<answer>", "</answer>"),
    switch="prefill",
    tools="prompt",
    user_content="items",
    images_in_tool_results=False,
    end_thinking="</think><answer>",
    end_of_turn=(*END_OF_TURN, "</answer>"),
    control_tokens=(*_COMMON_TOKENS, *_VISION_TOKENS, "<answer>", "</answer>", *TOOL_TAGS),
)
GLM45V = Dialect(
    name="glm45v",
    image_placeholder="<|image|>",
    think=THINK_TAGS,
    answer=None,
    switch="template",
    tools="template",
    user_content="items",
    images_in_tool_results=False,
    end_thinking="</think>\n",
    end_of_turn=END_OF_TURN,
    control_tokens=(*_COMMON_TOKENS, *_VISION_TOKENS, *_SPEECH_AND_CODE_TOKENS, *TOOL_TAGS, "/nothink"),
)
GLM46V = Dialect(
    name="glm46v",
    image_placeholder="<|image|>",
    think=THINK_TAGS,
    answer=None,
    switch="template",
    tools="template",
    user_content="items",
    images_in_tool_results=True,
    end_thinking="</think>\n",
    end_of_turn=END_OF_TURN,
    control_tokens=GLM45V.control_tokens,
)
