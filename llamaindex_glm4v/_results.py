"""Answers of the core to LlamaIndex responses. Pure."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from glm4v_core import Completion, Delta, Timings, TokenLogprob, ToolCall, Usage

_log = logging.getLogger(__name__)


def to_chat_response(completion: Completion) -> ChatResponse:
    """Make the response of a whole answer."""
    if completion.finish == "length_in_thinking":
        _log.warning("max_tokens were used up by the reasoning, so there is no answer.")
    usage = to_usage(completion.usage)
    return ChatResponse(
        message=_message(completion.thinking, completion.text, completion.tool_calls, completion.usage.thinking),
        raw=_raw(completion, usage),
        logprobs=_logprobs(completion.logprobs),
        additional_kwargs={name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
    )


class Responses:
    """Makes the responses of one stream. Each has the answer so far; the last is made from the completion."""

    def __init__(self) -> None:
        self._thinking = ""
        self._text = ""
        self._calls: list[ToolCall] = []

    def make(self, delta: Delta) -> ChatResponse:
        """Make one response; new text is in `delta`, new reasoning in `thinking_delta` of additional_kwargs."""
        if delta.completion is not None:
            return to_chat_response(delta.completion).model_copy(update={"delta": ""})
        thought = delta.thinking
        if delta.retracted:
            thought, self._text = self._text, ""
        self._thinking += thought
        self._text += delta.text
        if delta.tool_call is not None:
            self._calls.append(delta.tool_call)
        return ChatResponse(
            message=_message(self._thinking, self._text, self._calls),
            delta=delta.text,
            additional_kwargs={"thinking_delta": thought} if thought else {},
        )


def to_completion_response(response: ChatResponse) -> CompletionResponse:
    """Make the response of a completion method; reasoning and tool calls go into additional_kwargs."""
    thoughts = [block.content or "" for block in response.message.blocks if isinstance(block, ThinkingBlock)]
    return CompletionResponse(
        text=response.message.content or "",
        additional_kwargs=response.additional_kwargs
        | response.message.additional_kwargs
        | ({"thinking": "".join(thoughts)} if thoughts else {}),
        raw=response.raw,
        logprobs=response.logprobs,
        delta=response.delta,
    )


def to_completion(response: CompletionResponse) -> Completion:
    """Read a complete answer back, for a step of the core to read its value from."""
    raw: Mapping[str, Any] = response.raw or {}
    return Completion(
        text=response.text,
        thinking=response.additional_kwargs.get("thinking", ""),
        finish=raw["finish_reason"],
        usage=_read_usage(raw["usage"]),
        timings=Timings(**raw["timings"]),
        model=raw["model"],
    )


def to_usage(usage: Usage) -> dict[str, Any]:
    """Return token counts under OpenAI's names, which LlamaIndex reads."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"image_tokens": usage.image, "cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.thinking},
    }


def _read_usage(usage: Mapping[str, Any]) -> Usage:
    prompt, completion = usage["prompt_tokens_details"], usage["completion_tokens_details"]
    return Usage(
        prompt=usage["prompt_tokens"],
        image=prompt["image_tokens"],
        completion=usage["completion_tokens"],
        thinking=completion["reasoning_tokens"],
        cached=prompt["cached_tokens"],
    )


def _message(thinking: str, text: str, calls: Iterable[ToolCall], thinking_tokens: int | None = None) -> ChatMessage:
    blocks: list[Any] = [ThinkingBlock(content=thinking, num_tokens=thinking_tokens)] if thinking else []
    blocks.append(TextBlock(text=text))
    blocks += [ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=_arguments(call)) for call in calls]
    # Where LlamaIndex's structured streams look.
    known = {"tool_calls": [_openai_call(call) for call in calls]}
    return ChatMessage(
        role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=known if known["tool_calls"] else {}
    )


def _arguments(call: ToolCall) -> dict[str, Any] | str:
    """Return the arguments, or what the model wrote if they cannot be read."""
    return call.raw if call.arguments is None else dict(call.arguments)


def _openai_call(call: ToolCall) -> Mapping[str, Any]:
    arguments = call.raw if call.arguments is None else json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _raw(completion: Completion, usage: Mapping[str, Any]) -> dict[str, Any]:
    boxes = {"boxes": [asdict(box) for box in completion.boxes]} if completion.boxes else {}
    return {
        "model": completion.model,
        "finish_reason": completion.finish,
        "usage": dict(usage),
        "timings": asdict(completion.timings),
        **boxes,
    }


def _logprobs(tokens: Iterable[TokenLogprob]) -> list[list[LogProb]] | None:
    """List each token, followed by its alternatives."""
    return [
        [
            _logprob(token.token, token.logprob),
            *(_logprob(*other) for other in token.top if other[0] != token.token),
        ]
        for token in tokens
    ] or None


def _logprob(token: str, logprob: float) -> LogProb:
    return LogProb(token=token, logprob=logprob, bytes=list(token.encode()))
