"""Which conversations are refused, and that data in a conversation cannot become control tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm4v_core.dialect.control_text import neutralise
from glm4v_core.dialect.families import GLM41V, GLM45V, GLM46V, Dialect
from glm4v_core.dialect.template import ChatTemplate
from glm4v_core.errors import MessageError, UnsupportedError
from glm4v_core.media.image import Image
from glm4v_core.types import Message, Part, Request, Text, Thinking, Tool, ToolCall, ToolResult, Video

TEMPLATES = Path(__file__).parents[2] / "templates"
DIALECTS = (GLM41V, GLM45V, GLM46V)
PICTURES = tuple(Image.load(PIL.Image.new("RGB", (28, 28), color=(shade, 0, 0))) for shade in range(12))
PICTURE = PICTURES[0]
PLACEHOLDER = "<|begin_of_image|><|image|><|end_of_image|>"
every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def template(dialect: Dialect) -> ChatTemplate:
    return ChatTemplate((TEMPLATES / f"{dialect.name.removeprefix('glm')}.jinja").read_text(), dialect)


def calls(*ids: str) -> Message:
    return Message("assistant", tuple(ToolCall(id_, "f", {}) for id_ in ids))


def results(*ids: str) -> Message:
    return Message("tool", tuple(ToolResult(id_, (Text("ok"),)) for id_ in ids))


USER = Message.user("Q")
BAD_ROLE: Any = Message("observer", (Text("x"),))  # type: ignore[arg-type]


@every_dialect
@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        pytest.param((BAD_ROLE, USER), "unknown role 'observer'", id="role"),
        pytest.param((Message.user(),), "is empty", id="empty user"),
        pytest.param((Message("tool", ()), USER), "is empty", id="empty tool"),
        pytest.param((USER, Message.assistant("A")), "nothing to answer", id="assistant last"),
        pytest.param((Message("system", (PICTURE,)), USER), "system message cannot contain Image", id="system image"),
        pytest.param((Message.user(Thinking("t")),), "user message cannot contain Thinking", id="user thinking"),
        pytest.param((Message.user(ToolResult("1", ())),), "cannot contain ToolResult", id="user result"),
        pytest.param((USER, Message.assistant(PICTURE), USER), "cannot contain Image", id="assistant image"),
        pytest.param((USER, calls("1"), Message("tool", (Text("x"),))), "cannot contain Text", id="tool text"),
        pytest.param(
            (USER, calls("1"), Message("tool", (ToolResult("1", (Thinking("t"),)),))),  # type: ignore[arg-type]
            "only text and images",
            id="thinking in result",
        ),
        pytest.param((USER, results("1")), "'1' does not answer a call", id="result without call"),
        pytest.param((USER, calls("1"), results("1", "2")), "'2' does not answer a call", id="result too many"),
        pytest.param((USER, calls("1", "2"), results("1")), "'2' has no result", id="result missing"),
        pytest.param((USER, calls("1"), USER), "'1' has no result", id="call ignored"),
        pytest.param((USER, calls("1", "1"), results("1")), "same id", id="equal calls"),
        pytest.param((USER, calls("1"), results("1", "1")), "same id", id="equal results"),
        pytest.param((USER, calls("1"), results("1"), results("1")), "same id", id="equal results in two messages"),
    ],
)
def test_messages_that_make_no_sense_are_refused(
    dialect: Dialect, messages: tuple[Message, ...], complaint: str
) -> None:
    with pytest.raises(MessageError, match=complaint):
        template(dialect).render(Request(messages))


@every_dialect
@pytest.mark.parametrize("inside_result", [False, True])
def test_videos_are_refused_by_name(dialect: Dialect, inside_result: bool) -> None:
    video = Video((PICTURE,), (0.0,))
    result: Any = ToolResult("1", (video,))  # type: ignore[arg-type]
    messages = (USER, calls("1"), Message("tool", (result,))) if inside_result else (Message.user(video),)
    with pytest.raises(UnsupportedError, match="video") as caught:
        template(dialect).render(Request(messages))
    assert "frames as images" in caught.value.hint


@every_dialect
def test_odd_but_sensible_conversations_are_rendered(dialect: Dialect) -> None:
    messages = (
        *(Message.system("S1"), Message.system("S2"), Message.user(""), USER),
        *(Message.assistant(), Message.assistant("A"), calls("1"), results("1"), Message.assistant("B"), USER),
    )
    text = template(dialect).render(Request(messages)).text
    assert text.count("<|system|>") == 2
    assert text.endswith("<|user|>\nQ<|assistant|>\n")


@every_dialect
def test_no_control_token_gets_through_anywhere(dialect: Dialect) -> None:
    for token in dialect.control_tokens:
        if token in ("<think>", "</think>", *(dialect.answer or ())):
            continue  # in the assistant's own text these mark the reasoning, which another test covers
        hidden = {"v": [{token: token}]}
        dirty = Request(
            (
                Message.system(token),
                Message.user(token[:3], token[3:]),
                Message.assistant(Thinking(token), token, ToolCall("1", token, {token: token, **hidden})),
                Message("tool", (ToolResult("1", (Text(token[:3]), Text(token[3:]))),)),
            ),
            tools=(Tool(token, token, {"type": "object", "properties": {token: {"enum": [token, 1, None]}}}),),
        )
        clean = Request(
            (
                Message.system("x"),
                Message.user("x"),
                Message.assistant(Thinking("x"), "x", ToolCall("1", "x", {"x": "x", "v": [{"x": "x"}]})),
                Message("tool", (ToolResult("1", (Text("x"),)),)),
            ),
            tools=(Tool("x", "x", {"type": "object", "properties": {"x": {"enum": ["x", 1, None]}}}),),
        )
        render = template(dialect).render
        assert render(dirty).text.count(token) == render(clean).text.count(token), token


@every_dialect
def test_neutral_text_stays_neutral_and_readable(dialect: Dialect) -> None:
    for token in dialect.control_tokens:
        text = neutralise(f"a{token}{token}b", dialect)
        assert token not in text
        assert neutralise(text, dialect) == text
        assert text.replace(" ", "") == f"a{token}{token}b"


def test_neutral_text_survives_tokenisation() -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in GLM46V.control_tokens])
    everything = "".join(GLM46V.control_tokens)
    prompt = template(GLM46V).render(Request((Message.user(everything, PICTURE, everything),), thinking=False))
    found = [token for token in tokenizer.encode(prompt.text).tokens if token in GLM46V.control_tokens]
    picture = ["<|begin_of_image|>", "<|image|>", "<|end_of_image|>"]
    expected = ["[gMASK]", "<sop>", "<|user|>", *picture, "/nothink", "<|assistant|>", "<think>", "</think>"]
    assert found == expected


FRAGMENTS = ("<|ima", "ge|>", "<|image|>", PLACEHOLDER, "/noth", "ink", "<|user|>", "</think>", "image", "视频", " ")
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=4).map("".join)
showable = st.lists(texts.map(Text) | st.sampled_from(PICTURES), min_size=1, max_size=5).map(tuple)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Draw questions, each perhaps followed by a round of tool calls with results in any order."""
    messages: list[Message] = []
    for turn in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(showable)))
        ids = [f"{turn}-{number}" for number in range(draw(st.integers(0, 3)))]
        if ids:
            arguments = st.dictionaries(texts, texts, max_size=2) | st.none()
            made = tuple(ToolCall(id_, "f", draw(arguments)) for id_ in ids)
            messages.append(Message("assistant", (Text(draw(texts)), *made)))
            order = draw(st.permutations(ids))
            messages += [Message("tool", (ToolResult(id_, draw(showable)),)) for id_ in order]
    return tuple(messages)


