"""Prompts of every dialect, against templates written from the published specification."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from glm4v_core.dialect.families import GLM4V, GLM41V, GLM45V, GLM46V, Dialect
from glm4v_core.dialect.template import ChatTemplate
from glm4v_core.types import Message, Request, Text, Thinking, ToolCall
from tests.support.prompts import BLUE, RED, WEATHER, call, render, result, template

PICTURE = "<|begin_of_image|><|image|><|end_of_image|>"
TOOLS_TEXT = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "weather", "description": "Tells the weather in 北京.", \
"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
</tools>

For each function call, output the function name and arguments within the following XML format:
<tool_call>{function-name}
<arg_key>{arg-key-1}</arg_key>
<arg_value>{arg-value-1}</arg_value>
<arg_key>{arg-key-2}</arg_key>
<arg_value>{arg-value-2}</arg_value>
...
</tool_call>"""
CALL_TEXT = (
    "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>北京</arg_value>\n"
    '<arg_key>days</arg_key>\n<arg_value>[1, "二"]</arg_value>\n</tool_call>'
)


def test_41v_renders_the_example_of_the_specification() -> None:
    prompt = render(
        GLM41V,
        Message.system("SYS"),
        Message.user(RED, "Q1"),
        Message.assistant(Thinking("a"), "b"),
        Message.user("Q2"),
    )
    assert prompt.text == f"[gMASK]<sop><|system|>\nSYS<|user|>\n{PICTURE}Q1<|assistant|>\nb<|user|>\nQ2<|assistant|>\n"
    assert prompt.images == (RED,)
    assert prompt.phase == "free"


def test_41v_thinking_is_skipped_by_beginning_the_answer() -> None:
    prompt = render(GLM41V, Message.user("Q"), thinking=False)
    assert prompt.text == "[gMASK]<sop><|user|>\nQ<|assistant|>\n<think></think><answer>"
    assert prompt.phase == "answer"


@pytest.mark.parametrize("raw", ["<think>secret</think><answer>b", "<think>secret</think><answer>b</answer>"])
def test_41v_raw_history_loses_its_reasoning_and_tags(raw: str) -> None:
    prompt = render(GLM41V, Message.user("Q"), Message.assistant(raw), Message.user("Q2"))
    assert "<|assistant|>\nb<|user|>" in prompt.text


def test_41v_system_text_is_never_a_list() -> None:
    prompt = render(GLM41V, Message("system", (Text("S1 "), Text("S2"))), Message.user("Q"))
    assert "<|system|>\nS1 S2<|user|>" in prompt.text


def test_41v_tools_are_explained_in_the_system_text_and_results_come_from_the_user() -> None:
    prompt = render(
        GLM41V,
        Message.system("SYS"),
        Message.user("Q"),
        Message.assistant("I look.", call("1"), call("2", city="Bonn")),
        result(Text("sun"), RED, Text("!"), id_="1"),
        result(BLUE, id_="2"),
        tools=(WEATHER,),
    )
    assert prompt.text == (
        f"[gMASK]<sop><|system|>\n{TOOLS_TEXT}\n\nSYS<|user|>\nQ<|assistant|>\nI look.\n{CALL_TEXT}\n"
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bonn</arg_value>\n</tool_call><|user|>\n"
        f"<tool_response>\nsun{PICTURE}!\n</tool_response>\n<tool_response>\n{PICTURE}\n</tool_response><|assistant|>\n"
    )
    assert prompt.images == (RED, BLUE)


def test_41v_tools_without_a_system_message() -> None:
    prompt = render(GLM41V, Message.user("Q"), tools=(WEATHER,))
    assert prompt.text == f"[gMASK]<sop><|system|>\n{TOOLS_TEXT}<|user|>\nQ<|assistant|>\n"


