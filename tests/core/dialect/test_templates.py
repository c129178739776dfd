"""Templates render as they do in transformers, and mistakes in them raise our errors."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from glm4v_core.dialect.conversation import Conversation
from glm4v_core.dialect.families import GLM41V, GLM45V, GLM46V, Dialect
from glm4v_core.dialect.template import ChatTemplate
from glm4v_core.errors import MessageError, MissingDependencyError, UnsupportedError
from glm4v_core.types import Message, Request, Text, Thinking
from tests.support.prompts import BLUE, RED, WEATHER, call, render, result, template


@pytest.mark.parametrize("source", [None, ""])
def test_a_base_model_cannot_chat(source: str | None) -> None:
    with pytest.raises(UnsupportedError, match="no chat template") as caught:
        ChatTemplate(source, GLM41V)
    assert "Thinking" in caught.value.hint


def test_a_template_that_is_not_jinja_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="not valid"):
        ChatTemplate("{% if %}", GLM46V)


def test_a_template_that_loses_images_is_refused() -> None:
    with pytest.raises(MessageError, match="0 of 1 images"):
        ChatTemplate("text only", GLM46V).render(Request((Message.user(RED),)))


def test_a_template_may_refuse_messages() -> None:
    with pytest.raises(MessageError, match="no system please"):
        ChatTemplate("{{ raise_exception('no system please') }}", GLM46V).render(Request((Message.user("Q"),)))


def test_a_template_may_use_the_date_and_end_inside_the_reasoning() -> None:
    template_ = ChatTemplate("{{ strftime_now('%Y') }}<|assistant|>\n<think>", GLM46V)
    prompt = template_.render(Request((Message.user("Q"),)))
    assert prompt.text[:4].isdigit()
    assert prompt.phase == "thinking"


@pytest.mark.parametrize(
    "mistake", ["{{ 1 + 'a' }}", "{{ none.x.y }}", "{{ [].append(1) }}", "{{ messages | unknown }}"]
)
def test_a_mistake_in_a_template_raises_one_of_our_errors(mistake: str) -> None:
    with pytest.raises((MessageError, UnsupportedError), match="chat template") as caught:
        ChatTemplate(mistake, GLM46V).render(Request((Message.user("Q"),)))
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("missing", ["jinja2", "transformers.utils.chat_template_utils"])
def test_without_the_libraries_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError, match="transformers and jinja2") as caught:
        ChatTemplate("never seen before", GLM46V)
    assert "glm4v[hf]" in caught.value.hint


def tokenizer(source: str) -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    made = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    made.chat_template = source
    return made


def test_whatever_transformers_offers_to_templates_works() -> None:
    source = """{{ bos_token }}{{ strftime_now('%Y') }}{% for message in messages %}
{% if message.role == 'system' %}{% continue %}{% endif %}
{% generation %}{{ message | tojson(ensure_ascii=True) }}
{{ message | tojson(ensure_ascii=False, indent=1) }}{% endgeneration %}
{% if loop.index > 2 %}{% break %}{% endif %}
{% endfor %}{% if not messages %}{{ raise_exception('empty') }}{% endif %}{{ eos_token }}"""
    messages = (Message.system("S"), *(Message.user(f"<é> & {number}") for number in range(4)))
    conversation = Conversation(messages, (), GLM46V)
    made = tokenizer(source)
    theirs = made.apply_chat_template(conversation.messages, tokenize=False, add_generation_prompt=True)
    ours = ChatTemplate(source, GLM46V, made.special_tokens_map).render(Request(messages))
    assert ours.text == theirs
    assert theirs.startswith("<s>")
    assert theirs.endswith("</s>")
    assert ("\\u00e9> & 1" in theirs, "é> & 1" in theirs, "& 2" in theirs) == (True, True, False)


def test_white_space_loops_and_json_are_as_in_transformers() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    source = """{% for message in messages %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
  {{ message | tojson }} {{ tools | tojson(indent=2) }}
    {% if loop.index > 1 %}
        {% break %}
    {% endif %}
{% endfor %}
"""
    messages = (Message.system("S"), Message.user("<é> & 'x'"), Message.user("Q"))
    conversation = Conversation(messages, (WEATHER,), GLM46V)
    (theirs,), _ = render_jinja_template([conversation.messages], tools=conversation.tools, chat_template=source)
    assert ChatTemplate(source, GLM46V).render(Request(messages, tools=(WEATHER,))).text == theirs
    assert "<é> & 'x'" in theirs


@pytest.mark.parametrize("dialect", [GLM41V, GLM45V, GLM46V], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("thinking", [True, False])
def test_transformers_renders_the_same_text(dialect: Dialect, thinking: bool) -> None:
    source = template(dialect).source
    assert source is not None
    made = tokenizer(source)
    messages = (
        Message.system("SYS <b> & 'é'"),
        Message.user("Q1", RED),
        Message.assistant(Thinking("old"), "A1"),
        Message.user("Q2"),
        Message.assistant(Thinking("why"), "I look.", call("1"), call("2")),
        result(Text("sun"), BLUE, id_="1"),
        result(Text("rain"), id_="2"),
    )
    conversation = Conversation(messages, (WEATHER,), dialect)
    theirs = made.apply_chat_template(
        conversation.messages,
        tools=conversation.tools or None,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    ours = render(dialect, *messages, tools=(WEATHER,), thinking=thinking)
    prefill = "<think></think><answer>" if dialect is GLM41V and not thinking else ""
    assert ours.text == theirs + prefill
    assert ours.images == (RED, BLUE)
