"""Converts a request to the body of a chat completion. Settings for which a server has no field are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, assert_never

from glm4v_core.dialect.grammar import compile_grammar
from glm4v_core.dialect.tool_calls import describe_tools
from glm4v_core.engines.server.client import Served
from glm4v_core.engines.server.messages import WireDict, wire_messages
from glm4v_core.engines.server.options import ServerOptions
from glm4v_core.errors import UnsupportedError
from glm4v_core.types import Choices, Constraint, JsonSchema, Regex, Request

_NO_REASONING = "<think></think><answer>"
_WITHOUT_PARSER = (
    "Start the server with --enable-auto-tool-choice and --tool-call-parser glm45, or with "
    "--structured-outputs-config.backend guidance and pass the option grammars=True."
)


@dataclass(frozen=True, slots=True)
class RequestWriter:
    """Writes requests for one served model.

    Attributes:
        served: the model.
        options: of the engine.
        parses_calls: whether the server accepts tools and parses their calls. Otherwise tools are explained in the
            messages, calls arrive as raw text, and a grammar constrains them if `grammars` is on.
    """

    served: Served
    options: ServerOptions
    parses_calls: bool = True

    def body(self, request: Request) -> WireDict:
        """Return the body of a streamed chat completion.

        Raises:
            UnsupportedError: the server's API has no field for a setting of the request.
            InputError: the messages cannot be rendered for the model.
        """
        sampling = request.sampling
        longest = min(self.served.family.sampling.max_tokens or self.served.context, self.served.context - 1)
        chosen = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens or max(1, longest),
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "logprobs": None if sampling.logprobs is None else True,
            "top_logprobs": sampling.logprobs,
        }
        body = {"stream": True, "stream_options": {"include_usage": True}, **self.prompt(request)}
        body |= {name: value for name, value in chosen.items() if value is not None}
        body |= _tool_choice(request) if "tools" in body else {}
        return body | (self._vllm(request, body) if self.served.api == "vllm" else self._openai(request, body))

    def prompt(self, request: Request) -> WireDict:
        """Return the fields that determine the prompt, for a completion or for counting tokens."""
        dialect = self.served.family.dialect
        messages, tools = wire_messages(request, self.served.family, self.options.max_image_tokens)
        prompt: WireDict = {"model": self.served.name, "messages": messages}
        if tools and self.parses_calls:
            prompt["tools"] = tools
        elif tools:
            messages.insert(0, {"role": "system", "content": describe_tools(tools)})
        if self.served.api == "openai":
            return prompt
        if dialect.switch == "template":
            prompt["chat_template_kwargs"] = {"enable_thinking": bool(request.thinking)}
        if dialect.switch == "prefill" and not request.thinking:
            messages.append({"role": "assistant", "content": _NO_REASONING})
            prompt |= {"add_generation_prompt": False, "continue_final_message": True}
        if self.options.mm_processor_kwargs:
            prompt["mm_processor_kwargs"] = dict(self.options.mm_processor_kwargs)
        return prompt

    def _vllm(self, request: Request, body: WireDict) -> WireDict:
        """Add vLLM's own fields."""
        sampling = request.sampling
        budget = request.thinking_budget if request.thinking else None
        extras = {
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "top_k": sampling.top_k,
            "repetition_penalty": sampling.repetition_penalty,
            # Some checkpoints mark the tags as special tokens; without this their text would be lost.
            "skip_special_tokens": False,
            "repetition_detection": self._repetition() if self.options.repetition_pattern else None,
            "thinking_token_budget": budget,
            **self._constraint(request, server_calls="tools" in body),
        }
        return {name: value for name, value in extras.items() if value is not None}

    def _constraint(self, request: Request, *, server_calls: bool) -> WireDict:
        """Return the fields that constrain the answer, and the tool calls if the server does not do so itself."""
        if self.options.grammars:
            grammar = compile_grammar(request, self.served.family.dialect, "free" if request.thinking else "answer")
            return {} if grammar is None else {"structured_outputs": {"grammar": grammar.text}}
        if request.tools and request.tool_choice != "none" and not server_calls:
            bound = request.tool_choice != "auto" or request.constraint is not None
            _refuse(bound, "tool_choice, or a constraint beside tools", hint=_WITHOUT_PARSER)
        forced = server_calls and request.tool_choice != "auto"
        if request.constraint is None or forced:
            return {}
        return _own_field(request.constraint) | self._require_reasoning_parser(request)

    def _require_reasoning_parser(self, request: Request) -> WireDict:
        """Make a server without a reasoning parser reject the request, since it would constrain the reasoning as well.

        vLLM accepts a thinking budget only with a reasoning parser, so the request gets one that is never reached.
        """
        if not request.thinking or self.served.family.never_thinks or request.thinking_budget is not None:
            return {}
        return {"thinking_token_budget": self.served.context}

    def _repetition(self) -> WireDict:
        """Return vLLM's settings for the repetition guard of `RepetitionOptions`.

        vLLM cannot require a minimum number of repeated tokens. The minimum length of a pattern has the same effect:
        shorter patterns are found as multiples of themselves.
        """
        options = self.options
        shortest = math.ceil(options.repetition_tokens / options.repetition_repeats)
        longest = max(shortest, options.repetition_pattern)
        return {"max_pattern_size": longest, "min_pattern_size": shortest, "min_count": options.repetition_repeats}

    def _openai(self, request: Request, body: WireDict) -> WireDict:
        """Return OpenAI's fields, and refuse settings that need vLLM's."""
        dialect, thinking = self.served.family.dialect, bool(request.thinking)
        beyond = {
            "top_k": bool(request.sampling.top_k),
            "repetition_penalty": request.sampling.repetition_penalty not in (None, 1.0),
            "thinking=False": dialect.think is not None and not thinking,
            "thinking_budget": thinking and request.thinking_budget is not None,
            "mm_processor_kwargs": bool(self.options.mm_processor_kwargs),
            "a constraint that is not a JSON schema": isinstance(request.constraint, Choices | Regex),
            "tool_choice": request.tool_choice not in ("auto", "none") and "tools" not in body,
        }
        for name, wanted in beyond.items():
            _refuse(
                wanted,
                name,
                hint="If the server supports vLLM's fields, pass the option api='vllm'; otherwise leave it out.",
            )
        return _json_format(request.constraint) if isinstance(request.constraint, JsonSchema) else {}


def _refuse(wanted: bool, name: str, *, hint: str) -> None:
    if wanted:
        raise UnsupportedError(f"This server has no field for {name}.", hint=hint)


def _tool_choice(request: Request) -> WireDict:
    choice: Any = request.tool_choice
    if choice not in ("auto", "required"):
        choice = {"type": "function", "function": {"name": choice}}
    return {"tool_choice": choice} | ({} if request.parallel_tool_calls else {"parallel_tool_calls": False})


def _own_field(constraint: Constraint) -> WireDict:
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
    schema = {"name": "answer", "schema": dict(constraint.schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}
