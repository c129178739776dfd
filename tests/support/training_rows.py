"""Turns a training row back into requests as a user would send them, with the learned answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from PIL import Image as Pillow
from tiny.sequences import IMAGE, Row
from tokenizers import Tokenizer

from glm4v_core.dialect.families import GLM46V
from glm4v_core.dialect.parsing import Phase, Split, Splitter, fold
from glm4v_core.media.image import Image
from glm4v_core.types import Message, Request, Text, Thinking, Tool, ToolResult


@dataclass(frozen=True, slots=True)
class Transcript:
    """One learned answer and everything before it.

    Attributes:
        prompt: as decoded, with one placeholder per picture.
        ids, positions: of the prompt, with one token per visual token.
        answer: with its end token.
    """

    request: Request
    prompt: str
    ids: list[int]
    positions: list[tuple[int, int, int]]
    answer: str

    @property
    def read(self) -> Split:
        return read_answer(self.answer, "free" if self.request.thinking else "answer", self.request.tools)


def read_answer(text: str, phase: Phase, tools: tuple[Tool, ...]) -> Split:
    splitter = Splitter(GLM46V, phase, tools)
    return fold([*splitter.feed(text), *splitter.finish()])


def transcripts(row: Row, tokenizer: Tokenizer) -> Iterator[Transcript]:
    """Find every learned stretch of a row, in the sequence of its segment's parent and its segment."""
    pages = [Image.load(Pillow.fromarray(page)) for page in row.pages]
    starts = [sum(row.lengths[:index]) for index in range(len(row.lengths))]
    for own, parent in enumerate(row.parents):
        segments = [own] if parent is None else [parent, own]
        indices = [i for s in segments for i in range(starts[s], starts[s] + row.lengths[s])]
        ids, positions = [row.ids[i] for i in indices], [row.positions[i] for i in indices]
        for start, end in _learned([row.weights[i] for i in indices]):
            prompt = _decode(ids[:start], tokenizer)
            yield Transcript(
                parse(prompt, pages), prompt, ids[:start], positions[:start], _decode(ids[start:end], tokenizer)
            )


def _learned(weights: Sequence[float]) -> Iterator[tuple[int, int]]:
    start = 0
    for learned, group in groupby(weights, key=bool):
        end = start + len(list(group))
        if learned:
            yield start, end
        start = end


def _decode(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    image = tokenizer.token_to_id("<|image|>")
    short = [token for place, token in enumerate(ids) if token != image or ids[place - 1] != image]
    return tokenizer.decode(short, skip_special_tokens=False)


def parse(prompt: str, pages: Sequence[Image]) -> Request:
    """Take a prompt of the 4.6V dialect apart."""
    start, *pieces = re.split(r"<\|(system|user|assistant|observation)\|>\n", prompt)
    assert start == "[gMASK]<sop>"
    turns = list(zip(pieces[::2], pieces[1::2], strict=True))
    role, last = turns.pop()
    assert role == "assistant"
    tools: tuple[Tool, ...] = ()
    messages: list[Message] = []
    for role, body in turns:
        if role == "system" and body.startswith("# Tools"):
            tools = _tools(body)
        elif role == "user":
            messages.append(Message.user(*_shown(body.removesuffix("/nothink"), pages)))
        elif role == "assistant":
            said = read_answer(body, "free", tools)
            thought = (Thinking(said.thinking),) if said.thinking else ()
            messages.append(Message.assistant(*thought, *said.tool_calls))
        elif role == "observation":
            result = body.removeprefix("<tool_response>\n").removesuffix("\n</tool_response>")
            call = messages[-1].parts[-1]
            messages.append(Message("tool", (ToolResult(call.id, (Text(result),)),)))
        else:
            messages.append(Message.system(body))
    return Request(tuple(messages), tools=tools, thinking=last != "<think></think>\n")


def _tools(body: str) -> tuple[Tool, ...]:
    listed = body.partition("<tools>\n")[2].partition("\n</tools>")[0]
    functions = [json.loads(line)["function"] for line in listed.splitlines()]
    return tuple(Tool(function["name"], function["description"], function["parameters"]) for function in functions)


def _shown(body: str, pages: Sequence[Image]) -> Iterator[Image | str]:
    waiting = iter(pages)
    for piece in re.split(f"({re.escape(IMAGE)})", body):
        if piece:
            yield next(waiting) if piece == IMAGE else piece
