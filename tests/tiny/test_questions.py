"""The answers in training are correct, and no wording is ambiguous."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from random import Random

import pytest
from tiny import questions
from tiny.documents import KINDS, Document, make_document
from tiny.questions import Exchange
from tiny.wordings import (
    ABSENT,
    CLASSIFY,
    EXTRACT,
    FIELD_NAMES,
    FIELD_QUESTIONS,
    KIND_NAMES,
    KIND_QUESTION,
    OCR,
    SUMMARIZE,
    TEXT_REPEAT,
    Language,
)

LANGUAGES: tuple[Language, ...] = ("en", "zh")
FACT_OF = {key: name for name, keys in FIELD_NAMES.items() for key in keys}
Asked = tuple[Document, Language, Exchange]


def ask(maker: object, count: int = 150) -> Iterator[Asked]:
    for language in LANGUAGES:
        for seed in range(count):
            random = Random(f"{seed} {language}")
            document = make_document(random, "train")
            yield document, language, maker(random, document, language)


def fill(wordings: Sequence[str], question: str) -> list[str]:
    """Return what fills the braces of the wording that a question was made from."""
    patterns = [re.escape(wording).replace(r"\{", "{").replace(r"\}", "}") for wording in wordings]
    tried = (re.fullmatch(re.sub(r"\{\w*\}", "(.*)", pattern), question, re.DOTALL) for pattern in patterns)
    return [found[1] for found in tried if found]


def test_no_wording_asks_for_two_things() -> None:
    groups = [OCR, SUMMARIZE, CLASSIFY, KIND_QUESTION, EXTRACT, *FIELD_QUESTIONS.values()]
    everything = [wording for group in groups for wording in {w for wordings in group.values() for w in wordings}]
    assert len(set(everything)) == len(everything)


def test_ocr_answers_with_the_text() -> None:
    for document, language, exchange in ask(questions.ocr, 20):
        assert exchange.question in OCR[language]
        assert exchange.answer == document.text


def test_reasoning_names_the_kind_and_the_date() -> None:
    for maker in (questions.ocr, questions.summarize, questions.field, questions.extract, questions.classify):
        for document, language, exchange in ask(maker, 10):
            assert KIND_NAMES[language][document.kind][0] in exchange.thought
            assert document.facts["date"] in exchange.thought


def test_summaries_hold_every_fact_but_the_number() -> None:
    for document, language, exchange in ask(questions.summarize, 50):
        assert exchange.question in SUMMARIZE[language]
        assert KIND_NAMES[language][document.kind][0] in exchange.answer.lower()
        for name in document.facts.keys() - {"number"}:
            assert document.facts[name] in exchange.answer


def test_a_field_is_the_fact_asked_for_or_said_to_be_absent() -> None:
    absent = 0
    for document, language, exchange in ask(questions.field, 300):
        (name,) = (name for name, wordings in FIELD_QUESTIONS.items() if exchange.question in wordings[language])
        assert exchange.answer == document.facts.get(name, ABSENT[language])
        absent += name not in document.facts
    assert absent


def test_a_name_before_a_question_is_on_the_page_and_is_not_the_answer() -> None:
    def led(random: Random, document: Document, language: Language) -> tuple[Exchange, Exchange]:
        plain = questions.field(random, document, language)
        return plain, questions.named(random, document, plain)

    colons = set()
    for document, _, (plain, exchange) in ask(led):
        mark, colon, question = re.fullmatch(r"(.+?)(: |：)(.+)", exchange.question).groups()
        colons.add(colon)
        assert question == plain.question
        assert mark in document.facts.values()
        assert mark != exchange.answer == plain.answer
    assert colons == {": ", "："}


def test_the_text_of_a_page_comes_between_its_image_and_the_question() -> None:
    for document, _, plain in ask(questions.field, 3):
        exchange = questions.beside_its_text(document, plain)
        assert exchange.question == f"<document>\n{document.text}\n</document>\n{plain.question}"
        assert exchange.answer == plain.answer


def test_a_label_is_among_those_shown_and_names_the_kind() -> None:
    listed = 0
    for document, language, exchange in ask(questions.classify, 300):
        names = {name for by_kind in KIND_NAMES.values() for name in by_kind[document.kind]}
        assert exchange.answer.lower() in names
        if exchange.question in KIND_QUESTION[language]:
            continue
        (labels,) = fill(CLASSIFY[language], exchange.question)
        shown = re.split("、|, ", labels)
        assert exchange.answer in shown
        assert len(set(shown)) == len(shown) >= 2
        listed += 1
    assert listed > 400


def test_the_order_of_labels_does_not_give_the_answer_away() -> None:
    places = set()
    for _, language, exchange in ask(questions.classify):
        if found := fill(CLASSIFY[language], exchange.question):
            places.add(re.split("、|, ", found[0]).index(exchange.answer))
    assert places >= set(range(len(KINDS)))


def test_extracted_json_holds_the_facts_or_null() -> None:
    seen = set()
    for document, language, exchange in ask(questions.extract, 300):
        (fields,) = fill(EXTRACT[language], exchange.question)
        answer = json.loads(exchange.answer)
        assert list(answer) == [field.removesuffix(" (number)") for field in fields.split(", ")]
        assert exchange.answer == json.dumps(answer) or "(number)" in fields
        for field in fields.split(", "):
            key = field.removesuffix(" (number)")
            fact = document.facts.get(FACT_OF.get(key, ""), None) if key != "kind" else document.kind
            seen.add("number" if key != field else type(answer[key]).__name__)
            if key != field:
                assert answer[key] == float(questions.number_of(fact))
                assert re.sub(r"[^\d.]", "", fact) == questions.number_of(fact)
            else:
                assert answer[key] == fact
    assert seen == {"str", "NoneType", "number"}


def test_a_call_about_a_page_takes_its_arguments_from_the_facts() -> None:
    for document, _, exchange in ask(questions.tool_from_page):
        name, arguments = exchange.call
        assert arguments
        assert name in exchange.question
        assert {key: document.facts[FACT_OF[key]] for key in arguments} == arguments
        (tool,) = exchange.tools
        assert tool["function"]["name"] == name
        assert tool["function"]["parameters"]["required"] == list(arguments)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_call_from_text_takes_its_arguments_from_the_request(split: str) -> None:
    counts = set()
    for seed in range(300):
        exchange = questions.tool_from_text(Random(seed), LANGUAGES[seed % 2], split)
        name, arguments = exchange.call
        assert name in exchange.question
        assert all(str(value) in exchange.question for value in arguments.values())
        schemas = [tool["function"]["parameters"] for tool in exchange.tools if tool["function"]["name"] == name]
        kinds = {key: {"type": "integer" if isinstance(v, int) else "string"} for key, v in arguments.items()}
        assert schemas == [{"type": "object", "properties": kinds, "required": list(arguments)}]
        counts.add((len(arguments), len(exchange.tools)))
    assert {arguments for arguments, _ in counts} == {0, 1, 2, 3}
    assert {tools for _, tools in counts} == {1, 2}


def test_a_line_is_the_one_asked_for() -> None:
    lines = ["one", "two\t2", "three"]
    shown = {"1": "one", "2": "two 2", "3": "three", "last": "three", "最后": "three"}
    asked = [questions.line(Random(seed), lines, LANGUAGES[seed % 2]) for seed in range(60)]
    for exchange in asked:
        (place,) = re.findall(r"\d|last|最后", exchange.question)
        assert exchange.answer == shown[place]
    assert {exchange.answer for exchange in asked} == {"one", "two 2", "three"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_of_a_kind_is_identified_by_its_number(language: Language) -> None:
    documents = (Document("memo", ("a",)), Document("form", ("b",)))
    names = [KIND_NAMES[language][document.kind][0] for document in documents]
    for seed in range(20):
        exchange = questions.which_page(Random(seed), documents, language)
        page = re.sub(r"\D", "", exchange.answer)
        (asked,) = (str(number) for number, name in enumerate(names, 1) if name in exchange.question)
        assert page == asked
        assert exchange.thought.index(names[0]) < exchange.thought.index(names[1])


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_to_repeat_is_the_answer(language: Language) -> None:
    for seed in range(10):
        exchange = questions.repeat(Random(seed), "a b\nc", language)
        assert fill(TEXT_REPEAT[language], exchange.question) == ["a b\nc"] == [exchange.answer]
