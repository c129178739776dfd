"""Measure what one call option costs in both adapters, without a model, by alternating calls with and without it."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from engine import timed
from langchain_core.messages import HumanMessage
from llama_index.core.llms import ChatMessage
from rich.console import Console
from rich.table import Table

from glm4v_core import Glm4v, ScriptedEngine
from langchain_glm4v import ChatGLM4V
from llamaindex_glm4v import GLM4VMultiModal

PAIRS = 1000


def main() -> None:
    """Run the benchmark and print its table, in milliseconds."""
    table = Table("call", "without an option", "with one", "difference", title=f"Medians of {PAIRS} pairs, ms")
    with Glm4v.from_engine(ScriptedEngine(lambda _: "ok")) as model:
        chat, llm = ChatGLM4V(glm4v=model, top_p=0.9), GLM4VMultiModal(glm4v=model, top_p=0.9)
        asked, said = [HumanMessage("Hello.")], [ChatMessage(content="Hello.")]
        for name, plain, optional in (
            ("ChatGLM4V.invoke", lambda: chat.invoke(asked), lambda: chat.invoke(asked, seed=1)),
            ("ChatGLM4V.stream", lambda: list(chat.stream(asked)), lambda: list(chat.stream(asked, seed=1))),
            ("GLM4VMultiModal.chat", lambda: llm.chat(said), lambda: llm.chat(said, seed=1)),
            (
                "GLM4VMultiModal.stream_chat",
                lambda: list(llm.stream_chat(said)),
                lambda: list(llm.stream_chat(said, seed=1)),
            ),
        ):
            table.add_row(name, *(f"{1000 * seconds:.3f}" for seconds in paired(plain, optional)))
    Console().print(table)


def paired(plain: Callable[[], object], optional: Callable[[], object]) -> tuple[float, float, float]:
    """Return the median seconds of each, and of their difference pair by pair."""
    plain(), optional()
    pairs = [(timed(plain), timed(optional)) for _ in range(PAIRS)]
    without, beside = zip(*pairs, strict=True)
    return statistics.median(without), statistics.median(beside), statistics.median(b - a for a, b in pairs)


if __name__ == "__main__":
    main()
