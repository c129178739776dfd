"""Measure ChatGLM4V on the vLLM engine against vLLM alone, ChatOpenAI with `vllm serve`, and the transformers engine.

Needs the environment of `make test-vllm`, and in it requirements/vllm-benchmark.txt. Nothing is reused between requests, on
any side: the caches of pages and prompts are off.
"""

from __future__ import annotations

import asyncio
import base64
import io
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import PIL.Image
from langchain_core.messages import HumanMessage
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from glm4v_core.tiny import checkpoint_path
from tests.support.serving import serving

REQUESTS = 64
TOKENS = 64
ROUNDS = 3
STREAMS = 9
READ = "Read the text on this page, line by line. Output only the text."
SETTINGS = {"enforce_eager": True, "kv_cache_memory_bytes": 2**28, "max_num_seqs": 16, "enable_prefix_caching": False}
NO_CACHES = ("--no-enable-prefix-caching", "--mm-processor-cache-gb", "0")
SAMPLES = ("scan-01.png", "scan-03.png")

Batch = Callable[[], object]


def main() -> None:
    """Run the benchmark."""
    ours, bare, first, bare_first = apart(on_vllm)
    openai, openai_first = apart(over_http)
    transformers, transformers_first = apart(on_transformers)
    table = Table(
        "ChatGLM4V on vLLM", "compared with", "ratio", "goal", title=f"{REQUESTS} pages, {TOKENS} tokens each"
    )
    for name, other, goal in (
        ("bare AsyncLLM", bare, ">= 0.97"),
        ("ChatOpenAI, vllm serve", openai, ">= 1.15"),
        ("ChatGLM4V on transformers", transformers, ""),
    ):
        table.add_row(pages(ours), f"{pages(other)}, {name}", f"{other / ours:.2f}", goal)
    for name, other, goal in (
        ("bare AsyncLLM", bare_first, ""),
        ("ChatOpenAI, vllm serve", openai_first, "> 1"),
        ("ChatGLM4V on transformers", transformers_first, ""),
    ):
        table.add_row(f"first token {ms(first)}", f"{ms(other)}, {name}", f"{other / first:.2f}", goal)
    Console(width=140).print(table)


def apart(work: Callable[..., Any]) -> Any:
    """Run in a fresh process: the threads that one side leaves behind would slow the other down."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work).result()


def on_vllm() -> tuple[float, float, float, float]:
    """Return the seconds of a batch and until a first token, of the adapter and of vLLM alone, in turns."""
    from langchain_glm4v import ChatGLM4V

    llm = ChatGLM4V(
        model="tiny",
        engine="vllm",
        engine_options={**SETTINGS, "mm_processor_cache_gb": 0},
        max_tokens=TOKENS,
        temperature=0,
        reasoning=False,
    )
    with closing(asyncio.new_event_loop()) as loop:
        bare = BareVllm(loop)
        ours, alone = alternate(lambda: llm.batch(messages()), bare.batch)
        first, bare_first = alternate(lambda: first_text(llm.stream(messages()[0])), bare.first_token, STREAMS)
        bare.llm.shutdown()
    llm.close()
    return ours, alone, first, bare_first


class BareVllm:
    """AsyncLLM as its documentation shows it, with the same prompts; it resizes the pages itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(
            model=str(checkpoint_path()),
            dtype="float32",
            limit_mm_per_prompt={"image": 8, "video": 0},
            mm_processor_cache_gb=0,
            **SETTINGS,
        )
        self.llm = AsyncLLM.from_engine_args(arguments)
        self._loop = loop
        self._count = 0

    def batch(self) -> None:
        async def everything() -> None:
            await asyncio.gather(*(self._answer(block) for block in blocks()))

        self._loop.run_until_complete(everything())

    def first_token(self) -> None:
        self._loop.run_until_complete(self._answer(blocks()[0], tokens=1))

    async def _answer(self, block: str, tokens: int = TOKENS) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._count += 1
        image = PIL.Image.open(io.BytesIO(base64.b64decode(block))).convert("RGB")
        text = f"[gMASK]<sop><|user|>\n<|begin_of_image|><|image|><|end_of_image|>{READ}/nothink<|assistant|>\n"
        prompt = {"prompt": text + "<think></think>\n", "multi_modal_data": {"image": image}}
        parameters = SamplingParams(
            temperature=0, max_tokens=tokens, output_kind=RequestOutputKind.DELTA, skip_special_tokens=False
        )
        async for _ in self.llm.generate(prompt, parameters, str(self._count)):
            pass


def over_http() -> tuple[float, float]:
    """Return the seconds of a batch and until a first token, of ChatOpenAI with a server on this machine."""
    from langchain_openai import ChatOpenAI

    log = Path(tempfile.mkdtemp()) / "log"
    with serving(checkpoint_path(), log, *NO_CACHES) as (url, _):
        llm = ChatOpenAI(
            model="tiny",
            base_url=url,
            api_key="none",
            max_tokens=TOKENS,
            temperature=0,
            extra_body={"chat_template_kwargs": {"enable_thinking": False}},
        )
        config = {"max_concurrency": REQUESTS}
        return measure(lambda: llm.batch(messages(), config=config), lambda: first_text(llm.stream(messages()[0])))


def on_transformers() -> tuple[float, float]:
    """Return the seconds of a batch and until a first token, on the other engine."""
    from langchain_glm4v import ChatGLM4V

    llm = ChatGLM4V(
        model="tiny",
        engine="transformers",
        engine_options={"cache_bytes": 0},
        max_tokens=TOKENS,
        temperature=0,
        reasoning=False,
    )
    return measure(lambda: llm.batch(messages()), lambda: first_text(llm.stream(messages()[0])))


def messages() -> list[list[HumanMessage]]:
    """Ask the same about every page, with pictures as LangChain writes them."""
    picture = {"type": "image", "mime_type": "image/png"}
    return [[HumanMessage([{**picture, "base64": block}, {"type": "text", "text": READ}])] for block in blocks()]


def blocks() -> list[str]:
    """Return the pages, base64 of PNG; no two are alike."""
    if not _blocks:
        folder = Path(__file__).parents[1] / "samples"
        for number in range(REQUESTS):
            image = PIL.Image.open(folder / SAMPLES[number % len(SAMPLES)]).convert("RGB")
            image.putpixel((number, 0), (number, 0, 0))
            file = io.BytesIO()
            image.save(file, "PNG")
            _blocks.append(base64.b64encode(file.getvalue()).decode())
    return _blocks


_blocks: list[str] = []


def measure(batch: Batch, stream: Batch) -> tuple[float, float]:
    batch()
    return median(batch, ROUNDS), median(stream, STREAMS)


def alternate(one: Batch, other: Batch, rounds: int = ROUNDS) -> tuple[float, float]:
    """Return the medians of two ways that take turns, after one round each to warm up."""
    one(), other()
    seconds = [(timed(one), timed(other)) for _ in range(rounds)]
    return statistics.median(each for each, _ in seconds), statistics.median(each for _, each in seconds)


def median(work: Batch, rounds: int) -> float:
    return statistics.median(timed(work) for _ in range(rounds))


def timed(work: Batch) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def first_text(chunks: Iterable[Any]) -> None:
    """Read a stream up to its first text."""
    next(chunk for chunk in chunks if chunk.content)


def pages(seconds: float) -> str:
    return f"{REQUESTS / seconds:.2f} pages/s"


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


if __name__ == "__main__":
    main()
