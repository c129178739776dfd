"""A loader's callbacks, pages and retries never run in the thread of the engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from glm4v_core import Request
from langchain_glm4v import ScannedDocumentLoader
from tests.support.langchain_calls import Scripted
from tests.support.scans import read, save_fax
from tests.support.threads import Threads

QUESTION = "Is anybody there?"


def answer(request: Request) -> Any:
    return "yes" if QUESTION in str(request.messages) else read(request)


class Inline(BaseCallbackHandler):
    """A callback that LangChain runs in the thread of the call, and that calls the model itself."""

    run_inline = True

    def __init__(self, threads: Threads, ask: Callable[[], object]) -> None:
        self.threads = threads
        self.ask = ask
        self.asking = False

    def on_chat_model_start(self, *args: Any, **options: Any) -> None:
        self.threads.note("callback")
        if not self.asking:
            self.asking = True
            self.ask()
            self.asking = False

    def on_llm_end(self, *args: Any, **options: Any) -> None:
        self.threads.note("end")


@pytest.mark.parametrize("way", ["lazy_load", "load", "alazy_load", "load beside a loop"])
def test_inline_callbacks(
    scripted: Callable[..., Scripted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    threads = Threads()
    threads.watch(monkeypatch)
    llm, _ = scripted(answer)
    watched = llm.with_config(callbacks=[Inline(threads, lambda: llm.invoke(QUESTION))])
    loader = ScannedDocumentLoader(save_fax(tmp_path), watched, concurrency=2)

    async def beside() -> list[Any]:
        return [document async for document in loader.alazy_load()] if way == "alazy_load" else loader.load()

    match way:
        case "lazy_load":
            documents = list(loader.lazy_load())
        case "load":
            documents = loader.load()
        case _:
            documents = asyncio.run(beside())
    assert [document.page_content for document in documents] == [f"text of page {number}" for number in range(1, 6)]
    threads.check("callback", "end", "decoding")