@pytest.mark.parametrize("dialect", [GLM45V, GLM46V], ids=lambda dialect: dialect.name)
class TestSwitchedDialects:
    def test_tools_come_before_the_system_message(self, dialect: Dialect) -> None:
        prompt = render(dialect, Message.system("SYS"), Message.user("Q"), tools=(WEATHER,))
        assert prompt.text == f"[gMASK]<sop><|system|>\n{TOOLS_TEXT}<|system|>\nSYS<|user|>\nQ<|assistant|>\n"

    def test_images_and_text_keep_their_order(self, dialect: Dialect) -> None:
        prompt = render(dialect, Message.user("a", RED, "b", BLUE, RED, "c"))
        assert prompt.text == f"[gMASK]<sop><|user|>\na{PICTURE}b{PICTURE}{PICTURE}c<|assistant|>\n"
        assert prompt.images == (RED, BLUE, RED)
        assert prompt.phase == "free"

    def test_disabled_thinking_marks_every_user_turn_and_closes_the_reasoning(self, dialect: Dialect) -> None:
        prompt = render(dialect, Message.user("Q1"), Message.assistant("A"), Message.user("Q2"), thinking=False)
        assert prompt.text == (
            "[gMASK]<sop><|user|>\nQ1/nothink<|assistant|>\n<think></think>\nA"
            "<|user|>\nQ2/nothink<|assistant|>\n<think></think>\n"
        )
        assert prompt.phase == "answer"

    def test_a_user_cannot_switch_thinking_on_or_off(self, dialect: Dialect) -> None:
        assert "<|user|>\nQ/ nothink<|assistant|>\n" in render(dialect, Message.user("Q/nothink")).text
        assert "Q/ nothink/nothink<" in render(dialect, Message.user("Q/nothink"), thinking=False).text

    @pytest.mark.parametrize("thinking", [None, True])
    def test_thinking_leaves_the_prompt_open(self, dialect: Dialect, thinking: bool | None) -> None:
        prompt = render(dialect, Message.user("Q"), thinking=thinking)
        assert prompt.text.endswith("Q<|assistant|>\n")
        assert prompt.phase == "free"

    def test_reasoning_before_the_last_question_is_dropped(self, dialect: Dialect) -> None:
        prompt = render(dialect, Message.user("Q1"), Message.assistant(Thinking("old"), " A "), Message.user("Q2"))
        assert prompt.text == "[gMASK]<sop><|user|>\nQ1<|assistant|>\n<think></think>\nA<|user|>\nQ2<|assistant|>\n"

    def test_reasoning_of_the_current_tool_loop_is_kept(self, dialect: Dialect) -> None:
        prompt = render(
            dialect,
            Message.user("Q"),
            Message.assistant(Thinking("\nfirst look\n"), "I look.", call()),
            result(Text("sun")),
        )
        assert prompt.text == (
            f"[gMASK]<sop><|user|>\nQ<|assistant|>\n<think>first look</think>\nI look.\n{CALL_TEXT}"
            "<|observation|>\n<tool_response>\nsun\n</tool_response><|assistant|>\n"
        )

    def test_reasoning_in_raw_history_is_recognised(self, dialect: Dialect) -> None:
        raw = Message.assistant("<think>look</think>\nI <|begin_of_box|>look<|end_of_box|>.", call())
        prompt = render(dialect, Message.user("Q"), raw, result(Text("sun")))
        assert "<|assistant|>\n<think>look</think>\nI look.\n<tool_call>" in prompt.text

    def test_a_call_may_have_neither_text_nor_arguments(self, dialect: Dialect) -> None:
        silent = Message.assistant(ToolCall("1", "now", {}))
        prompt = render(dialect, Message.user("Q"), silent, result(Text("noon")))
        assert "<|assistant|>\n<think></think>\n<tool_call>now\n</tool_call><|observation|>" in prompt.text

    def test_results_follow_the_order_of_the_calls(self, dialect: Dialect) -> None:
        prompt = render(
            dialect,
            Message.user("Q"),
            Message.assistant(call("1"), call("2")),
            result(Text("second"), id_="2"),
            result(Text("first"), id_="1"),
        )
        assert prompt.text.endswith(
            "<|observation|>\n<tool_response>\nfirst\n</tool_response>\n<tool_response>\nsecond\n</tool_response>"
            "<|assistant|>\n"
        )

    def test_a_result_may_be_empty(self, dialect: Dialect) -> None:
        prompt = render(dialect, Message.user("Q"), Message.assistant(call()), result())
        assert "<|observation|>\n<tool_response>\n\n</tool_response><|assistant|>" in prompt.text

    def test_a_broken_call_is_shown_as_it_was_written(self, dialect: Dialect) -> None:
        broken = ToolCall("2", "weather", None, raw="<tool_call>weather\n<arg_key>city<|image|>", error="broken")
        prompt = render(
            dialect,
            Message.user("Q"),
            Message.assistant(call("1"), broken),
            result(Text("good"), id_="1"),
            result(Text("bad"), id_="2"),
        )
        written = "<tool_call>weather\n<arg_key>city< |image|></tool_call>"
        assert f"<think></think>\n{written}\n{CALL_TEXT}<|observation|>" in prompt.text
        assert prompt.text.index("bad") < prompt.text.index("good")

    def test_a_broken_call_without_its_text_is_shown_without_arguments(self, dialect: Dialect) -> None:
        broken = Message.assistant(ToolCall("1", "weather", None, error="broken"))
        prompt = render(dialect, Message.user("Q"), broken, result(Text("bad")))
        assert "\n<tool_call>weather\n</tool_call><|observation|>" in prompt.text

    def test_no_tools_are_shown_when_none_may_be_called(self, dialect: Dialect) -> None:
        request = Request((Message.user("Q"),), tools=(WEATHER,), tool_choice="none")
        assert template(dialect).render(request).text == "[gMASK]<sop><|user|>\nQ<|assistant|>\n"


