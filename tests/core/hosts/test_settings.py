"""The settings that adapters inherit: where they come from, which of them win, and what copies share."""

from __future__ import annotations

import copy
import pickle
import shutil
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pydantic import ConfigDict, ValidationError

from glm4v_core import Choices, Glm4v, Message, Request, Sampling, ScriptedEngine, Tool
from glm4v_core.dialect.schemas import closed_schema
from glm4v_core.errors import EngineClosedError, ModelError, UnknownOptionError, UnsupportedError
from glm4v_core.hosts import CallSettings, ModelSettings
from glm4v_core.tiny import checkpoint_path

HELLO = Request((Message.user("x"),))


class Call(CallSettings):
    """The options of one call from a host."""

    model_config = ConfigDict(title="a call of Adapter")

    thinking: bool | None = None


class Adapter(Call, ModelSettings):
    """The settings of an adapter."""

    def of_a_call(self, **options: Any) -> Call:
        return Call.merged(self, options, ("tools",))


def scripted(*answers: str) -> Adapter:
    return Adapter(engine="scripted", engine_options={"answers": list(answers)})


def test_a_call_wins_over_the_constructor() -> None:
    adapter = Adapter(temperature=0.5, stop="END", logprobs=True)
    assert adapter.sampling() == Sampling(temperature=0.5, stop=("END",), logprobs=0)
    changed = adapter.of_a_call(temperature=0.0, stop=[], top_logprobs=2, seed=7, tools=["any"], thinking=True)
    assert changed.sampling() == Sampling(temperature=0.0, seed=7, logprobs=2)
    assert adapter.temperature == 0.5


def test_a_call_with_options_builds_no_second_model_object() -> None:
    made: list[Adapter] = []

    class Counted(Adapter):
        def model_post_init(self, context: Any) -> None:
            super().model_post_init(context)
            made.append(self)

    adapter = Counted(temperature=0.5)
    changed = Call.merged(adapter, {"seed": 1})
    assert made == [adapter]
    assert type(changed) is Call
    assert Call.merged(adapter, {"tools": []}, ("tools",)) is adapter


def test_settings_and_a_call_make_one_request() -> None:
    call = Adapter(constraint=Choices(("a",)), timeout=3).of_a_call(seed=1)
    messages = (Message.user("x"),)
    assert call.request(messages, thinking=None, thinking_budget=None) == Request(
        messages, sampling=Sampling(seed=1), constraint=Choices(("a",)), timeout=3
    )
    tools = (Tool("find"),)
    asked = call.request(
        messages,
        thinking=True,
        thinking_budget=5,
        tools=tools,
        tool_choice="find",
        parallel_tool_calls=False,
        constraint=Choices(("b",)),
    )
    assert (asked.tools, asked.tool_choice, asked.parallel_tool_calls) == (tools, "find", False)
    assert (asked.thinking, asked.thinking_budget, asked.constraint) == (True, 5, Choices(("b",)))


def test_wrong_and_unknown_settings_raise_by_name() -> None:
    with pytest.raises(UnknownOptionError, match=r"Adapter has no call option temprature.*temperature"):
        Adapter().of_a_call(temprature=1)
    with pytest.raises(ValidationError, match=r"for a call of Adapter\ntemperature\n.*input_value='hot'"):
        Adapter().of_a_call(temperature="hot")
    with pytest.raises(ValidationError, match=r"for Adapter\ntemprature"):
        Adapter(temprature=1)
    with pytest.raises(ValidationError, match="top_logprobs needs logprobs"):
        Adapter(top_logprobs=1)


def test_the_environment_names_the_model_unless_the_caller_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM4V_MODEL", "from/environment")
    monkeypatch.setenv("GLM4V_ENGINE", "scripted")
    assert (Adapter().model, Adapter().engine) == ("from/environment", "scripted")
    assert Adapter(model_name="given").model == "given"


def test_a_passed_model_supplies_its_names_and_outlives_the_settings() -> None:
    loaded = Glm4v.from_engine(ScriptedEngine())
    adapter = Adapter(glm4v=loaded)
    assert (adapter.model, adapter.engine) == (loaded.info.model, "scripted")
    adapter.close()
    assert adapter.load() is loaded
    with pytest.raises(ValidationError, match="the loaded model's is"):
        Adapter(glm4v=loaded, model="other")
    with pytest.raises(ValidationError, match="engine_options"):
        Adapter(glm4v=loaded, engine_options={"slots": 2})


def test_equal_settings_share_one_model_until_it_is_closed() -> None:
    first, second = scripted("shared"), scripted("shared")
    model = first.load()
    assert second.load() is model
    assert scripted("not shared").load() is not model
    second.close()
    assert first.load() is not model
    for adapter in (first, scripted("not shared")):
        adapter.close()


