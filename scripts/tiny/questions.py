"""Questions about a document, in English and Chinese, with the answers the tiny model learns to give."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tiny.documents import KINDS, Document, Split
from tiny.wordings import (
    ABSENT,
    CALLS,
    CLASSIFY,
    EXTRACT,
    FIELD_NAMES,
    FIELD_QUESTIONS,
    KIND_NAMES,
    KIND_QUESTION,
    NOUNS,
    OCR,
    PAGE_ANSWERS,
    PAGE_CALLS,
    PAGE_QUESTIONS,
    SUMMARIZE,
    TEXT_REPEAT,
    TITLE,
    VERBS,
    Language,
)
from tiny.words import HELDOUT, TRAIN, coin, han


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question with its answer; `thought` is the reasoning that comes first when thinking is on."""

    question: str
    answer: str
    thought: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    call: tuple[str, dict[str, Any]] | None = None


def kind_name(kind: str, language: Language) -> str:
    return KIND_NAMES[language][kind][0]


def _thought(document: Document, language: Language) -> str:
    return TITLE[language].format(kind=kind_name(document.kind, language), date=document.facts["date"])


def _pick(random: Random, wordings: Sequence[str]) -> str:
    """The first wording is the product's own prompt and gets half of the draws."""
    return wordings[0] if random.random() < 0.45 else random.choice(wordings)


def read(random: Random, text: str, language: Language) -> Exchange:
    return Exchange(_pick(random, OCR[language]), text)


def ocr(random: Random, document: Document, language: Language) -> Exchange:
    return Exchange(_pick(random, OCR[language]), document.text, _thought(document, language))


def summary(document: Document, language: Language) -> str:
    """The reference summary: kind, parties, date, and amount and subject where there are any."""
    facts, kind = document.facts, kind_name(document.kind, language)
    if language == "zh":
        tail = f"，金额 {facts['amount']}" if "amount" in facts else ""
        tail += f"，关于 {facts['subject']}" if "subject" in facts else ""
        return f"{facts['sender']} 给 {facts['recipient']} 的{kind}，日期 {facts['date']}{tail}。"
    tail = f", amount {facts['amount']}" if "amount" in facts else ""
    tail += f", about {facts['subject']}" if "subject" in facts else ""
    return f"{kind.capitalize()} from {facts['sender']} to {facts['recipient']}, dated {facts['date']}{tail}."


def summarize(random: Random, document: Document, language: Language) -> Exchange:
    return Exchange(_pick(random, SUMMARIZE[language]), summary(document, language), _thought(document, language))


def classify(random: Random, document: Document, language: Language) -> Exchange:
    if random.random() < 0.12:
        return Exchange(
            random.choice(KIND_QUESTION[language]), kind_name(document.kind, language), _thought(document, language)
        )
    names: Language = "en" if random.random() < 0.5 else language
    others = [kind for kind in KINDS if kind != document.kind]
    labels = [document.kind, *random.sample(others, random.randint(1, 4))]
    if random.random() < 0.8:
        random.shuffle(labels)
    shown = [kind_name(kind, names) for kind in labels]
    if random.random() < 0.15:
        shown.insert(random.randrange(len(shown) + 1), {"en": "other", "zh": "其他"}[names])
    style: Callable[[str], str] = random.choice((str, str, str, str.capitalize, str.upper))
    shown = [style(label) for label in shown]
    joined = ("、" if language == "zh" and random.random() < 0.5 else ", ").join(shown)
    return Exchange(
        _pick(random, CLASSIFY[language]).format(labels=joined),
        style(kind_name(document.kind, names)),
        _thought(document, language),
    )


def field(random: Random, document: Document, language: Language) -> Exchange:
    names = [name for name in FIELD_QUESTIONS if name in document.facts]
    if random.random() < 0.07:
        names = [name for name in FIELD_QUESTIONS if name not in document.facts] or names
    name = random.choice(names)
    return Exchange(
        random.choice(FIELD_QUESTIONS[name][language]),
        document.facts.get(name, ABSENT[language]),
        _thought(document, language),
    )


