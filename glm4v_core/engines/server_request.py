"""A request as the body of a chat completion; what a server has no field for is refused, not left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, assert_never

from glm4v_core.engines.server_client import Served
from glm4v_core.engines.server_messages import WireDict, wire_messages
from glm4v_core.engines.server_options import ServerOptions
from glm4v_core.errors import UnsupportedError
from glm4v_core.types import Choices, Constraint, JsonSchema, Regex, Request

_NO_THOUGHT = "<think></think><answer>"


@dataclass(frozen=True, slots=True)
class RequestWriter:
    """Writes requests for one served model."""

    served: Served
    options: ServerOptions

    def body(self, request: Request) -> WireDict:
        """Write the whole body of a streamed chat completion.

        Raises:
            UnsupportedError: the request wants what the server's API cannot say.
            InputError: its messages cannot be shown to the model.
        """
        sampling = request.sampling
        family = self.served.family
        room = min(family.sampling.max_tokens or self.served.context, self.served.context - 1)
        chosen = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens or max(1, room),
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "logprobs": None if sampling.logprobs is None else True,
            "top_logprobs": sampling.logprobs,
        }
        body = {"stream": True, "stream_options": {"include_usage": True}, **self.prompt(request)}
        if "tools" in body:
            body |= _tool_choice(request)
        body |= {name: value for name, value in chosen.items() if value is not None}
        return body | (self._vllm(request) if self.served.api == "vllm" else self._openai(request))

    def prompt(self, request: Request) -> WireDict:
        """Write what decides the prompt, for a completion and for counting alike."""
        dialect = self.served.family.dialect
        messages, tools = wire_messages(request, self.served.family, self.options.max_image_tokens)
        prompt: WireDict = {"model": self.served.name, "messages": messages}
        if tools:
            prompt["tools"] = tools
        if self.served.api == "openai":
            return prompt
        if dialect.switch == "template":
            prompt["chat_template_kwargs"] = {"enable_thinking": bool(request.thinking)}
        if dialect.switch == "prefill" and not request.thinking:
            messages.append({"role": "assistant", "content": _NO_THOUGHT})
            prompt |= {"add_generation_prompt": False, "continue_final_message": True}
        if self.options.mm_processor_kwargs:
            prompt["mm_processor_kwargs"] = dict(self.options.mm_processor_kwargs)
        return prompt

    def _vllm(self, request: Request) -> WireDict:
        sampling = request.sampling
        extras: WireDict = {
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "top_k": sampling.top_k,
            "repetition_penalty": sampling.repetition_penalty,
            # Tags are tokens; some checkpoints flag them as special, and their text would be lost.
            "skip_special_tokens": False,
        }
        if self.options.repetition_pattern:
            extras["repetition_detection"] = self._repetition()
        if request.thinking and request.thinking_budget is not None:
            extras["thinking_token_budget"] = request.thinking_budget
        if request.constraint is not None:
            extras |= _vllm_constraint(request.constraint)
        return {name: value for name, value in extras.items() if value is not None}

    def _repetition(self) -> WireDict:
        """Ask for the guard of the other engines: so many repeats that span so many tokens.

        A pattern too short to span them is found as a multiple of itself.
        """
        options = self.options
        shortest = math.ceil(options.repetition_tokens / options.repetition_repeats)
        longest = max(shortest, options.repetition_pattern)
        return {
            "max_pattern_size": longest,
            "min_pattern_size": shortest,
            "min_count": options.repetition_repeats,
        }

    def _openai(self, request: Request) -> WireDict:
        dialect = self.served.family.dialect
        refused = {
            "top_k": bool(request.sampling.top_k),
            "repetition_penalty": request.sampling.repetition_penalty not in (None, 1.0),
            "thinking=False": dialect.think is not None and not request.thinking,
            "thinking_budget": bool(request.thinking) and request.thinking_budget is not None,
            "mm_processor_kwargs": bool(self.options.mm_processor_kwargs),
            "a constraint other than a JSON schema": isinstance(request.constraint, Choices | Regex),
        }
        if wanted := [name for name, applies in refused.items() if applies]:
            raise UnsupportedError(
                f"OpenAI's API has no field for {', '.join(wanted)}.",
                hint="If the server understands vLLM's fields, pass the engine's option api='vllm'; otherwise leave "
                "these out (top_k=0, repetition_penalty=1, thinking=True).",
            )
        return _json_format(request.constraint) if isinstance(request.constraint, JsonSchema) else {}


def _tool_choice(request: Request) -> WireDict:
    choice: Any = request.tool_choice
    if choice not in ("auto", "required"):
        choice = {"type": "function", "function": {"name": choice}}
    single = {} if request.parallel_tool_calls else {"parallel_tool_calls": False}
    return {"tool_choice": choice, **single}


def _vllm_constraint(constraint: Constraint) -> WireDict:
    match constraint:
        case JsonSchema():
            return _json_format(constraint)
        case Choices(options):
            return {"structured_outputs": {"choice": list(options)}}
        case Regex(pattern):
            return {"structured_outputs": {"regex": pattern}}
        case _:
            assert_never(constraint)


def _json_format(constraint: JsonSchema) -> WireDict:
    schema: Any = dict(constraint.schema)
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    }
