"""The server engine's settings: read from arguments and environment, validated, and never shown if secret."""

from __future__ import annotations

import importlib.util
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from glm4v_core.dialect.families import FAMILIES, published_as
from glm4v_core.engines.loading import plan_engine
from glm4v_core.engines.server.options import ServerOptions
from glm4v_core.errors import ConfigError, MissingDependencyError, UnknownOptionError
from glm4v_core.hosts.settings import ModelSettings
from tests.support.fake_server import MODEL, FakeServer

URL = "http://127.0.0.1:8000/v1"


def options(**settings: Any) -> ServerOptions:
    return ServerOptions(**{"base_url": URL, **settings})


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLM4V_BASE_URL", "GLM4V_API_KEY", "GLM4V_MODEL", "GLM4V_ENGINE"):
        monkeypatch.delenv(name, raising=False)


class TestAddresses:
    @pytest.mark.parametrize(
        ("given", "used"),
        [
            (URL, URL),
            ("http://127.0.0.1:8000", URL),
            ("http://127.0.0.1:8000/", URL),
            ("https://example.org/glm/v1/", "https://example.org/glm/v1"),
            ("https://example.org/openai", "https://example.org/openai"),
        ],
    )
    def test_are_completed(self, given: str, used: str) -> None:
        assert options(base_url=given).base_url == used

    @pytest.mark.parametrize(
        "given", ["localhost:8000", "ftp://example.org/v1", "https://", "https://a:b@example.org", f"{URL}?key=x", ""]
    )
    def test_that_cannot_be_used_are_refused(self, given: str) -> None:
        with pytest.raises(ConfigError, match="base_url"):
            options(base_url=given)

    @pytest.mark.parametrize("given", ["https://a:b1c2@[example.org", "https://a:b1c2@\u2100.org", [("b1c2",)]])
    def test_that_cannot_be_parsed_are_not_shown(self, given: Any) -> None:
        with pytest.raises(ConfigError, match="base_url is not an http") as caught:
            options(base_url=given)
        assert "b1c2" not in "".join(traceback.format_exception(caught.value))

    def test_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigError, match="GLM4V_BASE_URL"):
            ServerOptions()
        monkeypatch.setenv("GLM4V_BASE_URL", "https://example.org/v1")
        assert ServerOptions().base_url == "https://example.org/v1"
        assert options().base_url == URL


@pytest.mark.loopback
class TestModels:
    def test_without_a_name_the_only_one_is_taken(self, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = ModelSettings(engine="server", engine_options={"base_url": server.url})
        assert settings.model == ""
        assert settings.load().info.model == MODEL["id"]
        settings.close()
        monkeypatch.setenv("GLM4V_MODEL", "from-environment")
        assert ModelSettings(engine="server").model == "from-environment"
        monkeypatch.delenv("GLM4V_MODEL")
        assert (ModelSettings().model, ModelSettings(engine="server", model="named").model) == ("tiny", "named")


class TestSecrets:
    def test_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert options().api_key is None
        monkeypatch.setenv("GLM4V_API_KEY", "from-environment")
        assert options().secrets == ("from-environment",)
        assert options(api_key="given").secrets == ("given",)

    def test_are_not_shown(self) -> None:
        given = options(api_key="given", headers={"X-Key": "header"})
        assert given.secrets == ("given", "header")
        plan = plan_engine(None, "server", {"base_url": URL, "api_key": "given", "headers": {"X-Key": "header"}})
        for text in (repr(given), str(given), repr(plan)):
            assert "given" not in text
            assert "header'" not in text

    @pytest.mark.parametrize(
        "wrong", [{"api_key": ["given"]}, {"headers": "given"}, {"api_key": "given", "retries": -1}]
    )
    def test_are_in_no_error(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError) as caught:
            options(**wrong)
        assert "given" not in "".join(traceback.format_exception(caught.value))

    def test_are_hidden_in_an_adapters_settings(self) -> None:
        settings = ModelSettings(engine="server", engine_options={"api_key": "given", "headers": {"X-Key": "header"}})
        shown = repr(settings) + str(settings.model_dump()) + settings.model_dump_json()
        assert "given" not in shown
        assert "'header'" not in shown
        assert ServerOptions(base_url=URL, **settings.engine_options).secrets == ("given", "header")

    def test_are_compared(self) -> None:
        assert options(api_key="a") == options(api_key=SecretStr("a"))
        keys = {plan_engine("m", "server", {"base_url": URL, "api_key": key}).key for key in ("a", "a", "b")}
        assert len(keys) == 2
        loaded = {options(headers={"X-Key": value}) for value in ("a", "a", "b")}
        assert len(loaded) == 2

    @pytest.mark.parametrize(
        ("settings", "warned"),
        [
            ({"base_url": "http://example.org", "api_key": "given"}, "unencrypted"),
            ({"base_url": "https://example.org", "api_key": "given"}, None),
            ({"base_url": URL, "api_key": "given"}, None),
            ({"base_url": "https://example.org", "verify": False}, "not checked"),
        ],
    )
    def test_sent_without_tls_cause_a_warning(
        self, settings: dict[str, Any], warned: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        options(**settings)
        assert (warned in caplog.text) if warned else not caplog.text
        assert "given" not in caplog.text


class TestValues:
    @pytest.mark.parametrize(
        "settings",
        [
            {"retries": -1},
            {"deadline": -1},
            {"context": 0},
            {"max_image_tokens": 0},
            {"api": "anthropic"},
            {"repetition_repeats": 1},
        ],
    )
    def test_out_of_range_are_refused(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(settings))):
            options(**settings)

    def test_unknown_ones_are_refused(self) -> None:
        with pytest.raises(UnknownOptionError, match=r"no option slots.*base_url"):
            options(slots=4)

    def test_certificates_are_checked_by_default(self) -> None:
        assert options().verify is True

    def test_a_bundle_of_certificate_authorities_may_be_a_path(self, tmp_path: Path) -> None:
        assert options(verify=tmp_path / "ca.pem").verify == str(tmp_path / "ca.pem")

    def test_none_is_a_value(self) -> None:
        assert (options().deadline, options(deadline=None).deadline) == (600.0, None)


class TestPlans:
    def test_leave_the_choice_of_the_only_model_to_the_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given = {"base_url": URL}
        anonymous = plan_engine(None, "server", given)
        monkeypatch.setenv("GLM4V_MODEL", "glm")
        assert plan_engine(None, "server", given).key == plan_engine("glm", "server", given).key != anonymous.key

    def test_name_a_missing_library_with_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openai" else find(name))
        with pytest.raises(MissingDependencyError, match=r"needs openai.*glm4v\[server\]"):
            plan_engine(None, "server", {"base_url": URL})


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *((hub_id, family.name) for family in FAMILIES for hub_id in family.hub_ids),
        ("/models/glm-4.6v-flash-awq-4bit", "GLM-4.6V-Flash"),
        ("/cache/models--zai-org--GLM-4.5V/snapshots/abc", "GLM-4.5V"),
        ("someone/GLM-4.6V-NVFP4", "GLM-4.6V"),
        ("glm", None),
        ("GLM-4.6Vision", None),
        ("/models/tiny", None),
    ],
)
def test_published_names_tell_their_family(name: str, family: str | None) -> None:
    found = published_as(name)
    assert (found and found.name) == family
