"""Measure ChatGLM4V against LangChain's own integration for local models, all in one run, and print one table.

Needs `pip install --no-deps langchain-huggingface langchain-openai openai tiktoken jiter` besides the dev extra.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from engine import REQUESTS, apart, endless, ms, open_engine, quiet, timed
from langchain_core.messages import HumanMessage
from rich.console import Console
from rich.table import Table

from glm4v_core import Glm4v, Message, Request, ScriptedEngine
from glm4v_core.tiny import checkpoint_path
from langchain_glm4v import ChatGLM4V

TOKENS = 100
PROMPT = "<document>\nINVOICE\nNo: {number}\nTo: Felix Chea\nTotal: 12.50 EUR\n</document>\nSummarize this document."


def main() -> None:
    """Run the benchmark. Texts only: ChatHuggingFace drops pictures, so it could not be compared with any."""
    folder = checkpoint_path()
    table = Table("what", "ChatGLM4V", "compared with", "ratio", title="LangChain")
    ours, peer, naive = (apart(work, folder) for work in (batch_of_ours, batch_of_the_peer, one_by_one))
    for name, other in (("ChatHuggingFace", peer), ("generate() one by one", naive)):
        rates = [f"{REQUESTS * TOKENS / side[0]:.0f} tokens/s" for side in (ours, other)]
        table.add_row(f"batch of {REQUESTS}", rates[0], f"{rates[1]}, {name}", f"{other[0] / ours[0]:.2f}")
    table.add_row("first token", ms(ours[1]), f"{ms(peer[1])}, ChatHuggingFace", f"{peer[1] / ours[1]:.2f}")
    adapter, bare, share = apart(overhead, folder)
    table.add_row("one call without a model", f"{adapter:.2f} ms", f"{bare:.2f} ms, Glm4v", f"{adapter - bare:.2f} ms")
    table.add_row("that difference beside a call of the bundled model", "", "", f"{100 * share:.1f} %")
    mine, theirs = (import_time(name) for name in ("langchain_glm4v", "langchain_openai"))
    table.add_row("import", ms(mine), f"{ms(theirs)}, langchain_openai", f"{theirs / mine:.2f}")
    Console().print(table)


def prompts() -> list[str]:
    return [PROMPT.format(number=number) for number in range(REQUESTS)]


def batch_of_ours(folder: Path) -> tuple[float, float]:
    """Return the seconds of a batch, and until the first token of a stream."""
    quiet()
    with Glm4v.from_engine(open_engine(endless(folder), cache_bytes=0)) as model:
        return speed(ChatGLM4V(glm4v=model, max_tokens=TOKENS, temperature=0, reasoning=False))


def batch_of_the_peer(folder: Path) -> tuple[float, float]:
    from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline

    model, tokenizer = plain(folder)
    pipeline = transformers.pipeline(
        "text-generation", model=model, tokenizer=tokenizer, max_new_tokens=TOKENS, do_sample=False
    )
    return speed(ChatHuggingFace(llm=HuggingFacePipeline(pipeline=pipeline, batch_size=REQUESTS)))


def one_by_one(folder: Path) -> tuple[float, float]:
    model, tokenizer = plain(folder)

    def generate(text: str) -> None:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        model.generate(**prompt, do_sample=False, max_new_tokens=TOKENS)

    generate("warm up")
    return timed(lambda: [generate(text) for text in prompts()]), 0.0


def plain(folder: Path) -> tuple[Any, Any]:
    """Load the model for the library's own pipelines; no answer ends early."""
    quiet()  # except for one error: the pipeline's list of text models lacks this one, which still runs
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def speed(llm: Any) -> tuple[float, float]:
    llm.invoke("warm up")
    whole = timed(lambda: llm.batch(prompts()))
    return whole, statistics.median(timed(lambda text=text: first(llm.stream(text))) for text in prompts()[:9])


def first(chunks: Iterable[Any]) -> None:
    """Read a stream up to its first text."""
    next(chunk for chunk in chunks if chunk.content)


def overhead(folder: Path) -> tuple[float, float, float]:
    """Return milliseconds of a call through the adapter and through the core, and the difference's share of a real one."""
    request = Request((Message.user("Hello."),))
    with Glm4v.from_engine(ScriptedEngine(lambda _: "ok")) as model:
        llm = ChatGLM4V(glm4v=model)
        message = [HumanMessage("Hello.")]
        adapter, bare = (
            statistics.median(timed(call) for _ in range(400))
            for call in (lambda: llm.invoke(message), lambda: model.generate(request))
        )
    with Glm4v.load(folder) as model:
        summary = Request((Message.user(PROMPT.format(number=1)),))
        real = statistics.median(timed(lambda: model.generate(summary)) for _ in range(9))
    return 1000 * adapter, 1000 * bare, (adapter - bare) / real


def import_time(module: str) -> float:
    """Return the seconds that an import adds to starting Python."""

    def run(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - started

    runs = [(run(f"import {module}"), run("pass")) for _ in range(5)]
    return statistics.median(each for each, _ in runs) - statistics.median(each for _, each in runs)


if __name__ == "__main__":
    main()
