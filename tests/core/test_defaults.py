"""How a request is completed and checked before an engine gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import PIL.Image
import pytest

from glm4v_core.defaults import Defaults
from glm4v_core.engines.scripted import ScriptedEngine
from glm4v_core.errors import ConfigError, ConstraintError, Glm4vError, MessageError, UnsupportedError
from glm4v_core.media.image import Image
from glm4v_core.model import Glm4v
from glm4v_core.types import Choices, JsonSchema, Message, Request, Sampling, Text, Tool, ToolCall, ToolResult

ASKED = Request((Message.user("Hi"),))
CLOCK = Tool("clock")


def sent(request: Request, defaults: Defaults | None = None, family: str = "GLM-4.6V-Flash") -> Request:
    """Return the request as it reaches the engine."""
    engine = ScriptedEngine(["fine"], family=family)
    Glm4v.from_engine(engine, defaults).generate(request)
    return engine.history[0]


def test_unset_values_are_the_familys() -> None:
    request = sent(ASKED)
    assert request.sampling == Sampling(0.8, 0.6, 2, 1.0)
    assert request.thinking is True
    assert sent(ASKED, family="tiny").thinking is False


def test_the_call_wins_over_the_model_and_the_model_over_the_family() -> None:
    defaults = Defaults(Sampling(temperature=0.5, top_p=0.5, seed=1, max_tokens=9, stop=("A",)), True, 50, 60)
    request = sent(Request(ASKED.messages, sampling=Sampling(temperature=0.0), timeout=5), defaults)
    assert request.sampling == Sampling(0.0, 0.5, 2, 1.0, max_tokens=9, stop=("A",), seed=1)
    assert (request.thinking, request.thinking_budget, request.timeout) == (True, 50, 5)
    off = Request(ASKED.messages, sampling=Sampling(top_p=0.1, stop=("B",)), thinking=False, thinking_budget=0)
    request = sent(off, defaults)
    assert request.sampling == Sampling(0.5, 0.1, 2, 1.0, max_tokens=9, stop=("B",), seed=1)
    assert (request.thinking, request.thinking_budget, request.timeout) == (False, 0, 60)


def test_load_takes_the_same_defaults() -> None:
    chosen: dict[str, Any] = {"sampling": Sampling(top_k=7), "thinking": False, "timeout": 3.0, "thinking_budget": 2}
    seen: list[Request] = []

    def answer(request: Request) -> str:
        seen.append(request)
        return "x"

    with Glm4v.load(engine="scripted", answers=answer, **chosen) as model:
        model.generate(ASKED)
    (request,) = seen
    assert (request.sampling.top_k, request.thinking, request.timeout, request.thinking_budget) == (7, False, 3.0, 2)


def test_messages_and_tools_pass_untouched() -> None:
    request = Request(ASKED.messages, tools=(CLOCK,), constraint=Choices(("fine",)))
    assert sent(request) == replace(sent(ASKED), tools=(CLOCK,), constraint=Choices(("fine",)))


@pytest.mark.parametrize(
    ("sampling", "name"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": "3"}, "top_k"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"stop": ("a", "")}, "stop"),
    ],
)
def test_sampling_out_of_range_is_refused_by_name(sampling: Mapping[str, Any], name: str) -> None:
    refused(Request(ASKED.messages, sampling=Sampling(**sampling)), ConfigError, name)


def test_limits_out_of_range_are_refused_by_name() -> None:
    refused(Request(ASKED.messages, thinking_budget=-1), ConfigError, "thinking_budget")
    refused(Request(ASKED.messages, timeout=0), ConfigError, "timeout")


def test_requests_that_the_family_does_not_support_are_refused() -> None:
    refused(Request(ASKED.messages, thinking=True), UnsupportedError, "think", family="GLM-4v-9b")
    refused(Request(ASKED.messages, tools=(CLOCK,)), UnsupportedError, "tools", family="GLM-4v-9b")
    called = (*ASKED.messages, Message.assistant(ToolCall("1", "clock", {})), Message("tool", (ToolResult("1", ()),)))
    refused(Request(called), UnsupportedError, "GLM-4v-9b does not support tools", family="GLM-4v-9b")
    assert sent(Request(called)).messages == called
    hidden = Request(ASKED.messages, tools=(CLOCK,), tool_choice="none")
    assert sent(hidden, family="GLM-4v-9b").thinking is False


def test_a_request_must_hold_a_message() -> None:
    refused(Request(()), MessageError, "no messages")


def test_images_are_counted_wherever_they_occur() -> None:
    page = Image.load(PIL.Image.new("RGB", (28, 28)))
    shown = Message("tool", (ToolResult("1", (Text("a"), page)),))
    assert sent(Request((Message.user(page, "?"), shown))).messages
    refused(Request((Message.user(*[page] * 8), shown)), MessageError, "9 images; tiny takes 8", family="tiny")


def test_constraints_and_tool_choices_are_checked_first() -> None:
    refused(Request(ASKED.messages, constraint=JsonSchema({"type": "objekt"})), ConstraintError, "schema")
    refused(Request(ASKED.messages, tools=(CLOCK,), tool_choice="watch"), ConstraintError, "watch")


def refused(request: Request, error: type[Glm4vError], message: str, family: str = "GLM-4.6V-Flash") -> None:
    engine = ScriptedEngine(["never"], family=family)
    model = Glm4v.from_engine(engine)
    with pytest.raises(error, match=message):
        model.generate(request)
    with pytest.raises(error, match=message):
        model.count_tokens(request)
    assert engine.history == []
