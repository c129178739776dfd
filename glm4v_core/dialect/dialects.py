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
        image_placeholder: the token in a prompt that an engine replaces with the visual tokens of one image.
        think: opening and closing tag of the reasoning; None if the generation has none.
        answer: opening and closing tag of the answer; None if the generation has none.
        switch: how reasoning is turned off: "template" by a variable of the template, "prefill" by starting the answer
            for the model, "none" if it cannot be turned off or does not exist.
        tools: what explains tools to the model: "template" its chat template, "prompt" a system text of ours, "none"
            if tools are not supported.
        user_content: whether the template expects a user turn as a list of items or as one text.
        images_in_tool_results: whether the template renders images inside a tool result.
        end_thinking: text that an engine inserts to close the reasoning when its token budget is used up.
        end_of_turn: stop tokens with which the model ends its turn.
        control_tokens: all strings that have a special meaning to the tokenizer or in our tool text.
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
