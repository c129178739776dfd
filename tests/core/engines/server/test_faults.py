"""Faults between client and server raise our errors, which contain no secret."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

import pytest

from glm4v_core import Glm4v
from glm4v_core.errors import (
    ContextOverflowError,
    EngineClosedError,
    EngineTimeoutError,
    Glm4vError,
    ModelNotFoundError,
    RequestRefusedError,
    ServerAccessError,
    ServerBusyError,
    ServerError,
    ServerUnreachableError,
    UnsupportedError,
    is_transient,
)
from glm4v_core.types import Message, Request
from tests.support.fake_server import DROP, HOLD, MODEL, Connect, Failure, FakeServer, chunk, says

pytestmark = pytest.mark.loopback

HELLO = Request((Message.user("Hello"),))
SOON = {"Retry-After-Ms": "1"}
KEY = "sk-very-secret"


def failure(status: int, message: str = "Because.", **error: Any) -> Failure:
    return Failure(status, {"error": {"message": message, **error}}, SOON)


class TestAttempts:
    @pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
    def test_are_repeated_until_an_answer_begins(self, server: FakeServer, connect: Connect, status: int) -> None:
        server.will(failure(status), failure(status), says("Yes"))
        assert connect().generate(HELLO).text == "Yes"
        assert [body == server.asked[0] for body in server.asked] == [True] * 3

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(429, ServerBusyError), (503, ServerBusyError), (500, ServerError), (504, EngineTimeoutError)],
    )
    def test_end_with_the_servers_last_error(
        self, server: FakeServer, connect: Connect, status: int, kind: type[Glm4vError]
    ) -> None:
        server.will(failure(status), failure(status, "Enough."))
        with pytest.raises(kind, match=rf"{status}.*Enough\.") as caught:
            connect(retries=1).generate(HELLO)
        assert is_transient(caught.value)
        assert caught.value.__cause__ is not None

    @pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
    def test_are_not_repeated_for_permanent_errors(self, server: FakeServer, connect: Connect, status: int) -> None:
        server.will(failure(status))
        with pytest.raises(Glm4vError):
            connect().generate(HELLO)
        assert len(server.asked) == 1

    def test_are_not_repeated_once_an_answer_has_begun(self, server: FakeServer, connect: Connect) -> None:
        server.will([chunk(content="Y"), DROP], says("Yes"))
        stream = connect().stream(HELLO)
        assert next(stream).text == "Y"
        with pytest.raises(ServerUnreachableError, match="connection"):
            list(stream)
        assert len(server.asked) == 1

    def test_share_one_deadline(self, server: FakeServer, connect: Connect) -> None:
        server.will(Failure(429, "", {"Retry-After": "60"}))
        with pytest.raises(EngineTimeoutError, match="deadline"):
            connect(deadline=0.3).generate(HELLO)

    def test_share_the_deadline_with_their_answer(self, server: FakeServer, connect: Connect) -> None:
        server.will([chunk(content="Y"), HOLD])
        with pytest.raises(EngineTimeoutError, match="deadline"):
            connect(deadline=0.3).generate(HELLO)
        assert server.left.wait(10)


class TestAnswers:
    @pytest.mark.parametrize(
        ("script", "kind", "said"),
        [
            (["{broken"], ServerError, "not JSON"),
            ([{"id": "x"}, 5, {"choices": [{}]}], ServerUnreachableError, "without a finish reason"),
            ([], ServerUnreachableError, "without a finish reason"),
            ([{"error": {"message": "Out of luck", "code": 500}}], ServerError, "500.*Out of luck"),
            ([{"error": {"message": "Out of luck"}}], ServerError, "Out of luck"),
            (Failure(200, "<html>Welcome</html>"), ServerUnreachableError, "without a finish reason"),
        ],
    )
    def test_that_are_not_valid_are_errors(
        self, server: FakeServer, connect: Connect, script: Any, kind: type[Glm4vError], said: str
    ) -> None:
        server.will(script)
        with pytest.raises(kind, match=said):
            connect().generate(HELLO)

    @pytest.mark.parametrize(
        ("refusal", "kind"),
        [
            (failure(400, "This model's maximum context length is 4096 tokens."), ContextOverflowError),
            (failure(400, "Too long.", code="context_length_exceeded"), ContextOverflowError),
            (failure(400, "top_p must be in (0, 1]"), RequestRefusedError),
            (Failure(413, "<html>Too large</html>"), RequestRefusedError),
            (Failure(422, {"detail": "No such field"}), RequestRefusedError),
            (failure(403, "Not you."), ServerAccessError),
            (failure(404, "The model does not exist."), ModelNotFoundError),
        ],
    )
    def test_that_are_refusals_are_distinguished_by_reason(
        self, server: FakeServer, connect: Connect, refusal: Failure, kind: type[Glm4vError]
    ) -> None:
        server.will(refusal)
        said = refusal.body if isinstance(refusal.body, str) else next(iter(refusal.body.values()))
        with pytest.raises(kind) as caught:
            connect().generate(HELLO)
        assert (said["message"] if isinstance(said, dict) else said) in caught.value.message


class TestFindingTheModel:
    @pytest.mark.parametrize(
        ("models", "name", "kind", "said"),
        [
            ({"data": [MODEL]}, "other", ModelNotFoundError, "serves: glm"),
            ({"data": []}, None, ModelNotFoundError, "serves 0 models"),
            ({"data": [MODEL, {**MODEL, "id": "b", "root": "b"}]}, None, ModelNotFoundError, "glm, b"),
            ({"data": [{"id": "mine", "root": "/models/mine"}]}, None, UnsupportedError, "option family"),
            ({"data": "none"}, None, ServerError, "cannot be read"),
            ("models", None, ServerError, "cannot be read"),
            (Failure(200, "<html>"), None, ServerError, "cannot be read"),
            (Failure(200, "{", {"Content-Type": "application/json"}), None, ServerError, "not JSON"),
            (failure(500), None, ServerError, "500"),
        ],
    )
    def test_reports_why_it_failed(
        self, server: FakeServer, connect: Connect, models: Any, name: str | None, kind: type[Glm4vError], said: str
    ) -> None:
        server.models = models
        with pytest.raises(kind, match=said):
            connect(model=name, retries=0)

    def test_picks_the_base_model_among_aliases_and_adapters(self, server: FakeServer, connect: Connect) -> None:
        adapter = {**MODEL, "id": "invoices", "root": "/adapters/invoices", "parent": "glm"}
        server.models = {"data": [adapter, MODEL, {**MODEL, "id": "alias"}]}
        assert connect().info.model == "glm"
        assert connect(model="invoices", family="GLM-4.6V").info.model == "invoices"

    @pytest.mark.parametrize(("option", "context"), [(None, 4096), (1000, 1000), (4097, None)])
    def test_uses_the_servers_context_length(
        self, server: FakeServer, connect: Connect, option: int | None, context: int | None
    ) -> None:
        if context is None:
            with pytest.raises(ValueError, match="more than the 4096"):
                connect(context=option)
        else:
            assert connect(context=option).info.context == context

    @pytest.mark.parametrize(
        ("version", "warned"), [("0.32.1", False), ("0.31.0", True), ("1.0", False), (None, False)]
    )
    def test_warns_of_an_older_vllm(
        self,
        server: FakeServer,
        connect: Connect,
        caplog: pytest.LogCaptureFixture,
        version: str | None,
        warned: bool,
    ) -> None:
        server.version = version
        assert connect().info.versions.get("vllm") == version
        assert ("tested with 0.32" in caplog.text) == warned

    @pytest.mark.parametrize(
        ("shown", "garbled"), [("[{'type':Ġ'text',Ġ'text':Ġ'x'}]", True), ("x", False), (None, False)]
    )
    def test_refuses_a_server_that_garbles_prompts(
        self, server: FakeServer, connect: Connect, shown: str | None, garbled: bool
    ) -> None:
        server.count = shown and {"count": 2, "token_strs": ["<|system|>", *shown]}
        if garbled:
            with pytest.raises(UnsupportedError, match="content-format string"):
                connect(family="GLM-4.1V-9B-Thinking")
        else:
            assert connect(family="GLM-4.1V-9B-Thinking").info.family.name == "GLM-4.1V-9B-Thinking"

    def test_gives_up_on_a_silent_server(self, server: FakeServer, connect: Connect) -> None:
        server.models = HOLD
        with pytest.raises(EngineTimeoutError, match="deadline"):
            connect(deadline=0.3, retries=0)

    def test_fails_where_no_server_is_listening(self, server: FakeServer) -> None:
        with pytest.raises(ServerUnreachableError, match="connection"):
            Glm4v.load(engine="server", base_url="http://127.0.0.1:9/v1", retries=0)


class TestKeys:
    def test_are_sent_and_never_shown(
        self, server: FakeServer, connect: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server.key = KEY
        server.will(says("Yes"), says("Yes"))
        model = connect(api_key=KEY, headers={"X-Tenant": "tenant-secret"})
        assert model.generate(HELLO).text == "Yes"
        assert {headers["x-tenant"] for headers in server.headers} == {"tenant-secret"}
        shown = repr((model, model.info, vars(model))) + caplog.text
        assert KEY not in shown
        assert "tenant-secret" not in shown

    def test_that_are_wrong_do_not_appear_in_the_error(
        self, server: FakeServer, connect: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server.key = "another"
        with pytest.raises(ServerAccessError, match=r"401.*Incorrect API key: \*\*\*") as caught:
            connect(api_key=KEY)
        trace = "".join(traceback.format_exception(caught.value))
        assert "Incorrect API key" in trace
        assert KEY not in trace + caplog.text + json.dumps(caught.value.__cause__.body)  # type: ignore[union-attr]
        assert not is_transient(caught.value)

    def test_for_openais_own_service_are_sent_nowhere_else(
        self, server: FakeServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_ORG_ID", KEY)
        monkeypatch.setenv("OPENAI_PROJECT_ID", KEY)
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Mine: {KEY}")
        server.will(says("Yes"))
        connect().generate(HELLO)
        assert KEY not in json.dumps(server.headers)


async def test_closing_an_engine_ends_its_streams(server: FakeServer, connect: Connect) -> None:
    server.will([chunk(content="Y"), HOLD])
    model = connect()
    stream = model.astream(HELLO)
    assert (await anext(stream)).text == "Y"
    await model.aclose()
    with pytest.raises(EngineClosedError, match="before the answer was complete"):
        await anext(stream)


async def test_a_closed_engine_says_so(server: FakeServer, connect: Connect) -> None:
    model = connect()
    await model.aclose()
    with pytest.raises(EngineClosedError):
        await model.agenerate(HELLO)
    with pytest.raises(EngineClosedError):
        await model.acount_tokens(HELLO)
