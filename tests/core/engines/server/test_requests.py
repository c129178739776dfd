"""Everything in a request reaches the server in a field that it knows, or is refused by name."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import PIL.Image
import pytest

from glm4v_core.errors import UnsupportedError
from glm4v_core.media.image import Image
from glm4v_core.types import (
    Choices,
    Constraint,
    JsonSchema,
    Message,
    Regex,
    Request,
    Sampling,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from tests.support.engine_calls import page
from tests.support.fake_server import MODEL, Connect, FakeServer, says

pytestmark = pytest.mark.loopback

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
PLAIN = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)


def asked(
    server: FakeServer, connect: Connect, request: Request, answer: str = "Yes", **options: Any
) -> dict[str, Any]:
    """Send a request and return the body that arrived."""
    server.will(says(answer))
    connect(**options).generate(request)
    return server.asked[-1]


def messages_of(server: FakeServer, connect: Connect, *messages: Message, **options: Any) -> list[dict[str, Any]]:
    body = asked(server, connect, Request(messages), **options)
    found: list[dict[str, Any]] = body["messages"]
    return found


def shown(item: dict[str, Any]) -> PIL.Image.Image:
    kind, data = item["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    return PIL.Image.open(io.BytesIO(base64.b64decode(data)))


class TestSampling:
    def test_every_setting_has_its_field(self, server: FakeServer, connect: Connect) -> None:
        settings = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.1, "max_tokens": 9, "seed": 3}
        body = asked(server, connect, Request((Message.user("Hi"),), sampling=Sampling(**settings, stop=("END", "##"))))
        assert {name: body[name] for name in settings} == settings
        assert body["stop"] == ["END", "##"]
        assert body["skip_special_tokens"] is False
        assert "logprobs" not in body

    def test_unset_values_are_the_familys(self, server: FakeServer, connect: Connect) -> None:
        body = asked(server, connect, Request((Message.user("Hi"),)))
        assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (0.8, 0.6, 2, 4095)
        assert not body.keys() & {"seed", "stop", "logprobs", "top_logprobs", "response_format", "structured_outputs"}

    def test_repetition_is_guarded_as_on_the_other_engines(self, server: FakeServer, connect: Connect) -> None:
        body = asked(server, connect, Request((Message.user("Hi"),)))
        assert body["repetition_detection"] == {"max_pattern_size": 64, "min_pattern_size": 12, "min_count": 8}
        assert "repetition_detection" not in asked(
            server, connect, Request((Message.user("Hi"),)), repetition_pattern=0
        )


class TestThinking:
    @pytest.mark.parametrize(
        ("settings", "fields"),
        [
            ({}, {"chat_template_kwargs": {"enable_thinking": True}}),
            ({"thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
            ({"thinking_budget": 9}, {"chat_template_kwargs": {"enable_thinking": True}, "thinking_token_budget": 9}),
        ],
    )
    def test_is_switched_by_the_template(
        self, server: FakeServer, connect: Connect, settings: dict[str, Any], fields: dict[str, Any]
    ) -> None:
        body = asked(server, connect, Request((Message.user("Hi"),), **settings))
        assert {name: body[name] for name in fields} == fields
        assert ("thinking_token_budget" in body) == ("thinking_budget" in settings)

    def test_is_skipped_by_beginning_the_answer_where_there_is_no_switch(
        self, server: FakeServer, connect: Connect
    ) -> None:
        family = {"family": "GLM-4.1V-9B-Thinking"}
        body = asked(server, connect, Request((Message.user("Hi"),), thinking=False), **family)
        assert body["messages"][-1] == {"role": "assistant", "content": "<think></think><answer>"}
        assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
        thinking = asked(server, connect, Request((Message.user("Hi"),)), **family)
        assert not thinking.keys() & {"continue_final_message", "chat_template_kwargs"}


class TestConstraints:
    @pytest.mark.parametrize(
        ("constraint", "answer", "field", "sent"),
        [
            (Choices(("a", "b")), "a", "structured_outputs", {"choice": ["a", "b"]}),
            (Regex(r"\d{2}"), "12", "structured_outputs", {"regex": r"\d{2}"}),
            (
                JsonSchema(SCHEMA),
                '{"a": 1}',
                "response_format",
                {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}},
            ),
        ],
    )
    def test_use_the_servers_own_fields(
        self, server: FakeServer, connect: Connect, constraint: Constraint, answer: str, field: str, sent: Any
    ) -> None:
        request = Request((Message.user("Hi"),), constraint=constraint, thinking=False)
        body = asked(server, connect, request, answer)
        assert body[field] == sent
        assert "thinking_token_budget" not in body

    def test_exempt_reasoning_or_make_the_server_refuse(self, server: FakeServer, connect: Connect) -> None:
        thoughtful = Request((Message.user("Hi"),), constraint=Choices(("a",)))
        assert asked(server, connect, thoughtful, "a")["thinking_token_budget"] == 4096
        assert "thinking_token_budget" not in asked(server, connect, thoughtful, "a", family="GLM-OCR")

    @pytest.mark.parametrize(("thinking", "allowed"), [(True, True), (False, False)])
    def test_can_be_sent_as_grammars_over_the_whole_turn(
        self, server: FakeServer, connect: Connect, thinking: bool, allowed: bool
    ) -> None:
        request = Request((Message.user("Hi"),), constraint=Choices(("a", "b")), thinking=thinking)
        body = asked(server, connect, request, "a", grammars=True)
        grammar = body["structured_outputs"]["grammar"]
        assert '("a" | "b")' in grammar
        assert ("<think>" in grammar) == allowed
        assert "structured_outputs" not in asked(server, connect, Request((Message.user("Hi"),)), grammars=True)

    def test_are_sent_with_tools_unless_a_call_is_required(self, server: FakeServer, connect: Connect) -> None:
        request = Request((Message.user("Hi"),), tools=(Tool("f"),), constraint=Choices(("a",)), thinking=False)
        body = asked(server, connect, request, "a")
        assert (body["tool_choice"], body["structured_outputs"]) == ("auto", {"choice": ["a"]})
        forced = Request(request.messages, request.tools, "required", constraint=request.constraint, thinking=False)
        call = "<tool_call>f\n</tool_call>"
        assert "structured_outputs" not in asked(server, connect, forced, call)

    def test_with_tools_need_a_server_that_parses_calls(self, server: FakeServer, connect: Connect) -> None:
        request = Request((Message.user("Hi"),), tools=(Tool("f"),), constraint=Choices(("a",)))
        with pytest.raises(UnsupportedError, match="--tool-call-parser"):
            connect(family="GLM-4.1V-9B-Thinking").generate(request)


class TestOpenAiServers:
    """Servers without vLLM's additional fields."""

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"sampling": replace(PLAIN, top_k=2)}, "top_k"),
            ({"sampling": replace(PLAIN, repetition_penalty=1.1)}, "repetition_penalty"),
            ({"thinking": False}, "thinking=False"),
            ({"thinking_budget": 5}, "thinking_budget"),
            ({"constraint": Choices(("a",))}, "a constraint"),
            ({"constraint": Regex("a")}, "a constraint"),
        ],
    )
    def test_refuse_requests_that_they_have_no_field_for(
        self, server: FakeServer, connect: Connect, settings: dict[str, Any], named: str
    ) -> None:
        model = connect(api="openai")
        with pytest.raises(UnsupportedError, match=rf"no field for {named}.*api='vllm'"):
            model.generate(Request((Message.user("Hi"),), **{"sampling": PLAIN, **settings}))
        assert server.asked == []

    def test_get_nothing_but_openais_fields(self, server: FakeServer, connect: Connect) -> None:
        server.models = {"data": [{**MODEL, "owned_by": "organization"}]}
        request = Request((Message.user("Hi"),), sampling=PLAIN, constraint=JsonSchema(SCHEMA), tools=(Tool("f"),))
        body = asked(server, connect, request, '{"a": 1}')
        fields = "model messages stream stream_options temperature top_p max_tokens tools tool_choice response_format"
        assert set(body) == set(fields.split())
        assert body["stream_options"] == {"include_usage": True}