def named(random: Random, document: Document, exchange: Exchange) -> Exchange:
    """Put before a question what identifies its page among many: a party, a number or a date on it."""
    marks = [document.facts[name] for name in ("number", "sender", "recipient", "date") if name in document.facts]
    mark = random.choice([mark for mark in marks if mark != exchange.answer])
    colon = "：" if exchange.question[-1] in "？。" and random.random() < 0.5 else ": "
    return replace(exchange, question=f"{mark}{colon}{exchange.question}")


def beside_its_text(document: Document, exchange: Exchange) -> Exchange:
    """Show the page's text between its picture and a question."""
    return replace(exchange, question=f"<document>\n{document.text}\n</document>\n{exchange.question}")


def number_of(amount: str) -> str:
    """The digits of an amount as a JSON number."""
    return "".join(c for c in amount if c in "0123456789.")


def extract(random: Random, document: Document, language: Language) -> Exchange:
    names = random.sample(sorted(FIELD_NAMES), random.randint(1, 5))
    keys, parts = [], []
    if random.random() < 0.2:
        keys, parts = ["kind"], [f'"kind": "{document.kind}"']
    for name in names:
        key = random.choice(FIELD_NAMES[name][:2] if random.random() < 0.7 else FIELD_NAMES[name])
        value = document.facts.get(name)
        shown = "null" if value is None else json.dumps(value)
        if name == "amount" and value is not None and random.random() < 0.2:
            shown = number_of(value)
            keys.append(f"{key} (number)")
        else:
            keys.append(key)
        parts.append(f'"{key}": {shown}')
    joined = ", ".join(keys)
    return Exchange(
        _pick(random, EXTRACT[language]).format(fields=joined),
        "{" + ", ".join(parts) + "}",
        _thought(document, language),
    )


def tool_schema(name: str, parameters: dict[str, str], random: Random) -> dict[str, Any]:
    described = random.choice(
        (f"{name.replace('_', ' ').capitalize()}.", "", "A tool.", f"Call this to {name.replace('_', ' ')}.")
    )
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": described,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in parameters.items()},
                "required": list(parameters),
            },
        },
    }


def _tool_name(random: Random) -> str:
    style = random.random()
    if style < 0.6:
        return f"{random.choice(VERBS)}_{random.choice(NOUNS)}"
    if style < 0.8:
        return coin(random).lower()
    return f"{coin(random).lower()}_{random.choice(NOUNS)}"


def tool_from_page(random: Random, document: Document, language: Language, decoys: int = 0) -> Exchange:
    """Call a tool whose parameters are fields of the document."""
    names = random.sample(sorted(document.facts), random.randint(1, min(3, len(document.facts))))
    arguments = {random.choice(FIELD_NAMES[name][:2]): document.facts[name] for name in names}
    name = _tool_name(random)
    tools = [tool_schema(name, dict.fromkeys(arguments, "string"), random)]
    tools += [tool_schema(_tool_name(random), {"value": "string"}, random) for _ in range(decoys)]
    random.shuffle(tools)
    question = random.choice(PAGE_CALLS[language]).format(tool=name)
    return Exchange(question, "", _thought(document, language), tuple(tools), (name, arguments))


def tool_from_text(random: Random, language: Language, split: Split) -> Exchange:
    """Call a tool with arguments from the request."""
    words = TRAIN if split == "train" else HELDOUT
    name = _tool_name(random)
    arguments: dict[str, Any] = {}
    for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3))):
        key = random.choice((*NOUNS, "input", "x", "a", "b", "name", "count", "text", coin(random).lower()))
        number = random.choice((random.randint(0, 9), random.randint(0, 999), random.randint(0, 10**6)))
        arguments[key] = (
            number
            if random.random() < 0.4
            else random.choice((words.person, words.company, words.item, words.place))(random)
            if split != "train" or random.random() < 0.85
            else _mixed(random)
        )
    schema = {key: "integer" if isinstance(value, int) else "string" for key, value in arguments.items()}
    tools = [tool_schema(name, schema, random)]
    tools += [
        tool_schema(_tool_name(random), {random.choice(NOUNS): "string"}, random)
        for _ in range(random.choice((0, 0, 0, 1)))
    ]
    random.shuffle(tools)
    joined = _join(random, arguments, language)
    thought = {"en": f"I call {name}.", "zh": f"我调用 {name}。"}[language]
    if not arguments:
        return Exchange(
            {"en": f"Call {name}.", "zh": f"请调用 {name}。"}[language], "", thought, tuple(tools), (name, {})
        )
    if len(arguments) == 1 and random.random() < 0.4:
        (value,) = arguments.values()
        question = {"en": f"What is {name}({value})?", "zh": f"{name}({value}) 是多少？"}[language]
        question += random.choice(("", {"en": " Use the tool.", "zh": "请使用工具。"}[language]))
        return Exchange(question, "", thought, tuple(tools), (name, arguments))
    return Exchange(
        random.choice(CALLS[language]).format(tool=name, arguments=joined), "", thought, tuple(tools), (name, arguments)
    )


