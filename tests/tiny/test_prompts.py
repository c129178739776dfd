"""Training uses exactly the prompts that the product writes."""

from __future__ import annotations

from random import Random

import PIL.Image
import pytest
from tiny.export import TEMPLATE
from tiny.questions import Exchange
from tiny.sequences import IMAGE, Composer, Level, turn
from tiny.wordings import CLASSIFY, EXTRACT, OCR, SUMMARIZE, Language
from tokenizers import Tokenizer

from glm4v_core import tasks
from glm4v_core.dialect.families import GLM46V
from glm4v_core.dialect.template import ChatTemplate
from glm4v_core.engines.transformers.loading import Checkpoint
from glm4v_core.engines.transformers.prompts import Preparer
from glm4v_core.media.image import Image
from glm4v_core.types import Message, Request, Text, ToolResult
from tests.support.training_rows import Transcript, transcripts

pytestmark = pytest.mark.usefixtures("fonts")
ROWS = {"page": 40, "text": 40, "pair": 4}
PAGE = Image.load(PIL.Image.new("RGB", (56, 28)))
STEPS = {
    "ocr": (lambda language: tasks.ocr(language), OCR, {}),
    "caption": (lambda language: tasks.caption(language), SUMMARIZE, {}),
    "summarize": (lambda language: tasks.summarize(language), SUMMARIZE, {}),
    "classify": (lambda language: tasks.classify(["memo", "form"], language), CLASSIFY, {"labels": "memo, form"}),
    "extract": (lambda language: tasks.extract(["date", "total"], language), EXTRACT, {"fields": "date, total"}),
}


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    return ChatTemplate(TEMPLATE.read_text(), GLM46V)


@pytest.fixture(scope="module")
def learned(tokenizer: Tokenizer) -> list[Transcript]:
    """Every answer of some rows of each kind, at all levels, but for objects of which only the values are learned."""
    composer = Composer(tokenizer, Random(12))
    rows = [composer.row(kind, Level(0.2 + 0.8 * i / count)) for kind, count in ROWS.items() for i in range(count)]
    found = (transcript for row in rows for transcript in transcripts(row, tokenizer))
    return [transcript for transcript in found if transcript.prompt.endswith("\n")]


def test_prompts_are_what_the_chat_template_writes(learned: list[Transcript], template: ChatTemplate) -> None:
    for transcript in learned:
        assert template.render(transcript.request).text == transcript.prompt


def test_the_engine_reads_prompts_as_training_wrote_them(
    learned: list[Transcript], template: ChatTemplate, checkpoint: Checkpoint
) -> None:
    preparer = Preparer(checkpoint, max_image_tokens=None)
    for transcript in learned:
        prepared = preparer.prepare(template.render(transcript.request))
        assert prepared.ids == transcript.ids
        assert list(map(tuple, prepared.positions.T.tolist())) == transcript.positions


def test_answers_end_their_turn_and_are_parsed_completely(learned: list[Transcript]) -> None:
    for transcript in learned:
        split = transcript.read
        if split.tool_calls:
            assert split.text == ""
            assert transcript.answer.endswith("</tool_call><|observation|>")
        else:
            assert transcript.answer.endswith(f"{split.text}<|user|>")
        assert bool(split.thinking) <= bool(transcript.request.thinking)


def test_learned_tool_calls_fit_the_tools_of_the_request(learned: list[Transcript]) -> None:
    called = [(transcript, call) for transcript in learned for call in transcript.read.tool_calls]
    assert called
    for transcript, call in called:
        (tool,) = (tool for tool in transcript.request.tools if tool.name == call.name)
        assert call.error is None
        assert list(call.arguments or {}) == tool.parameters["required"] == list(tool.parameters["properties"])
        for key, kind in tool.parameters["properties"].items():
            assert isinstance(call.arguments[key], {"string": str, "integer": int}[kind["type"]])


def test_a_tool_result_is_repeated_as_the_answer(learned: list[Transcript]) -> None:
    answered = [t for t in learned if t.request.messages[-1].role == "tool"]
    assert answered
    for transcript in answered:
        (result,) = transcript.request.messages[-1].parts
        assert isinstance(result, ToolResult)
        assert result.parts == (Text(transcript.read.text),)


def test_every_kind_of_request_is_learned(learned: list[Transcript]) -> None:
    def parts(transcript: Transcript) -> list[type]:
        return [type(part) for message in transcript.request.messages for part in message.parts]

    assert {transcript.request.thinking for transcript in learned} == {True, False}
    assert {bool(transcript.read.thinking) for transcript in learned if transcript.request.thinking} == {True, False}
    assert {message.role for transcript in learned for message in transcript.request.messages} == {
        *("system", "user", "assistant", "tool")
    }
    shapes = {tuple(parts(transcript)) for transcript in learned if len(transcript.request.messages) == 1}
    assert shapes == {(Text,), (Image, Text), (Text, Image), (Image, Image, Text)}
    assert any(transcript.request.tools and Image in parts(transcript) for transcript in learned)
    wrapped = [transcript for transcript in learned if "<document>\n" in transcript.prompt]
    assert {Image in parts(transcript) for transcript in wrapped} == {True, False}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", STEPS)
def test_built_in_steps_ask_as_training_does(name: str, language: Language, template: ChatTemplate) -> None:
    make, wordings, filled = STEPS[name]
    step = make(language)
    assert step.prompt in [wording.format(**filled) for wording in wordings[language]]
    (asked, _), *_ = turn(Exchange(step.prompt, "answer"), thinking=False)
    for source, shown in ((PAGE, IMAGE), ("Text", "<document>\nText\n</document>\n")):
        assert template.render(step.request(source)).text == f"[gMASK]<sop><|user|>\n{shown}{asked}"


def test_a_question_with_thinking_ends_where_the_model_begins_to_think(template: ChatTemplate) -> None:
    (asked, learned), (thought, thought_learned), (answer, _) = turn(Exchange("Number?", "7", "I look."), thinking=True)
    request = Request((Message.user(PAGE, "Number?"),), thinking=True)
    assert template.render(request).text == f"[gMASK]<sop><|user|>\n{IMAGE}{asked}"
    assert (learned, thought_learned) == (False, True)
    assert thought + answer == "<think>I look.</think>\n7<|user|>"
