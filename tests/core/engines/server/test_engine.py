"""The server engine gives the same answers as the other engines, from a served model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glm4v_core.dialect.tool_calls import write_call
from glm4v_core.errors import ContextOverflowError, ServerError, UnsupportedError
from glm4v_core.types import Completion, FinishReason, Message, Request, Sampling, Tool
from tests.support.fake_server import HOLD, Connect, Failure, FakeServer, chunk, says, usage

pytestmark = pytest.mark.loopback

WEATHER = Tool(
    "weather",
    "Tell the weather.",
    {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
)
ARRIVING = (("", "weather"), ('{"city": "12", ', None), ('"days": 3}', None))


def ask(text: str = "Hello", **settings: Any) -> Request:
    return Request((Message.user(text),), **settings)


def call_part(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    return chunk(tool_calls=[{"index": index, "function": {"name": name, "arguments": arguments}}])


def calls_of(answer: Completion) -> list[tuple[str, Any]]:
    return [(call.name, call.arguments) for call in answer.tool_calls]


class TestThoughts:
    @pytest.mark.parametrize(
        "chunks",
        [
            [chunk(reasoning="Let me "), chunk(reasoning="see."), chunk(content="\nYes.")],
            [chunk(reasoning_content="Let me see."), chunk(content="Yes.")],
            [chunk(content="<think>Let me"), chunk(content=" see.</thi"), chunk(content="nk>\nYes.")],
            [chunk(content="Let me see.</think>Yes.")],
        ],
        ids=["reasoning", "reasoning_content", "raw", "raw, opened in the prompt"],
    )
    def test_come_out_alike_whether_server_or_client_parses_them(
        self, server: FakeServer, connect: Connect, chunks: list[Any]
    ) -> None:
        server.will([chunk(role="assistant", content=""), *chunks, chunk("stop"), usage(5, 6)])
        answer = connect().generate(ask())
        assert (answer.thinking, answer.text, answer.finish) == ("Let me see.", "Yes.", "stop")

    def test_cut_off_are_distinguished_from_answers_cut_off(self, server: FakeServer, connect: Connect) -> None:
        server.will([chunk(reasoning="Let me"), chunk("length")], [chunk(content="Ye"), chunk("length")])
        model = connect()
        assert [model.generate(ask()).finish for _ in range(2)] == ["length_in_thinking", "length"]

    def test_of_a_model_that_never_thinks_are_part_of_its_answer(self, server: FakeServer, connect: Connect) -> None:
        server.will([chunk(reasoning="Invoice"), chunk(reasoning=" 7"), chunk("stop")])
        answer = connect(family="GLM-OCR").generate(ask())
        assert (answer.text, answer.thinking) == ("Invoice 7", "")


class TestCalls:
    @pytest.mark.parametrize(
        "chunks",
        [
            [*(call_part(0, part, name) for part, name in ARRIVING), chunk("tool_calls")],
            says(write_call("weather", {"city": "12", "days": 3})),
        ],
        ids=["parsed", "raw"],
    )
    def test_come_out_alike_whether_server_or_client_parses_them(
        self, server: FakeServer, connect: Connect, chunks: list[Any]
    ) -> None:
        server.will([chunk(reasoning="Look."), *chunks, usage(5, 6)])
        answer = connect().generate(ask(tools=(WEATHER,)))
        assert calls_of(answer) == [("weather", {"city": "12", "days": 3})]
        assert (answer.finish, answer.thinking, answer.text) == ("tool_calls", "Look.", "")

    @pytest.mark.parametrize("value", ["12", "true", "", "Zürich\n2", 3, 1.5, None, [1, "2"], {"a": "1"}])
    def test_keep_their_values_without_a_schema(self, server: FakeServer, connect: Connect, value: Any) -> None:
        server.will([call_part(0, json.dumps({"any": value}), "free"), chunk("tool_calls")])
        answer = connect().generate(ask(tools=(Tool("free"),)))
        assert calls_of(answer) == [("free", {"any": value})]

    def test_keep_their_order(self, server: FakeServer, connect: Connect) -> None:
        parts = [call_part(0, "{", "a"), call_part(1, '{"city": "B"}', "weather"), call_part(0, "}")]
        server.will([chunk(content="Both."), *parts, chunk("tool_calls")])
        answer = connect().generate(ask(tools=(WEATHER, Tool("a"))))
        assert calls_of(answer) == [("a", {}), ("weather", {"city": "B"})]
        assert answer.text == "Both."

    @pytest.mark.parametrize(
        ("arguments", "finish"), [("not JSON", "stop"), ("[1]", "stop"), ('{"city": "B', "length"), ("{}", "length")]
    )
    def test_that_are_broken_say_why(self, server: FakeServer, connect: Connect, arguments: str, finish: str) -> None:
        server.will([call_part(0, arguments, "weather"), chunk(finish)])
        answer = connect().generate(ask(tools=(WEATHER,)))
        (call,) = answer.tool_calls
        assert (call.name, call.arguments) == ("weather", None)
        assert call.error

    @pytest.mark.parametrize(
        ("choice", "sent"),
        [
            ("auto", "auto"),
            ("required", "required"),
            ("weather", {"type": "function", "function": {"name": "weather"}}),
        ],
    )
    def test_are_asked_for_by_tool_choice(self, server: FakeServer, connect: Connect, choice: str, sent: Any) -> None:
        server.will([call_part(0, '{"city": "B"}', "weather"), chunk("stop")])
        connect().generate(ask(tools=(WEATHER,), tool_choice=choice, parallel_tool_calls=False))
        (body,) = server.asked
        assert (body["tool_choice"], body["parallel_tool_calls"]) == (sent, False)
        assert body["tools"][0]["function"]["parameters"] == WEATHER.parameters

    def test_are_not_offered_when_tool_choice_is_none(self, server: FakeServer, connect: Connect) -> None:
        server.will(says("No."))
        connect().generate(ask(tools=(WEATHER,), tool_choice="none"))
        assert not server.asked[0].keys() & {"tools", "tool_choice", "parallel_tool_calls"}


class TestServersWithoutAToolParser:
    REFUSAL = Failure(400, {"error": {"message": '"auto" tool choice requires --tool-call-parser to be set'}})

    def test_get_the_tools_in_a_message(self, server: FakeServer, connect: Connect) -> None:
        raw = write_call("weather", {"city": "B"})
        server.will(self.REFUSAL, says(raw), says(raw))
        model = connect()
        for _ in range(2):
            assert calls_of(model.generate(ask(tools=(WEATHER,)))) == [("weather", {"city": "B"})]
        _, second, third = server.asked  # it is asked only once whether it takes tools
        assert second["messages"] == third["messages"]
        assert second["messages"][0]["role"] == "system"
        assert '"name": "weather"' in second["messages"][0]["content"]
        assert "tools" not in second

    def test_cannot_be_held_to_calls(self, server: FakeServer, connect: Connect) -> None:
        server.will(self.REFUSAL)
        with pytest.raises(UnsupportedError, match="grammars=True"):
            connect().generate(ask(tools=(WEATHER,), tool_choice="required"))

    def test_can_be_held_to_calls_by_grammars(self, server: FakeServer, connect: Connect) -> None:
        server.will(says(write_call("weather", {"city": "B"})))
        answer = connect(grammars=True).generate(ask(tools=(WEATHER,), tool_choice="required"))
        assert calls_of(answer) == [("weather", {"city": "B"})]
        (body,) = server.asked
        assert "%llguidance" in body["structured_outputs"]["grammar"]
        assert "tools" not in body


class TestEnds:
    @pytest.mark.parametrize(
        ("said", "finish"),
        [("stop", "stop"), ("length", "length"), ("repetition", "repetition"), ("abort", "cancelled")],
    )
    def test_are_translated(self, server: FakeServer, connect: Connect, said: str, finish: FinishReason) -> None:
        server.will(says("Yes", said))
        assert connect().generate(ask()).finish == finish

    def test_that_are_unknown_are_named(self, server: FakeServer, connect: Connect) -> None:
        server.will(says("Yes", "bored"))
        with pytest.raises(ServerError, match="'bored'"):
            connect().generate(ask())


class TestNumbers:
    def test_usage_is_the_servers(self, server: FakeServer, connect: Connect) -> None:
        details = {"cached_tokens": 64, "multimodal_tokens": {"image": 48}}
        server.will([chunk(content="Yes"), chunk("stop"), usage(90, 4, prompt_tokens_details=details)])
        found = connect().generate(ask()).usage
        assert (found.prompt, found.completion, found.cached, found.image) == (90, 4, 64, 48)

    def test_reasoning_is_counted_from_the_usage_in_each_chunk(self, server: FakeServer, connect: Connect) -> None:
        running = [{"prompt_tokens": 9, "completion_tokens": done, "total_tokens": 9} for done in (0, 5, 7)]
        begun, thought, answered = (chunk(usage=said) for said in running)
        thought["choices"][0]["delta"], answered["choices"][0]["delta"] = {"reasoning": "a b"}, {"content": "c"}
        told = usage(9, 7, completion_tokens_details={"reasoning_tokens": 6})
        server.will([begun, thought, answered, chunk("stop"), usage(9, 7)], [chunk(reasoning="a"), chunk("stop"), told])
        model = connect()
        first, second = (model.generate(ask()).usage for _ in range(2))
        assert (first.thinking, first.completion, second.thinking) == (5, 7, 6)

    def test_an_answer_without_usage_is_counted_by_its_chunks(self, server: FakeServer, connect: Connect) -> None:
        server.will([chunk(content="a"), chunk(content="b"), chunk("stop")])
        assert connect().generate(ask()).usage.completion == 2

    def test_logprobs(self, server: FakeServer, connect: Connect) -> None:
        top = [{"token": "Yes", "logprob": -0.5, "bytes": None}, {"token": "No", "logprob": -1.5, "bytes": None}]
        tokens = {"content": [{"token": "Yes", "logprob": -0.5, "bytes": None, "top_logprobs": top}]}
        server.will([chunk(content="Yes", logprobs=tokens), chunk("stop")])
        (logprob,) = connect().generate(ask(sampling=Sampling(logprobs=2))).logprobs
        assert (logprob.token, logprob.logprob, logprob.top) == ("Yes", -0.5, (("Yes", -0.5), ("No", -1.5)))
        assert (server.asked[0]["logprobs"], server.asked[0]["top_logprobs"]) == (True, 2)

    def test_a_context_overflow_is_detected_in_the_first_chunk(self, server: FakeServer, connect: Connect) -> None:
        full = {"prompt_tokens": 4000, "completion_tokens": 0, "total_tokens": 4000}
        server.will([chunk(content="", usage=full), HOLD])
        with pytest.raises(ContextOverflowError, match="4000 of 4096"):
            connect().generate(ask(sampling=Sampling(max_tokens=97)))
        assert server.left.wait(10)


class TestCounting:
    def test_is_the_servers_own_and_exact(self, server: FakeServer, connect: Connect) -> None:
        strings = ["<|user|>", "<|image|>", "<|image|>", "Hello"]
        server.count = {"count": 4, "max_model_len": 4096, "tokens": [1, 2, 2, 3], "token_strs": strings}
        count = connect().count_tokens(ask(tools=(WEATHER,), thinking=False))
        assert (count.prompt, count.image) == (4, 2)
        (body,) = server.counted
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
        assert body["tools"][0]["function"]["name"] == "weather"
        assert "max_tokens" not in body

    def test_is_refused_where_the_server_cannot(self, server: FakeServer, connect: Connect) -> None:
        for options in ({}, {"api": "openai"}):
            with pytest.raises(UnsupportedError, match="cannot count"):
                connect(**options).count_tokens(ask())
        assert len(server.counted) == 1

    def test_of_an_unknown_kind_is_an_error(self, server: FakeServer, connect: Connect) -> None:
        server.count = {"tokens": "four"}
        with pytest.raises(ServerError, match="cannot be read"):
            connect().count_tokens(ask())


class TestStreams:
    def test_arrive_as_they_are_generated_and_can_be_aborted(self, server: FakeServer, connect: Connect) -> None:
        server.will([chunk(content="One"), chunk(content=" two"), HOLD])
        stream = connect().stream(ask())
        assert [next(stream).text, next(stream).text] == ["One", " two"]
        stream.close()
        assert server.left.wait(10)

    async def test_run_many_at_once(self, server: FakeServer, connect: Connect) -> None:
        server.will(*(says(str(number)) for number in range(64)))
        answers = await connect().agenerate_many([ask(str(number)) for number in range(64)])
        assert sorted(int(answer.text) for answer in answers) == list(range(64))
        assert all(answer.usage.completion == len(answer.text) for answer in answers)

    def test_have_timings(self, server: FakeServer, connect: Connect) -> None:
        server.will(says("Yes"))
        timings = connect().generate(ask()).timings
        assert 0 < timings.first_token <= timings.total


def test_a_model_is_known_by_what_serves_it(server: FakeServer, connect: Connect) -> None:
    info = connect().info
    assert (info.engine, info.model, info.family.name, info.context) == ("server", "glm", "GLM-4.6V-Flash", 4096)
    assert info.versions["vllm"] == "0.32.0"


def test_equal_settings_share_one_engine(server: FakeServer, connect: Connect) -> None:
    first, second = connect(), connect(api_key=None)
    first.close()
    server.will(says("Yes"))
    assert second.generate(ask()).text == "Yes"
    assert len(server.headers) == 2  # one list of models, one answer