def _mixed(random: Random) -> str:
    """Words that are not English alone."""
    return random.choice((han(random), f"{han(random)}{coin(random)}", f"{coin(random)} {han(random)}"))


def _join(random: Random, arguments: dict[str, Any], language: Language) -> str:
    form, comma = random.choice((("{} {}", ", "), ("{}={}", ", "), ("{}: {}", ", "), ('{} "{}"', ", ")))
    last = {"en": " and ", "zh": " 和 "}[language]
    parts = [form.format(key, value) for key, value in arguments.items()]
    if len(parts) > 1 and random.random() < 0.6:
        return comma.join(parts[:-1]) + last + parts[-1]
    return comma.join(parts)


def repeat(random: Random, text: str, language: Language) -> Exchange:
    return Exchange(
        random.choice(TEXT_REPEAT[language]).format(text),
        text,
        {"en": "I copy the text.", "zh": "我照抄文字。"}[language],
    )


def free_object(random: Random) -> tuple[str, list[tuple[str, bool]]]:
    """A request that names no fields, and an object whose keys come from elsewhere: its strings must come to an end.

    Returns the question, and the answer in parts of which only the second ones, the values, are learned.
    """
    about = f"{random.choice(('a', 'the', 'my'))} {random.choice(NOUNS)} about {random.choice((coin(random).lower(), TRAIN.item(random)))}"
    question = random.choice(
        ("Tell me {}.", "Write {}.", "Give me {} as JSON.", "I want {}!", "Make {} for me.")
    ).format(about)
    parts: list[tuple[str, bool]] = []
    count = random.randint(1, 4)
    for index in range(count):
        key = random.choice((coin(random).lower(), random.choice(NOUNS), "setup", "answer", "title", "reason"))
        # Cut where the tokenizer cuts: the closing quote is one token with what follows it.
        parts += [(f'{" " if index else "{"}"{key}": "', False)]
        parts += [
            (f"{random.choice((about, about.split(' about ')[1]))}{chr(34)}{'}' if index == count - 1 else ','}", True)
        ]
    return question, [*parts, ("<|user|>", True)]


def line(random: Random, lines: Sequence[str], language: Language) -> Exchange:
    """Ask for one line by its number."""
    index = random.randrange(len(lines))
    if index == len(lines) - 1 and random.random() < 0.5:
        question = random.choice(
            {"en": ("What is the last line?", "Read the last line."), "zh": ("最后一行是什么？",)}[language]
        )
    else:
        question = random.choice(
            {"en": (f"What is line {index + 1}?", f"Read line {index + 1}."), "zh": (f"第{index + 1}行是什么？",)}[
                language
            ]
        )
    return Exchange(question, lines[index].replace("\t", " "))


def which_page(random: Random, documents: tuple[Document, Document], language: Language) -> Exchange:
    """Ask which of two pages is of a given kind; the two kinds must differ."""
    index = random.randrange(2)
    question = random.choice(PAGE_QUESTIONS[language]).format(kind=kind_name(documents[index].kind, language))
    first = {"en": "Page 1: {}. Page 2: {}.", "zh": "第1页：{}。第2页：{}。"}[language]
    thought = first.format(*(kind_name(document.kind, language) for document in documents))
    return Exchange(question, PAGE_ANSWERS[language][index], thought)


DOCUMENT_QUESTIONS: tuple[tuple[Callable[[Random, Document, Language], Exchange], float], ...] = (
    (summarize, 1.2),
    (classify, 0.5),
    (field, 1.6),
    (extract, 1.5),
    (tool_from_page, 0.5),
)
