"""`api_key` and `max_retries`, the adapters' OpenAI-style settings, as they appear on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from glm4v_core import Glm4v, ScriptedEngine
from glm4v_core.errors import ServerAccessError, ServerBusyError
from glm4v_core.hosts import ModelSettings
from langchain_glm4v import ChatGLM4V
from llamaindex_glm4v import GLM4VMultiModal
from tests.support.fake_server import Failure, FakeServer, says

ADAPTERS = (ChatGLM4V, GLM4VMultiModal)
KEY = "sk-real"
BUSY = Failure(503, {"error": {"message": "Later."}}, {"Retry-After-Ms": "1"})


@pytest.fixture(params=ADAPTERS, ids=lambda adapter: adapter.__name__)
def adapter(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLM4V_BASE_URL", "GLM4V_API_KEY", "GLM4V_MODEL", "GLM4V_ENGINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def made() -> Iterator[list[Any]]:
    """What a test loads; closed after it."""
    settings: list[ModelSettings] = []
    yield settings
    for each in settings:
        each.close()


def ask(llm: Any) -> str:
    return llm.invoke("x").text if isinstance(llm, ChatGLM4V) else llm.complete("x").text


@pytest.mark.loopback
class TestOnTheWire:
    def test_the_key_is_sent_with_every_request(self, adapter: Any, server: FakeServer, made: list[Any]) -> None:
        server.key = KEY
        server.will(says("Yes"))
        made.append(adapter(engine="server", engine_options={"base_url": server.url}, api_key=KEY))
        assert ask(made[0]) == "Yes"
        assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}

    @pytest.mark.parametrize("max_retries", [0, 1, 4])
    def test_max_retries_sets_the_number_of_attempts(
        self, adapter: Any, server: FakeServer, made: list[Any], max_retries: int
    ) -> None:
        server.will(*[BUSY] * 6)
        made.append(adapter(engine="server", engine_options={"base_url": server.url}, max_retries=max_retries))
        with pytest.raises(ServerBusyError):
            ask(made[0])
        assert len(server.asked) == 1 + max_retries

    def test_models_with_different_keys_are_never_shared(
        self, adapter: Any, server: FakeServer, made: list[Any]
    ) -> None:
        server.will(says("Yes"), says("Yes"), says("Yes"))
        options = {"base_url": server.url}
        made += [adapter(engine="server", engine_options=options, api_key=key) for key in ("one", "two", "one")]
        for llm in made:
            ask(llm)
        first, second, third = (llm.load() for llm in made)
        assert first is third
        assert first is not second
        assert {headers["authorization"] for headers in server.headers} == {"Bearer one", "Bearer two"}

    def test_a_rejected_key_is_not_shown(self, adapter: Any, server: FakeServer) -> None:
        server.key = "another"
        llm = adapter(engine="server", engine_options={"base_url": server.url}, api_key=KEY)
        with pytest.raises(ServerAccessError) as caught:
            ask(llm)
        assert KEY not in str(caught.value)


class TestWithoutAServer:
    @pytest.mark.parametrize("engine", ["auto", "transformers", "vllm", "scripted"])
    @pytest.mark.parametrize("setting", [{"api_key": KEY}, {"max_retries": 0}], ids=lambda setting: next(iter(setting)))
    def test_an_engine_in_this_process_refuses_them_by_name(
        self, adapter: Any, engine: str, setting: dict[str, Any]
    ) -> None:
        (name,) = setting
        with pytest.raises(ValidationError, match=rf"{name} is for engine='server'.*Hint: Leave {name} out") as caught:
            adapter(engine=engine, **setting)
        assert KEY not in str(caught.value)

    def test_a_loaded_model_refuses_them(self, adapter: Any) -> None:
        for setting in ({"api_key": KEY}, {"max_retries": 1}):
            with pytest.raises(ValidationError, match="cannot be changed on a loaded model"):
                adapter(glm4v=Glm4v.from_engine(ScriptedEngine()), **setting)

    def test_giving_the_engines_own_names_as_well_is_refused(self, adapter: Any) -> None:
        for setting, option in (({"api_key": KEY}, {"api_key": "other"}), ({"max_retries": 1}, {"retries": 2})):
            with pytest.raises(ValidationError, match="are the same") as caught:
                adapter(engine="server", engine_options=option, **setting)
            assert KEY not in str(caught.value)

    def test_none_is_not_a_setting(self, adapter: Any) -> None:
        assert adapter(engine="scripted", api_key=None, max_retries=None).max_retries is None

    def test_a_negative_number_of_retries_is_refused(self, adapter: Any) -> None:
        with pytest.raises(ValidationError, match="max_retries"):
            adapter(engine="server", max_retries=-1)

    @pytest.mark.parametrize(
        "settings",
        [{"top_logprobs": 1}, {"temprature": 1}, {"api_key": [KEY]}, {"engine_options": [KEY]}],
        ids=lambda settings: next(iter(settings)),
    )
    def test_errors_about_other_settings_do_not_show_the_key(self, adapter: Any, settings: dict[str, Any]) -> None:
        with pytest.raises(ValidationError) as caught:
            adapter(engine="server", **{"api_key": KEY, **settings})
        assert KEY not in str(caught.value)

    def test_nothing_that_describes_the_object_shows_the_key(self, adapter: Any) -> None:
        llm = adapter(engine="server", api_key=KEY)
        shown = [repr(llm), str(llm), str(llm.model_dump()), llm.model_dump_json()]
        if isinstance(llm, ChatGLM4V):
            shown += [llm._get_llm_string(), str(llm._get_ls_params())]
        else:
            shown += [str(llm.to_dict()), str(llm.to_payload())]
        assert not any(KEY in text for text in shown)
