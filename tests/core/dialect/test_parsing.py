"""Well-formed and malformed answers of every dialect, whole and one character at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm4v_core.dialect.families import GLM4V, GLM41V, GLM45V, GLM46V, Dialect
from glm4v_core.dialect.parsing import AnswerText, Phase, Retraction, Split, Splitter, ThinkingText, fold
from glm4v_core.types import Tool

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (GLM4V, GLM41V, GLM45V, GLM46V)}
PHASES: tuple[Phase, ...] = ("free", "thinking", "answer")
CALL = "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"
TOOLS = (Tool("f", "", {"type": "object", "properties": {"a": {"type": "integer"}}}),)


def split(dialect: Dialect, phase: Phase, chunks: list[str]) -> tuple[Split, str]:
    """Split chunks and drop the random call ids."""
    splitter = Splitter(dialect, phase, TOOLS)
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    whole = fold([*events, *splitter.finish()])
    calls = tuple(replace(call, id="") for call in whole.tool_calls)
    return replace(whole, tool_calls=calls), splitter.boxed


@pytest.mark.parametrize(
    ("dialect", "phase", "raw", "thinking", "text"),
    [
        # reasoning
        (GLM46V, "free", "<think>R</think>\nA", "R", "A"),
        (GLM46V, "free", "\n<think>\n R\n\n</think>\n\n  A\n", "R", "  A"),
        (GLM46V, "free", "<think></think>\nA", "", "A"),
        (GLM46V, "free", "A", "", "A"),
        (GLM46V, "free", "\nA b\nc ", "", "A b\nc"),
        (GLM46V, "free", "", "", ""),
        (GLM46V, "free", " \n", "", ""),
        (GLM46V, "free", "<think>R is long", "R is long", ""),
        (GLM46V, "free", "R</think>A", "R", "A"),
        (GLM46V, "free", "</think>A", "", "A"),
        (GLM46V, "free", "<think>R</think>A</think>B", "R", "AB"),
        (GLM46V, "free", "<think>R <think>S</think>A", "R S", "A"),
        (GLM46V, "free", "<think>R</think>A\n<think>S</think>B", "R\nS", "A\nB"),
        (GLM46V, "free", "<think>R</think>A<think>S</think>B", "R\nS", "A\nB"),
        (GLM46V, "thinking", "R</think>A", "R", "A"),
        (GLM46V, "thinking", "<think>R</think>A", "R", "A"),
        (GLM46V, "thinking", "R", "R", ""),
        (GLM46V, "answer", "A", "", "A"),
        (GLM46V, "answer", "\n<think></think>\nA", "", "A"),
        (GLM46V, "answer", "A</think>B", "", "AB"),
        (GLM46V, "answer", "a < b <thin> </thin", "", "a < b <thin> </thin"),
        # answer tags
        (GLM41V, "free", "<think>R</think><answer>A", "R", "A"),
        (GLM41V, "free", "<think>R</think><answer>\nA\n</answer>", "R", "A"),
        (GLM41V, "free", "<think>R<answer>A</answer>", "R", "A"),
        (GLM41V, "free", "R</think><answer>A", "R", "A"),
        (GLM41V, "free", "<answer>A</answer>", "", "A"),
        (GLM41V, "answer", "A</answer>", "", "A"),
        (GLM46V, "free", "<answer>A</answer>", "", "<answer>A</answer>"),
        (GLM4V, "answer", "<think>A</think><tool_call>", "", "<think>A</think><tool_call>"),
        # box, role and end tokens
        (GLM45V, "free", "<think>R</think>\nIt is <|begin_of_box|>42<|end_of_box|>.<|user|>", "R", "It is 42."),
        (GLM45V, "free", "<think>is it <|begin_of_box|>4<|end_of_box|>?</think>A", "is it 4?", "A"),
        (GLM46V, "answer", "A<|endoftext|>", "", "A"),
        (GLM46V, "answer", "<|assistant|>\nA<|observation|>", "", "A"),
        (GLM4V, "answer", "A<|user|>", "", "A"),
        # tool calls beside text
        (GLM46V, "free", f"<think>R</think>\nI look.\n{CALL}\n<|observation|>", "R", "I look."),
        (GLM46V, "free", f"<think>R{CALL}", "R", ""),
        (GLM46V, "free", f"I look.\n{CALL}\nDone.", "", "I look.\n\nDone."),
        (GLM46V, "free", f"I look.{CALL}A</think>B", "", "I look.AB"),
        (GLM46V, "free", "A</tool_call>B", "", "AB"),
    ],
)
def test_an_answer_is_split(dialect: Dialect, phase: Phase, raw: str, thinking: str, text: str) -> None:
    whole, _ = split(dialect, phase, [raw])
    assert (whole.thinking, whole.text) == (thinking, text)
    assert len(whole.tool_calls) == raw.count(CALL)
    assert split(dialect, phase, list(raw)) == split(dialect, phase, [raw])


def test_text_is_emitted_as_soon_as_it_is_unambiguous() -> None:
    splitter = Splitter(GLM46V, "free")
    assert splitter.feed("<thi") == []
    assert splitter.feed("nk>I see") == [ThinkingText("I see")]
    assert splitter.feed(" a cat </thi") == [ThinkingText(" a cat")]
    assert splitter.feed("s> no</think>\n") == [ThinkingText(" </this> no")]
    assert splitter.feed("A <") == [AnswerText("A")]
    assert splitter.feed(" B") == [AnswerText(" < B")]
    assert splitter.feed("<|us") == []
    assert splitter.finish() == [AnswerText("<|us")]
    assert splitter.finish() == []


def test_text_is_reclassified_as_reasoning_when_only_its_closing_tag_appears() -> None:
    splitter = Splitter(GLM46V, "free")
    assert splitter.feed("I think ") == [AnswerText("I think")]
    assert splitter.feed("</think>A") == [Retraction(), AnswerText("A")]
    assert splitter.finish() == []
    assert splitter.boxed == "A"


def test_boxes_are_kept_beside_the_clean_text() -> None:
    raw = "<think><|begin_of_box|>[[0,0,1,1]]<|end_of_box|></think>\nA <|begin_of_box|>[[1,2,3,4]]<|end_of_box|>."
    whole, boxed = split(GLM46V, "free", [raw])
    assert whole.text == "A [[1,2,3,4]]."
    assert boxed == "\nA <|begin_of_box|>[[1,2,3,4]]<|end_of_box|>."


TAGS = (
    *("<think>", "</think>", "<answer>", "</answer>", "<|begin_of_box|>", "<|end_of_box|>", "<|user|>"),
    *("<|observation|>", "<|endoftext|>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>"),
    *("<arg_value>", "</arg_value>", CALL),
)
fragments = st.sampled_from(TAGS).flatmap(lambda tag: st.integers(1, len(tag)).map(lambda end: tag[:end]))
raw_texts = st.lists(
    st.sampled_from(TAGS) | fragments | st.sampled_from((" ", "\n", "f\n", "a", "<", "[1, 2]")) | st.text(max_size=5),
    max_size=14,
).map("".join)


@st.composite
def chunkings(draw: st.DrawFn) -> list[str]:
    raw = draw(raw_texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=len(raw))))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=200, deadline=None)
@given(chunks=chunkings())
def test_any_chunking_gives_the_same_result(name: str, phase: Phase, chunks: list[str]) -> None:
    dialect = DIALECTS[name]
    raw = "".join(chunks)
    whole = split(dialect, phase, [raw])
    assert split(dialect, phase, chunks) == whole
    assert split(dialect, phase, list(raw)) == whole


words = st.text(alphabet="ab 表\n", min_size=1, max_size=5)


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=50, deadline=None)
@given(pieces=st.lists(st.sampled_from(TAGS) | words, max_size=12))
def test_only_tags_and_white_space_are_removed(name: str, pieces: list[str]) -> None:
    plain = [piece for piece in pieces if piece not in TAGS]
    kept = [piece for piece in pieces if piece in ("<think>", "</think>", "<answer>", "</answer>", "<|user|>")]
    dialect = DIALECTS[name]
    tags = {*(dialect.think or ()), *(dialect.answer or ()), "<|user|>"}
    raw = "".join(piece for piece in pieces if piece in plain or (piece in kept and piece in tags))
    whole, _ = split(dialect, "free", [raw])
    assert sorted("".join((whole.thinking + whole.text).split())) == sorted("".join("".join(plain).split()))