def test_copies_share_what_is_loaded() -> None:
    loaded = Glm4v.from_engine(ScriptedEngine())
    adapter = Adapter(glm4v=loaded, constraint=Choices(("a",)), engine="scripted")
    for duplicate in (copy.copy(adapter), copy.deepcopy(adapter), copy.deepcopy([adapter])[0]):
        assert duplicate.glm4v is loaded
        assert duplicate.constraint == adapter.constraint


def test_a_pickled_copy_finds_the_model_of_its_own_process() -> None:
    adapter = scripted("pickled")
    model = adapter.load()
    assert pickle.loads(pickle.dumps(adapter)).loaded() is model
    adapter.close()
    with pytest.raises(UnsupportedError, match="cannot be pickled"):
        pickle.dumps(Adapter(glm4v=Glm4v.from_engine(ScriptedEngine())))


def test_a_shared_model_shares_its_engine_with_other_models_of_its_configuration() -> None:
    adapter = scripted("one", "two")
    model = adapter.load()
    own = Glm4v.load(adapter.model, "scripted", answers=["one", "two"])
    assert own.info is model.info
    adapter.close()
    with pytest.raises(EngineClosedError):
        model.generate(HELLO)
    assert own.generate(HELLO).text == "one"
    assert adapter.loaded().generate(HELLO).text == "two"  # the same engine, which `own` kept
    adapter.close()
    own.close()


def test_one_model_is_found_for_every_spelling_of_its_configuration(tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint_path(), tmp_path / "tiny")
    first = Adapter(model=str(folder), engine="transformers")
    second = Adapter(model=f"{tmp_path}/./tiny", engine="transformers", engine_options={"slots": 16})
    assert first.load() is second.load()
    second.close()
    first.close()


def test_a_shared_model_that_was_closed_is_loaded_again() -> None:
    adapter = scripted("again")
    with adapter.load() as model, Glm4v.load(adapter.model, "scripted", answers=["again"]):
        model.close()
        assert adapter.loaded() is not model
    assert adapter.loaded().generate(HELLO).text == "again"
    adapter.close()
    adapter.close()


def test_a_loaded_model_is_found_in_two_frames() -> None:
    adapter = scripted("found")
    model = adapter.load()
    deepest = 0

    def measure(frame: FrameType, event: str, _: object) -> None:
        nonlocal deepest
        ours = 0
        for each, _line in traceback.walk_stack(frame):
            # Python 3.12 no longer makes frames of comprehensions.
            ours += "glm4v_core" in each.f_code.co_filename and not each.f_code.co_name.endswith("comp>")
        deepest = max(deepest, ours)

    sys.setprofile(measure)
    found = adapter.loaded()
    sys.setprofile(None)
    assert found is model
    assert deepest == 2
    adapter.close()


def test_a_failed_load_is_tried_again(tmp_path: Path) -> None:
    adapter = Adapter(model=str(tmp_path / "late"), engine="transformers")
    with pytest.raises(ModelError):
        adapter.loaded()
    shutil.copytree(checkpoint_path(), tmp_path / "late")
    assert adapter.loaded().info.family.name == "tiny"
    adapter.close()


def test_closing_settings_that_never_loaded_a_model_does_nothing() -> None:
    Adapter(model="no/such", engine="no such engine").close()


def test_closing_a_schema_keeps_its_explicit_keywords() -> None:
    schema = {
        "type": "object",
        "properties": {
            "properties": {"type": "object", "properties": {"a": {"type": "string"}}},
            "type": {"const": {"type": "object", "properties": {}}},
            "open": {"type": "object", "properties": {}, "additionalProperties": {"$ref": "#/$defs/Part"}},
            "many": {"type": "array", "items": {"anyOf": [{"type": "object", "properties": {}}, True]}},
            "both": {"allOf": [{"properties": {"a": True}}, {"properties": {"b": True}}]},
            "one": {"allOf": [{"properties": {"a": True}}]},
        },
        "$defs": {"Part": {"type": "object", "properties": {}}},
    }
    closed = closed_schema(schema)
    assert closed["additionalProperties"] is False
    assert "additionalProperties" not in closed["properties"]
    assert closed["properties"]["properties"]["additionalProperties"] is False
    assert closed["properties"]["type"] == schema["properties"]["type"]  # type: ignore[index]
    assert closed["properties"]["open"] == schema["properties"]["open"]  # type: ignore[index]
    assert closed["properties"]["many"]["items"]["anyOf"][0]["additionalProperties"] is False
    assert closed["properties"]["both"] == schema["properties"]["both"]  # type: ignore[index]
    assert closed["properties"]["one"]["allOf"][0]["additionalProperties"] is False
    assert closed["$defs"]["Part"]["additionalProperties"] is False
    assert "required" not in closed
    strict = closed_schema(schema, all_required=True)
    assert strict["required"] == list(schema["properties"])  # type: ignore[arg-type]
    assert strict["properties"]["properties"]["required"] == ["a"]