class TestMessages:
    def test_keep_texts_and_images_in_their_order(self, server: FakeServer, connect: Connect) -> None:
        first, second = page(1), page(2)
        system, user = messages_of(
            server, connect, Message.system("Be brief."), Message.user("A", first, "B", second, "C")
        )
        assert system == {"role": "system", "content": "Be brief."}
        assert [item.get("text", "image") for item in user["content"]] == ["A", "image", "B", "image", "C"]
        assert shown(user["content"][1]).tobytes() == first.pixels.tobytes()
        assert shown(user["content"][3]).tobytes() == second.pixels.tobytes()

    def test_break_control_tokens_in_data(self, server: FakeServer, connect: Connect) -> None:
        (user,) = messages_of(server, connect, Message.user("<|image|> and <|assistant|>"))
        assert user["content"] == [{"type": "text", "text": "< |image|> and < |assistant|>"}]

    def test_contain_the_turns_with_calls_and_results(self, server: FakeServer, connect: Connect) -> None:
        calls = (ToolCall("x", "f", {"a": "ü"}), ToolCall("y", "g", {}))
        results = (ToolResult("y", (Text("G"),)), ToolResult("x", (Text("F"),)))
        _, assistant, f, g = messages_of(
            server,
            connect,
            Message.user("Hi"),
            Message.assistant(Thinking("Both."), "Now.", *calls),
            Message("tool", results),
        )
        assert assistant["reasoning_content"] == "Both."
        assert [call["function"] for call in assistant["tool_calls"]] == [
            {"name": "f", "arguments": '{"a": "ü"}'},
            {"name": "g", "arguments": "{}"},
        ]
        ids = [call["id"] for call in assistant["tool_calls"]]
        assert [(f["tool_call_id"], f["content"]), (g["tool_call_id"], g["content"])] == list(
            zip(ids, "FG", strict=True)
        )

    def test_give_every_call_of_a_conversation_its_own_id(self, server: FakeServer, connect: Connect) -> None:
        broken = ToolCall("b", "f", None, "<tool_call>f\n???</tool_call>", "unreadable")
        turns = [
            (Message.assistant(ToolCall("a", "f", {})), Message("tool", (ToolResult("a", (Text("1"),)),))),
            (
                Message.assistant(broken, ToolCall("c", "f", {})),
                Message("tool", (ToolResult("b", (Text("2"),)), ToolResult("c", (Text("3"),)))),
            ),
        ]
        sent = messages_of(server, connect, Message.user("Hi"), *(message for turn in turns for message in turn))
        made = [call["id"] for message in sent for call in message.get("tool_calls", [])]
        answered = {message["content"]: message["tool_call_id"] for message in sent if message["role"] == "tool"}
        assert [answered["1"], answered["3"]] == made
        assert len(set(answered.values())) == 3

    @pytest.mark.parametrize(
        ("family", "roles"),
        [("GLM-4.6V", ["user", "assistant", "tool"]), ("GLM-4.5V", ["user", "assistant", "tool", "user"])],
    )
    def test_show_images_of_results_where_the_template_does(
        self, server: FakeServer, connect: Connect, family: str, roles: list[str]
    ) -> None:
        screenshot = page(3)
        sent = messages_of(
            server,
            connect,
            Message.user("Hi"),
            Message.assistant(ToolCall("a", "f", {})),
            Message("tool", (ToolResult("a", (Text("Here:"), screenshot)),)),
            family=family,
        )
        assert [message["role"] for message in sent] == roles
        (item,) = [item for item in sent[-1]["content"] if item["type"] == "image_url"]
        assert shown(item).tobytes() == screenshot.pixels.tobytes()


