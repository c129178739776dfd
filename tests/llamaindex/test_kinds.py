"""Which classes of LlamaIndex it implements, its metadata, and what copies share."""

from __future__ import annotations

import copy
import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import pytest
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.utils import resolve_llm
from llama_index.core.multi_modal_llms import MultiModalLLM
from llama_index.core.prompts import PromptTemplate
from pydantic import ValidationError, model_validator

from glm4v_core import Choices, Defaults, Glm4v, JsonSchema, Sampling, ScriptedEngine
from glm4v_core.errors import ConfigError, UnsupportedError
from llamaindex_glm4v import GLM4V, GLM4VMultiModal
from tests.support.llamaindex_calls import WAYS, Make, Recorder, ask

ROOT = Path(__file__).parents[2]


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ}).stdout


def test_it_is_every_kind_of_llm(scripted: Make) -> None:
    llm, _ = scripted()
    assert {LLM, FunctionCallingLLM, MultiModalLLM} <= set(type(llm).__mro__)
    assert GLM4V is GLM4VMultiModal
    assert "multi" in llm.class_name()
    assert resolve_llm(llm) is llm


def test_it_works_where_llama_index_has_no_multi_modal_class(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    monkeypatch.setitem(sys.modules, "llama_index.core.multi_modal_llms", None)
    spec = importlib.util.spec_from_file_location("without_multi_modal", ROOT / "llamaindex_glm4v" / "llm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    llm = module.GLM4VMultiModal(glm4v=Glm4v.from_engine(ScriptedEngine(["Hello."])))
    assert not isinstance(llm, MultiModalLLM)
    assert isinstance(llm, FunctionCallingLLM)
    assert llm.complete("Hi.").text == "Hello."
    assert recorder.names() == ["LLMCompletionStartEvent", "LLMCompletionEndEvent"]


def test_metadata_describes_the_loaded_model(scripted: Make) -> None:
    llm, engine = scripted(max_tokens=50, context=9000)
    metadata = llm.metadata
    assert (metadata.context_window, metadata.num_output, metadata.model_name) == (9000, 50, "scripted")
    assert (metadata.is_chat_model, metadata.is_function_calling_model) == (True, True)
    assert metadata.num_input_files == engine.info.family.limits.max_images
    assert engine.history == []


def test_metadata_says_where_a_limit_comes_from(scripted: Make) -> None:
    family, engine = scripted()
    assert family.metadata.num_output == engine.info.family.sampling.max_tokens
    short, _ = scripted(context=1000)
    assert short.metadata.num_output == 500  # the room for an answer depends on the prompt
    loaded = Glm4v.from_engine(ScriptedEngine(), Defaults(Sampling(max_tokens=77)))
    assert GLM4VMultiModal(glm4v=loaded).metadata.num_output == 77
    older, _ = scripted(family="GLM-4v-9b")
    assert older.metadata.is_function_calling_model is False


def test_observers_get_no_secrets_and_load_nothing(recorder: Recorder) -> None:
    llm = GLM4VMultiModal(model="/there/is/no/such/model", engine="transformers", engine_options={"device": "hush"})
    payload = llm.to_payload()
    assert (payload["model"], payload["temperature"]) == ("/there/is/no/such/model", None)
    assert "hush" not in repr(payload)


def test_creating_one_imports_nothing_heavy() -> None:
    code = "import sys; from llamaindex_glm4v import GLM4V; GLM4V(); print({'torch', 'vllm'} & set(sys.modules))"
    assert run(code) == "set()\n"


def test_it_can_be_imported_from_llama_indexs_integrations_namespace(tmp_path: Path) -> None:
    neighbour = tmp_path / "llama_index" / "llms" / "neighbour"
    neighbour.mkdir(parents=True)
    (neighbour / "__init__.py").touch()
    code = (
        f"import sys; sys.path += [{str(tmp_path)!r}, {str(ROOT / 'namespace')!r}];"
        "import llama_index.core.llms, llama_index.llms.neighbour, llamaindex_glm4v;"
        "from llama_index.llms.glm4v import GLM4V, GLM4VMultiModal;"
        "print(GLM4V is GLM4VMultiModal is llamaindex_glm4v.GLM4V, {'torch', 'vllm'} & set(sys.modules))"
    )
    assert run(code) == "True set()\n"


def test_a_dict_contains_the_whole_configuration() -> None:
    llm = GLM4VMultiModal(
        model="some/model",
        engine="transformers",
        engine_options={"slots": 2},
        temperature=0.5,
        thinking=False,
        constraint=JsonSchema({"type": "object"}),
        system_prompt="Be brief.",
    )
    same = GLM4VMultiModal.from_dict(llm.to_dict())
    assert same.to_json() == llm.to_json()
    assert same.constraint == llm.constraint
    assert llm.to_dict() != GLM4VMultiModal(model="other").to_dict()


def test_copies_share_the_loaded_model() -> None:
    options: dict[str, Any] = {"answers": ["one", "two", "three", "four"]}
    llm = GLM4VMultiModal(engine="scripted", engine_options=options, constraint=Choices(("a",)))
    copies = [
        llm,
        GLM4VMultiModal.from_dict(llm.to_dict()),
        copy.deepcopy(llm),
        pickle.loads(pickle.dumps(llm)),
    ]
    assert len({id(each.load()) for each in copies}) == 1
    assert [each.complete("x", constraint=None).text for each in copies] == ["one", "two", "three", "four"]
    llm.close()


def test_copies_of_an_llm_with_a_passed_model_share_it_and_cannot_be_pickled(scripted: Make) -> None:
    llm, engine = scripted("here")
    assert copy.deepcopy(llm).complete("x").text == "here"
    assert len(engine.history) == 1
    with pytest.raises(UnsupportedError, match="cannot be pickled"):
        pickle.dumps(llm)


def test_a_copy_from_another_process_loads_nothing_unasked(tmp_path: Path) -> None:
    file = tmp_path / "llm.pickle"
    code = """
import pickle, sys
from pathlib import Path
from llamaindex_glm4v import GLM4V
llm = GLM4V(engine="scripted", engine_options={"answers": ["here"]}, temperature=0.5)
Path(sys.argv[1]).write_bytes(pickle.dumps(llm))
"""
    run(code, str(file))
    llm = pickle.loads(file.read_bytes())
    assert llm.temperature == 0.5
    with pytest.raises(ConfigError, match="another process"):
        llm.chat([ChatMessage(content="x")])
    llm.load()
    assert llm.complete("x").text == "here"
    llm.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"temprature": 1},
        {"top_logprobs": 3},
        {"messages_to_prompt": lambda messages: ""},
        {"query_wrapper_prompt": PromptTemplate("{query_str}")},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_without_effect_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        GLM4VMultiModal(**settings)


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_with_an_option_builds_no_second_llm(way: str) -> None:
    made: list[GLM4VMultiModal] = []

    class Counted(GLM4VMultiModal):
        @model_validator(mode="after")
        def _count(self) -> Self:
            made.append(self)
            return self

    engine = ScriptedEngine(["a"])
    llm = Counted(glm4v=Glm4v.from_engine(engine))
    await ask(llm, way, "x", seed=1)
    assert engine.history[0].sampling.seed == 1
    assert len(made) == 1


def test_completion_prompts_are_formatted_unless_they_already_are(scripted: Make) -> None:
    llm, engine = scripted("a", "b", "c", completion_to_prompt=lambda prompt: f"<{prompt}>")
    llm.complete("x")
    llm.complete("x", formatted=True)
    list(llm.stream_complete("x", True))  # where other LLMs have `formatted`
    assert [request.messages[0].parts[-1].text for request in engine.history] == ["<x>", "x", "x"]  # type: ignore[union-attr]