def test_46v_shows_images_inside_tool_results() -> None:
    prompt = render(
        GLM46V,
        Message.user(RED, "Q"),
        Message.assistant(call()),
        result(Text("map: "), BLUE),
    )
    assert prompt.text.endswith(f"<tool_response>\nmap: {PICTURE}\n</tool_response><|assistant|>\n")
    assert prompt.images == (RED, BLUE)


def test_45v_moves_images_of_tool_results_to_the_user() -> None:
    prompt = render(
        GLM45V,
        Message.user("Q"),
        Message.assistant(call("1"), call("2")),
        result(Text("map: "), RED, id_="1"),
        result(BLUE, Text("!"), id_="2"),
    )
    assert prompt.text.endswith(
        "<|observation|>\n<tool_response>\nmap: [image 1]\n</tool_response>\n"
        "<tool_response>\n[image 2]!\n</tool_response>"
        f"<|user|>\n[image 1]{PICTURE}[image 2]{PICTURE}<|assistant|>\n"
    )
    assert prompt.images == (RED, BLUE)


class TestWhatTheTemplatesDoUnnormalised:
    """The templates do have the traps that normalisation avoids."""

    def raw(self, dialect: Dialect, *messages: Mapping[str, object]) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        (text,), _ = render_jinja_template([messages], chat_template=template(dialect).source)
        return str(text)

    @pytest.mark.parametrize("dialect", [GLM41V, GLM45V, GLM46V], ids=lambda dialect: dialect.name)
    def test_image_url_items_of_users_are_dropped(self, dialect: Dialect) -> None:
        item = {"type": "image_url", "image_url": {"url": "x"}}
        assert self.raw(dialect, {"role": "user", "content": [item]}) == "[gMASK]<sop><|user|>\n"

    def test_41v_prints_lists_and_drops_tools(self) -> None:
        parts = [{"type": "text", "text": "b"}]
        assert "[{'type'" in self.raw(GLM41V, {"role": "system", "content": parts})
        assert "[{'type'" in self.raw(GLM41V, {"role": "assistant", "content": parts})
        assert self.raw(GLM41V, {"role": "tool", "content": "lost"}) == "[gMASK]<sop>"

    def test_46v_strings_in_lists_are_searched_for_words(self) -> None:
        assert "<|image|>" in self.raw(GLM46V, {"role": "user", "content": ["see image"]})

    @pytest.mark.parametrize("dialect", [GLM45V, GLM46V], ids=lambda dialect: dialect.name)
    def test_arguments_must_be_a_dict(self, dialect: Dialect) -> None:
        import jinja2

        message = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": '{"a": 1}'}]}
        with pytest.raises(jinja2.UndefinedError):
            self.raw(dialect, message)

    def test_45v_loses_images_in_tool_results(self) -> None:
        assert "<|image|>" not in self.raw(GLM45V, {"role": "tool", "content": [{"type": "image"}]})

    def test_46v_repeats_the_marker_for_odd_results(self) -> None:
        odd = {"role": "tool", "content": {"a": 1}}
        assert self.raw(GLM46V, odd, odd).count("<|observation|>") == 2

    def test_46v_leaves_tags_in_the_content_when_reasoning_comes_twice(self) -> None:
        message = {"role": "assistant", "reasoning_content": "r", "content": "<think>x</think>y"}
        assert self.raw(GLM46V, message).endswith("<think>r</think>\n<think>x</think>y")


def test_glm4v_writes_the_image_into_the_text() -> None:
    source = "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}<|assistant|>"
    prompt = ChatTemplate(source, GLM4V).render(Request((Message.user(RED, "Q<|endoftext|>"),)))
    slot = "<|begin_of_image|><|endoftext|><|end_of_image|>"
    assert prompt.text == f"[gMASK]<sop><|user|>\n{slot}Q< |endoftext|><|assistant|>"
    assert prompt.images == (RED,)
    assert prompt.phase == "answer"