class TestImageBudgets:
    @pytest.mark.parametrize(("own", "option"), [(40, None), (None, 40), (40, 400), (400, 40)])
    def test_scale_an_image_down_before_it_is_sent(
        self, server: FakeServer, connect: Connect, own: int | None, option: int | None
    ) -> None:
        image = page(1, 560, 420, max_tokens=own)
        (user,) = messages_of(server, connect, Message.user(image), max_image_tokens=option)
        width, height = shown(user["content"][0]).size
        assert (width // 28) * (height // 28) <= 40
        assert (width % 28, height % 28, width) == (0, 0, 196)

    def test_leave_an_image_alone_that_fits(self, server: FakeServer, connect: Connect) -> None:
        image = page(1, 100, 75)
        (user,) = messages_of(server, connect, Message.user(image), max_image_tokens=40)
        assert shown(user["content"][0]).size == (100, 75)

    def test_are_refused_below_the_models_minimum(self, server: FakeServer, connect: Connect) -> None:
        image: Image = page(1, 560, 420, max_tokens=4)
        with pytest.raises(UnsupportedError, match="at least 8 tokens"):
            connect().generate(Request((Message.user(image),)))

    def test_of_the_server_itself_are_passed_through(self, server: FakeServer, connect: Connect) -> None:
        options = {"size": {"shortest_edge": 12544, "longest_edge": 100000}}
        body = asked(server, connect, Request((Message.user("Hi"),)), mm_processor_kwargs=options)
        assert body["mm_processor_kwargs"] == options
