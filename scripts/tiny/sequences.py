"""Turn pages and questions into training sequences.

One page is asked several questions. Its prefix (image and turn marker) is encoded once and every question is a branch
that sees the prefix and itself only: a forest in one row, with the mask and the positions to match. So a branch is
exactly what the model sees at inference, at a fraction of the cost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tiny import questions
from tiny.documents import Document, make_document
from tiny.pages import SMALLEST_FONT, Glyph, columns, print_page, rows, to_grid
from tiny.questions import Exchange
from tiny.tokenizer import PHRASES
from tiny.wordings import Language
from tiny.words import TRAIN, coin, han, jumble

CELL_SLOTS = 9
"""What the auxiliary head names per visual token: six characters (at most three across, two down), what follows the last
one on each of the two lines, and the number of the upper line. The former puts into every visual token the step that
reading takes from it, the latter tells it from a token with the same characters on another line."""
NAMED = 6
PRINTABLE = "".join(chr(code) for code in range(33, 127))
CLASSES = len(PRINTABLE) + 2
"""Nothing, the printable characters, and a space."""
LED_BY_A_NAME = 0.35
"""Share of the questions for a field that begin with what identifies their page, as questions over many pages do."""
READ_ALREADY = 0.25
"""Share of the documents that are also asked with their text beside the picture."""
SMALL_PRINT = 0.3
"""Share of the pages that are set in the smallest fonts on purpose; most errors are made there."""
IMAGE = "<|begin_of_image|><|image|><|end_of_image|>"


@dataclass(slots=True)
class Row:
    """One training row.

    Attributes:
        ids, weights: one entry per token; weight 0 is not learned.
        positions: multimodal rotary positions (time, height, width) per token.
        parents, lengths, ends: per segment, the segment it sees besides itself, its tokens, and its next free position.
        pages: uint8 grey pixels, height x width, whole cells of 28 px.
        cells: per page, cells x CELL_SLOTS characters (0 is none, else index into PRINTABLE + 1).
    """

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    parents: list[int | None] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    pages: list[np.ndarray] = field(default_factory=list)
    cells: list[np.ndarray] = field(default_factory=list)


class Writer:
    """Appends prompts and answers to a row in the exact format of the chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.image = tokenizer.token_to_id("<|image|>")

    def segment(
        self, row: Row, parent: int | None, parts: Sequence[tuple[str, bool]], pages: Sequence[np.ndarray] = ()
    ) -> int:
        """Add a segment of (text, learned) parts after `parent`; returns its index."""
        before = len(row.ids)
        position = row.ends[parent] if parent is not None else 0
        shapes = iter(pages)
        for text, learned in parts:
            ids = self.tokenizer.encode(text).ids
            weight = (max(len(ids), 1) ** -0.35) * 4 if learned else 0.0
            for token in ids:
                if token == self.image:
                    position = self._image(row, next(shapes), position)
                else:
                    row.ids.append(token)
                    row.weights.append(weight)
                    row.positions.append((position, position, position))
                    position += 1
        row.parents.append(parent)
        row.lengths.append(len(row.ids) - before)
        row.ends.append(position)
        row.pages += pages
        return len(row.parents) - 1

    def _image(self, row: Row, page: np.ndarray, start: int) -> int:
        height, width = page.shape[0] // 28, page.shape[1] // 28
        row.ids += [self.image] * (height * width)
        row.weights += [0.0] * (height * width)
        row.positions += [(start, start + y, start + x) for y in range(height) for x in range(width)]
        return start + max(height, width)


def turn(exchange: Exchange, thinking: bool) -> list[tuple[str, bool]]:
    """The rest of a user turn after its first parts, and the learned assistant turn."""
    prompt = exchange.question + ("" if thinking else "/nothink") + "<|assistant|>\n"
    lead = f"<think>{exchange.thought}</think>\n" if thinking else ""
    answer = f"{exchange.answer}<|user|>" if exchange.call is None else f"{tool_call(*exchange.call)}<|observation|>"
    return [
        (prompt if thinking else prompt + "<think></think>\n", False),
        *([(lead, True)] if lead else []),
        (answer, True),
    ]


def tool_call(name: str, arguments: dict[str, Any]) -> str:
    lines = "".join(
        f"<arg_key>{key}</arg_key>\n<arg_value>{shown(value)}</arg_value>\n" for key, value in arguments.items()
    )
    return f"<tool_call>{name}\n{lines}</tool_call>"


def shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def tools_block(tools: Sequence[dict[str, Any]]) -> str:
    """The system turn that the chat template prints for tools."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    sample = (
        "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
        "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>"
    )
    return f"<|system|>\n{PHRASES[0]}{listed}{PHRASES[1]}{sample}"


@dataclass(frozen=True, slots=True)
class Level:
    """How hard pages are, 0 to 1; grows during training. Below 0 pages are only looked at, not asked about."""

    value: float

    @property
    def asks(self) -> bool:
        return self.value >= 0

    @property
    def lines(self) -> int:
        return round(2 + 10 * self.value)

    @property
    def width(self) -> int:
        return round(14 + 14 * self.value)


class Composer:
    """Draws training rows of the kinds page, pair and text."""

    def __init__(self, tokenizer: Tokenizer, random: Random) -> None:
        self.writer = Writer(tokenizer)
        self.random = random

    def row(self, kind: str, level: Level) -> Row:
        makers: dict[str, Callable[[Level], Row]] = {"page": self.page, "pair": self.pair, "text": self.text}
        return makers[kind](level)

    def _language(self) -> Language:
        return "en" if self.random.random() < 0.55 else "zh"

    def _head(self, tools: str = "") -> str:
        random = self.random
        system = ""
        if random.random() < 0.12:
            system = "<|system|>\n" + random.choice(
                (
                    "You are a helpful assistant.",
                    "You read documents.",
                    "Answer briefly.",
                    "Be exact.",
                    "你是一个文档助手。",
                    "请简短回答。",
                    f"You are {coin(random)}.",
                )
            )
        return f"[gMASK]<sop>{tools}{system}<|user|>\n"

    def noise_lines(self, level: Level) -> list[str]:
        """Random characters or random words, so that the page and not the language must be read.

        Half of the pages of words draw them from a handful: then lines begin, go on and end alike, and only their place
        on the page tells what comes next.
        """
        random = self.random
        count = min(random.randint(1, level.lines), rows(20))
        width = random.randint(4, min(level.width, columns(20)))
        if random.random() < 0.6 and level.width > 10:
            handful = [self._word() for _ in range(random.randint(2, 6))] if random.random() < 0.5 else []
            return [self._words(random.randint(width // 2, width), handful) for _ in range(count)]
        return [self._characters(random.randint(1, width)) for _ in range(count)]

    def _characters(self, length: int) -> str:
        random = self.random
        alphabet = random.choice(
            (
                PRINTABLE,
                PRINTABLE + " " * 12,
                "0123456789.,- /",
                "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
                "abcdefghijklmnopqrstuvwxyz ",
            )
        )
        text = " ".join("".join(random.choice(alphabet) for _ in range(length)).split())
        return text or random.choice(PRINTABLE)

    def _words(self, width: int, handful: Sequence[str]) -> str:
        text = ""
        while True:
            word = self.random.choice(handful) if handful else self._word()
            if len(text) + len(word) + 1 > width:
                return text or word[:width]
            text = f"{text} {word}".strip()

    def _word(self) -> str:
        random = self.random
        made_up = (coin(random), coin(random).lower(), jumble(random), str(random.randint(0, 99999)))
        return random.choice((*made_up, random.choice(TRAIN.good), random.choice(TRAIN.last)))

    def _print(self, row: Row, lines: Sequence[str], size: int | None = None) -> np.ndarray:
        if size is None and self.random.random() < SMALL_PRINT:
            size = self.random.randint(SMALLEST_FONT, SMALLEST_FONT + 2)
        pixels, glyphs = to_grid(*print_page(self.random, list(lines), size=size))
        row.cells.append(cells(glyphs, pixels.shape))
        return pixels

    def page(self, level: Level) -> Row:
        """A page with several questions, the picture before or after them."""
        random, row = self.random, Row()
        if not level.asks:
            row.pages.append(self._print(row, self.noise_lines(Level(random.random()))))
            return row
        if level.value < 0.45 or random.random() < 0.3:
            lines = self.noise_lines(level)
            asked = self._noise_questions(lines, level)
        else:
            document = make_document(random, "train", height=max(6, level.lines))
            lines = list(document.lines)
            asked = self._document_questions(document, 5)
            if random.random() < READ_ALREADY:
                asked.append(questions.beside_its_text(document, questions.field(random, document, self._language())))
            if random.random() < 0.2:
                # The page is there, but the request says everything.
                asked = [exchange for exchange in asked if not exchange.tools]
                asked.append(questions.tool_from_text(random, self._language(), "train"))
        page = self._print(row, lines)
        tools = next((exchange.tools for exchange in asked if exchange.tools), ())
        if tools:
            asked = [exchange for exchange in asked if exchange.tools == tools or not exchange.tools]
        head = self._head(tools_block(tools) if tools else "")
        if random.random() < 0.15:
            for exchange in asked[:1]:
                prompt, *answer = turn(exchange, False)
                words = exchange.question
                self.writer.segment(
                    row, None, [(f"{head}{words}{IMAGE}", False), (prompt[0][len(words) :], False), *answer], [page]
                )
            return row
        prefix = self.writer.segment(row, None, [(head + IMAGE, False)], [page])
        self._branches(row, prefix, asked)
        return row

    def _branches(self, row: Row, prefix: int, asked: Sequence[Exchange]) -> None:
        for exchange in asked:
            thinking = bool(exchange.thought) and self.random.random() < 0.22
            self.writer.segment(row, prefix, turn(exchange, thinking))

    def _noise_questions(self, lines: Sequence[str], level: Level) -> list[Exchange]:
        random, language = self.random, self._language()
        text = "\n".join(lines)
        asked = [
            questions.read(random, text, language)
            if level.value > 0.1
            else questions.Exchange("Text Recognition:", text)
        ]
        if level.value > 0.1 and len(lines) > 2 and random.random() < 0.5:
            asked.append(questions.line(random, lines, self._language()))
        return asked

    def _document_questions(self, document: Document, count: int) -> list[Exchange]:
        random = self.random
        makers, weights = zip(*questions.DOCUMENT_QUESTIONS, strict=True)
        asked = []
        for maker in random.choices(makers, weights, k=count):
            exchange = maker(random, document, self._language())
            named = maker is questions.field and random.random() < LED_BY_A_NAME
            asked.append(questions.named(random, document, exchange) if named else exchange)
        return [questions.ocr(random, document, self._language()), *asked]

    def pair(self, level: Level) -> Row:
        """Two pages in one request."""
        random, row = self.random, Row()
        width, height = (20, 7) if random.random() < 0.5 else (28, 12)
        first = make_document(random, "train", width, height)
        second = make_document(random, "train", width, height)
        while second.kind == first.kind:
            second = make_document(random, "train", width, height)
        pages = [self._print(row, document.lines) for document in (first, second)]
        prefix = self.writer.segment(row, None, [(self._head() + IMAGE + IMAGE, False)], pages)
        asked = [questions.which_page(random, (first, second), self._language()) for _ in range(3)]
        both = f"{first.text}\n{second.text}"
        asked.append(questions.read(random, both, self._language()))
        self._branches(row, prefix, asked)
        return row

    def text(self, level: Level) -> Row:
        """No picture: copying, tools whose arguments are in the request, questions on a document's text."""
        random, row = self.random, Row()
        style = random.random()
        if style < 0.05:
            for _ in range(4):
                question, answer = questions.free_object(random)
                prompt = f"{self._head()}{question}/nothink<|assistant|>\n<think></think>\n"
                self.writer.segment(row, None, [(prompt, False), *answer])
        elif style < 0.37 or level.value < 0.3:
            for _ in range(3):
                text = "\n".join(self.noise_lines(level)[:4])
                text = f"{text} {han(random)}" if random.random() < 0.1 else text
                asked = questions.repeat(random, text, self._language())
                self.writer.segment(row, None, self._with_head(self._head(), asked))
        elif style < 0.65:
            for _ in range(2):
                asked = questions.tool_from_text(random, self._language(), "train")
                self.writer.segment(row, None, self._with_head(self._head(tools_block(asked.tools)), asked))
        else:
            document = make_document(random, "train")
            asked_all = self._document_questions(document, 4)[1:]
            tools = next((exchange.tools for exchange in asked_all if exchange.tools), ())
            kept = [exchange for exchange in asked_all if not exchange.tools or exchange.tools == tools]
            wrapped = (
                f"<document>\n{document.text}\n</document>\n" if random.random() < 0.75 else f"{document.text}\n\n"
            )
            prefix = self.writer.segment(
                row, None, [(self._head(tools_block(tools) if tools else "") + wrapped, False)]
            )
            self._branches(row, prefix, kept)
        return row

    def _with_head(self, head: str, exchange: Exchange) -> list[tuple[str, bool]]:
        thinking = self.random.random() < 0.2
        (prompt, _), *answer = turn(exchange, thinking)
        if exchange.call is None or self.random.random() < 0.7:
            return [(head + prompt, False), *answer]
        result = str(self.random.randint(0, 99999))
        follow = f"\n<tool_response>\n{result}\n</tool_response><|assistant|>\n" + (
            "" if thinking else "<think></think>\n"
        )
        lead = "<think></think>\n" if thinking else ""
        return [(head + prompt, False), *answer, (follow, False), (f"{lead}{result}<|user|>", True)]


def cells(glyphs: Sequence[Glyph], shape: tuple[int, ...]) -> np.ndarray:
    """Name the characters whose centres lie in each 28 x 28 px cell, in reading order, and what follows them."""
    height, width = shape[0] // 28, shape[1] // 28
    named = np.zeros((height * width, CELL_SLOTS), dtype=np.int64)
    inside: dict[int, list[Glyph]] = {}
    for glyph in glyphs:
        x, y = int(glyph.x // 28), int(glyph.y // 28)
        if 0 <= x < width and 0 <= y < height:
            inside.setdefault(y * width + x, []).append(glyph)
    for cell, found in inside.items():
        named[cell, : min(NAMED, len(found))] = [_class(glyph.character) for glyph in found[:NAMED]]
        lines = sorted({glyph.line for glyph in found})[:2]
        for slot, line in enumerate(lines, NAMED):
            named[cell, slot] = _class([glyph for glyph in found if glyph.line == line][-1].after)
        named[cell, -1] = lines[0] + 1
    return named


def _class(character: str) -> int:
    if not character:
        return 0
    return CLASSES - 1 if character == " " else PRINTABLE.index(character) + 1