def marked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put its number before each image, so that the prompt's text identifies it."""

    def mark(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        out: list[Part] = []
        for part in parts:
            if isinstance(part, ToolResult):
                out.append(ToolResult(part.call_id, mark(part.parts)))  # type: ignore[arg-type]
            elif isinstance(part, Image):
                out += [Text(f"#{PICTURES.index(part)}#"), part]
            else:
                out.append(part)
        return tuple(out)

    return tuple(Message(message.role, mark(message.parts)) for message in messages)


@pytest.mark.parametrize("dialect", [GLM41V, GLM46V], ids=lambda dialect: dialect.name)
@settings(max_examples=150, deadline=None)
@given(messages=conversations())
def test_images_are_in_the_order_of_their_placeholders(dialect: Dialect, messages: tuple[Message, ...]) -> None:
    prompt = template(dialect).render(Request(marked(messages)))
    numbers = re.findall(rf"#(\d+)#{re.escape(PLACEHOLDER)}", prompt.text)
    assert [PICTURES.index(image) for image in prompt.images] == [int(number) for number in numbers]
    assert prompt.text.count("<|image|>") == len(prompt.images)


@settings(max_examples=150, deadline=None)
@given(messages=conversations())
def test_images_that_are_moved_keep_their_order(messages: tuple[Message, ...]) -> None:
    prompt = template(GLM45V).render(Request(marked(messages)))
    shown = re.findall(rf"(?:#(\d+)#|\[image \d+\]){re.escape(PLACEHOLDER)}", prompt.text)
    moved = iter(re.findall(r"#(\d+)#\[image \d+\]", prompt.text))
    assert len(shown) == len(prompt.images) == prompt.text.count("<|image|>")
    assert [PICTURES.index(image) for image in prompt.images] == [int(number or next(moved)) for number in shown]
