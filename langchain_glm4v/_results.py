"""Answers of the core to LangChain messages and chunks, and back. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, ToolCallChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.outputs import ChatGenerationChunk

from glm4v_core import Completion, Delta, Timings, TokenLogprob, ToolCall, Usage
from glm4v_core.hosts import FinishReason

PROVIDER = "glm4v"
FINISH: Mapping[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "length_in_thinking": "length",
    "tool_calls": "tool_calls",
    "repetition": "repetition",
    "cancelled": "cancelled",
}
"""The names that LangChain's users look for; `finish_detail` has the exact one."""


def to_message(completion: Completion) -> AIMessage:
    """Make the message of a whole answer."""
    return AIMessage(
        content=completion.text,
        additional_kwargs=_reasoning(completion.thinking) | _boxes(completion),
        tool_calls=[_good_call(call) for call in completion.tool_calls if call.arguments is not None],
        invalid_tool_calls=[_bad_call(call) for call in completion.tool_calls if call.arguments is None],
        usage_metadata=to_usage(completion.usage),
        response_metadata=_metadata(completion) | _logprobs(completion.logprobs),
    )


class Chunks:
    """Makes the chunks of one stream, which add up to `to_message` of its completion."""

    def __init__(self) -> None:
        self._calls = 0
        self._before: set[str] = set()

    def make(self, delta: Delta) -> ChatGenerationChunk:
        """Make one chunk. Fields that LangChain sums or concatenates are set on the last chunk only."""
        self._before |= {kind for kind in ("text", "thinking") if getattr(delta, kind)}
        message = AIMessageChunk(
            content=delta.text,
            additional_kwargs=_reasoning(delta.thinking),
            tool_call_chunks=[self._call(delta.tool_call)] if delta.tool_call else [],
            response_metadata={"model_provider": PROVIDER} | _logprobs(delta.logprobs),
        )
        if delta.completion is not None:
            message.additional_kwargs |= _boxes(delta.completion)
            message.response_metadata |= _metadata(delta.completion)
            message.usage_metadata = to_usage(delta.completion.usage)
            message.chunk_position = "last"
        return ChatGenerationChunk(message=message)

    def _call(self, call: ToolCall) -> ToolCallChunk:
        arguments = call.raw if call.arguments is None else json.dumps(call.arguments, ensure_ascii=False)
        # LangChain merges the blocks of an answer by index, and calls come after the reasoning and the text.
        index = len(self._before) + self._calls
        self._calls += 1
        return ToolCallChunk(name=call.name, args=arguments, id=call.id, index=index, type="tool_call_chunk")


def to_completion(message: AIMessage) -> Completion:
    """Read a message back, for a step of the core to read its value from; messages of other models work too."""
    metadata = message.response_metadata
    finish: FinishReason = metadata.get("finish_detail") or metadata.get("finish_reason") or "stop"
    return Completion(
        text=message.text,
        thinking=message.additional_kwargs.get("reasoning_content", ""),
        finish=finish,
        usage=_read_usage(message),
        timings=Timings(**metadata.get("timings", {})),
        model=metadata.get("model_name", ""),
    )


def to_usage(usage: Usage) -> UsageMetadata:
    """Return token counts as LangChain has them, in details that do not overlap.

    Image tokens read from the cache are counted there, so `image` is at most the rest of the prompt;
    `response_metadata["usage"]` counts all of them.
    """
    return UsageMetadata(
        input_tokens=usage.prompt,
        output_tokens=usage.completion,
        total_tokens=usage.prompt + usage.completion,
        # LangChain allows further keys here, but its type does not say so.
        input_token_details=InputTokenDetails(
            cache_read=usage.cached,
            image=min(usage.image, usage.prompt - usage.cached),  # type: ignore[typeddict-unknown-key]
        ),
        output_token_details=OutputTokenDetails(reasoning=usage.thinking),
    )


def _read_usage(message: AIMessage) -> Usage:
    if exact := message.response_metadata.get("usage"):
        return Usage(**exact)
    known = message.usage_metadata
    return Usage(prompt=known["input_tokens"], completion=known["output_tokens"]) if known else Usage()


def _metadata(completion: Completion) -> dict[str, Any]:
    return {
        "model_provider": PROVIDER,
        "model_name": completion.model,
        "finish_reason": FINISH[completion.finish],
        "finish_detail": completion.finish,
        "usage": asdict(completion.usage),
        "timings": asdict(completion.timings),
    }


def _reasoning(thinking: str) -> dict[str, Any]:
    return {"reasoning_content": thinking} if thinking else {}


def _boxes(completion: Completion) -> dict[str, Any]:
    return {"boxes": [asdict(box) for box in completion.boxes]} if completion.boxes else {}


def _good_call(call: ToolCall) -> Any:
    return tool_call(name=call.name, args=dict(call.arguments or {}), id=call.id)


def _bad_call(call: ToolCall) -> Any:
    return invalid_tool_call(name=call.name, args=call.raw, id=call.id, error=call.error)


def _logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Write log probabilities in OpenAI's shape."""
    content = [
        _token(token.token, token.logprob) | {"top_logprobs": [_token(*alternative) for alternative in token.top]}
        for token in tokens
    ]
    return {"logprobs": {"content": content}} if content else {}


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "bytes": list(token.encode()), "logprob": logprob}
