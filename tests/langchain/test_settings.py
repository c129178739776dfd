"""Where settings come from, which of them win, and that wrong ones raise."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from typing import Self

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps
from langchain_core.messages import BaseMessage, HumanMessage
from pydantic import ValidationError, model_validator

from glm4v_core import (
    Choices,
    Glm4v,
    JsonSchema,
    Sampling,
    ScriptedEngine,
)
from glm4v_core.errors import UnknownOptionError, UnsupportedError
from langchain_glm4v import (
    ChatGLM4V,
)
from tests.support.langchain_calls import CHAT_WAYS, Make, ask


def test_a_call_wins_over_the_constructor_and_unset_values_are_the_familys(scripted: Make) -> None:
    llm, engine = scripted("a", "b", '{"n": 1}', temperature=0.5, top_k=7, stop=["END"], seed=1, reasoning=False)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    llm.invoke("x")
    llm.invoke("x", stop=[], temperature=0.0, seed=2, reasoning=True, reasoning_budget=5, timeout=9.0, max_tokens=3)
    llm.bind(stop="DONE", constraint=JsonSchema(schema), logprobs=True).invoke("x")
    first, second, third = engine.history
    family = engine.info.family.sampling
    assert (first.sampling.temperature, first.sampling.top_k, first.sampling.stop) == (0.5, 7, ("END",))
    assert first.sampling.top_p == family.top_p
    assert (first.sampling.seed, first.thinking, first.sampling.logprobs) == (1, False, None)
    assert second.sampling.stop == ()
    assert (second.sampling.temperature, second.sampling.seed, second.sampling.max_tokens) == (0.0, 2, 3)
    assert (second.thinking, second.thinking_budget, second.timeout) == (True, 5, 9.0)
    assert (third.sampling.stop, third.constraint, third.sampling.logprobs) == (("DONE",), JsonSchema(schema), 0)
    assert (llm.temperature, llm.stop) == (0.5, ["END"])


@pytest.mark.parametrize("way", CHAT_WAYS)
async def test_a_call_with_an_option_builds_no_second_chat_model(way: str) -> None:
    made: list[ChatGLM4V] = []

    class Counted(ChatGLM4V):
        @model_validator(mode="after")
        def _count(self) -> Self:
            made.append(self)
            return self

    engine = ScriptedEngine(["a"])
    llm = Counted(glm4v=Glm4v.from_engine(engine))
    await ask(llm, way, "x", seed=1)
    assert engine.history[0].sampling.seed == 1
    assert len(made) == 1


def test_one_stop_string_needs_no_list(scripted: Make) -> None:
    llm, engine = scripted("a", stop="END")
    llm.invoke("x")
    assert engine.history[0].sampling.stop == ("END",)


@pytest.mark.parametrize("way", CHAT_WAYS)
async def test_unknown_and_wrong_options_raise_by_name(scripted: Make, way: str) -> None:
    llm, engine = scripted()
    with pytest.raises(UnknownOptionError, match="temprature"):
        await ask(llm, way, "x", temprature=0.1)
    with pytest.raises(ValidationError, match="temperature"):
        await ask(llm, way, "x", temperature="hot")
    with pytest.raises(ValidationError, match="top_logprobs"):
        await ask(llm, way, "x", top_logprobs=3)
    assert engine.history == []


def test_unknown_settings_of_the_constructor_raise_by_name() -> None:
    with pytest.raises(ValidationError, match="temprature"):
        ChatGLM4V(temprature=0.1)


def test_standard_names_are_accepted() -> None:
    llm = ChatGLM4V(
        engine="server",
        model_name="some/model",
        stop_sequences=["x"],
        timeout=3,
        max_retries=5,
        api_key="secret",
        streaming=True,
    )
    assert (llm.model, llm.stop, llm.timeout, llm.max_retries) == ("some/model", ["x"], 3, 5)
    assert "secret" not in repr(llm)


def test_model_and_engine_come_from_the_environment_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM4V_MODEL", "from/environment")
    monkeypatch.setenv("GLM4V_ENGINE", "scripted")
    assert (ChatGLM4V().model, ChatGLM4V().engine) == ("from/environment", "scripted")
    assert ChatGLM4V(model="given").model == "given"


def test_a_passed_model_supplies_its_names_and_contradictions_are_refused() -> None:
    loaded = Glm4v.from_engine(ScriptedEngine())
    assert ChatGLM4V(glm4v=loaded).model == "scripted"
    assert ChatGLM4V(glm4v=loaded, model="scripted").engine == "scripted"
    with pytest.raises(ValidationError, match="model"):
        ChatGLM4V(glm4v=loaded, model="other")
    with pytest.raises(ValidationError, match="engine_options"):
        ChatGLM4V(glm4v=loaded, engine_options={"slots": 2})


def test_making_a_chat_model_is_quick_and_loads_nothing() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        ChatGLM4V(model="/there/is/no/such/model", engine="transformers", engine_options={"slots": 2})
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.01
    code = "import sys; from langchain_glm4v import ChatGLM4V; ChatGLM4V(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_constraints_can_be_set_for_every_call(scripted: Make) -> None:
    llm, engine = scripted("yes", constraint=Choices(("yes", "no")))
    llm.invoke("x")
    assert engine.history[0].constraint == Choices(("yes", "no"))
    assert engine.history[0].sampling == Sampling(
        **{
            name: getattr(engine.info.family.sampling, name)
            for name in ("temperature", "top_p", "top_k", "repetition_penalty")
        }
    )


def test_a_cache_keeps_settings_apart(scripted: Make) -> None:
    llm, engine = scripted("first", "second", cache=InMemoryCache())
    assert [llm.invoke("x").text, llm.invoke("x").text, llm.invoke("x", seed=3).text] == ["first", "first", "second"]
    assert len(engine.history) == 2


def test_traces_name_the_model_that_ran(scripted: Make) -> None:
    llm, _ = scripted(temperature=0.5, max_tokens=9, stop=["END"])
    params = llm._get_ls_params()
    assert params["ls_provider"] == "glm4v"
    assert params["ls_model_name"] == "scripted"
    assert (params["ls_temperature"], params["ls_max_tokens"], params["ls_stop"]) == (0.5, 9, ["END"])
    assert llm._llm_type == "chat-glm4v"


@pytest.mark.parametrize("way", ["generate", "agenerate"])
async def test_several_answers_use_consecutive_seeds(scripted: Make, way: str) -> None:
    llm, engine = scripted(lambda request: f"seed {request.sampling.seed}", n=3, seed=5)
    messages: list[list[BaseMessage]] = [[HumanMessage("x")]]
    result = await llm.agenerate(messages) if way == "agenerate" else llm.generate(messages)
    assert [generation.text for generation in result.generations[0]] == ["seed 5", "seed 6", "seed 7"]
    assert len(engine.history) == 3


def test_several_answers_cannot_be_streamed(scripted: Make) -> None:
    llm, _ = scripted("ok")
    with pytest.raises(UnsupportedError, match="cannot be streamed"):
        list(llm.stream("x", n=2))
    with pytest.raises(ValidationError, match="n must be 1"):
        ChatGLM4V(n=2, streaming=True)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        llm.invoke("x", n=0)


def test_settings_survive_serialization_and_secrets_are_left_out() -> None:
    options = {"base_url": "http://127.0.0.1:8000"}
    llm = ChatGLM4V(engine="server", seed=7, stop=["END"], engine_options=options, api_key="sesame", max_retries=4)
    assert ChatGLM4V(**llm.model_dump(exclude_unset=True)) == llm
    assert pickle.loads(pickle.dumps(llm)) == llm
    for shown in (repr(llm), str(llm.asdict()), dumps(llm), str(llm._get_ls_params()), llm.model_dump_json()):
        assert "sesame" not in shown
