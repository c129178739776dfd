"""The eight methods give one answer and report it once."""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, ImageBlock, TextBlock
from pydantic import ValidationError

from glm4v_core import Choices, Glm4v, Request, Sampling, ScriptedEngine, Timings, TokenLogprob, Usage
from glm4v_core.errors import EngineTimeoutError, MessageError, UnknownOptionError
from glm4v_core.types import Piece
from llamaindex_glm4v import GLM4VMultiModal
from tests.support.llamaindex_calls import CHAT_WAYS, WAYS, Make, Recorder, ask, text_of

THOUGHTFUL = "<think>Let me see.</think>It is a cat, 貓 at <|begin_of_box|>[[0,0,500,1000]]<|end_of_box|>"


@pytest.mark.parametrize("way", WAYS)
async def test_all_ways_give_the_same_answer(scripted: Make, way: str, png: bytes) -> None:
    llm, engine = scripted(THOUGHTFUL)
    question = ChatMessage(blocks=[ImageBlock(image=png), TextBlock(text="What is it?")])
    if way in CHAT_WAYS:
        *_, answer = await ask(llm, way, question, thinking=True)
        assert isinstance(answer, ChatResponse)
        assert [block.block_type for block in answer.message.blocks] == ["thinking", "text"]
        assert answer.message.blocks[0].content == "Let me see."  # type: ignore[union-attr]
        assert answer.message.role == "assistant"
    else:
        *_, answer = await ask(llm, way, "What is it?", image_documents=[png], thinking=True)
        assert isinstance(answer, CompletionResponse)
        assert answer.additional_kwargs["thinking"] == "Let me see."
    assert text_of(answer).startswith("It is a cat, 貓")
    assert "think" not in text_of(answer)
    (box,) = answer.raw["boxes"]
    assert (box["x1"], box["y1"], box["x2"], box["y2"]) == (0, 0, 20, 30)
    assert (answer.raw["model"], answer.raw["finish_reason"]) == (llm.model, "stop")
    assert answer.raw["timings"]["total"] > 0
    assert len(engine.history) == 1


@pytest.mark.parametrize("way", [way for way in WAYS if "stream" in way])
async def test_a_stream_grows_and_its_pieces_add_up(scripted: Make, way: str) -> None:
    llm, _ = scripted(THOUGHTFUL)
    responses = await ask(llm, way, "What is it?", thinking=True)
    *growing, last = responses
    texts = [text_of(response) for response in responses]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert "".join(response.delta or "" for response in responses) == texts[-1]
    assert all(response.delta is not None for response in responses)
    thoughts = [response.additional_kwargs.get("thinking_delta", "") for response in responses]
    assert "".join(thoughts) == "Let me see."
    assert len([thought for thought in thoughts if thought]) > 1
    assert all(response.raw is None for response in growing)
    assert last.raw["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_reasoning_without_its_opening_tag_is_kept_out_of_the_answer(scripted: Make) -> None:
    llm, _ = scripted("I wonder. </think>Yes.")
    responses = await ask(llm, "astream_chat", "Is it?", thinking=True)
    assert text_of(responses[-1]) == "Yes."
    assert responses[-1].message.blocks[0].content == "I wonder."  # type: ignore[union-attr]
    before = responses[-2]
    assert [block.block_type for block in before.message.blocks] == ["thinking", "text"]  # type: ignore[union-attr]


@pytest.mark.parametrize("way", WAYS)
async def test_observers_are_notified_of_a_call_once(scripted: Make, recorder: Recorder, way: str) -> None:
    llm, _ = scripted("Hello there.", temperature=0.5)
    responses = await ask(llm, way, "Hi")
    kind = "LLMChat" if way in CHAT_WAYS else "LLMCompletion"
    progress = len(responses) if "stream" in way else 0
    assert recorder.names() == [f"{kind}StartEvent", *[f"{kind}InProgressEvent"] * progress, f"{kind}EndEvent"]
    (start,) = recorder.of(f"{kind}StartEvent")
    assert (start.model_dict["model"], start.model_dict["temperature"]) == ("scripted", 0.5)


@pytest.mark.parametrize("way", WAYS)
async def test_an_empty_answer_is_an_answer(scripted: Make, recorder: Recorder, way: str) -> None:
    llm, _ = scripted("")
    (answer,) = await ask(llm, way, "Hi")
    assert (text_of(answer), answer.raw["finish_reason"], answer.raw["usage"]["completion_tokens"]) == ("", "stop", 0)
    kind = "LLMChat" if way in CHAT_WAYS else "LLMCompletion"
    assert len(recorder.of(f"{kind}StartEvent")) == len(recorder.of(f"{kind}EndEvent")) == 1


class CountingEngine(ScriptedEngine):
    """Reports a usage of its own."""

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        usage = Usage(prompt=100, image=80, completion=10, thinking=0, cached=90)
        yield Piece("Hello")
        yield Piece(" there", finish="stop", usage=usage, timings=Timings(0.1, 0.2, 0.3))


@pytest.mark.parametrize("way", WAYS)
async def test_usage_is_the_engines_own_everywhere(
    counter: TokenCountingHandler, counted: CallbackManager, way: str
) -> None:
    llm = GLM4VMultiModal(glm4v=Glm4v.from_engine(CountingEngine()), callback_manager=counted)
    *_, answer = await ask(llm, way, "hi")
    assert answer.raw["usage"] == {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "total_tokens": 110,
        "prompt_tokens_details": {"image_tokens": 80, "cached_tokens": 90},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert answer.additional_kwargs == {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    assert answer.raw["timings"] == {"queue": 0.1, "first_token": 0.2, "total": 0.3}
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (100, 10)


@pytest.mark.parametrize("way", WAYS)
async def test_log_probabilities_list_the_chosen_token_first(scripted: Make, way: str) -> None:
    tokens = (TokenLogprob("é", -0.5, (("e", -1.5), ("é", -0.5))), TokenLogprob("!", -0.25))
    llm, engine = scripted([Piece("é", 1, tokens[:1]), Piece("!", 1, tokens[1:])], logprobs=True, top_logprobs=2)
    *_, answer = await ask(llm, way, "hi")
    assert engine.history[0].sampling.logprobs == 2
    assert answer.logprobs is not None
    found = [[(each.token, each.logprob, each.bytes) for each in token] for token in answer.logprobs]
    assert found == [[("é", -0.5, [195, 169]), ("e", -1.5, [101])], [("!", -0.25, [33])]]


async def test_a_call_wins_over_the_constructor_and_unset_values_are_the_familys(scripted: Make) -> None:
    llm, engine = scripted("a", "b", "yes", temperature=0.5, top_k=7, stop=["END"], seed=1, thinking=False)
    await ask(llm, "chat", "x")
    await ask(llm, "complete", "x", stop=[], temperature=0.0, seed=2, thinking=True, thinking_budget=5, timeout=9.0)
    await ask(llm, "astream_chat", "x", stop="DONE", max_tokens=3, constraint=Choices(("yes", "no")))
    first, second, third = engine.history
    family = engine.info.family.sampling
    assert first.sampling == Sampling(0.5, family.top_p, 7, family.repetition_penalty, stop=("END",), seed=1)
    assert first.thinking is False
    assert (second.sampling.stop, second.sampling.temperature, second.sampling.seed) == ((), 0.0, 2)
    assert (second.thinking, second.thinking_budget, second.timeout) == (True, 5, 9.0)
    assert (third.sampling.stop, third.sampling.max_tokens) == (("DONE",), 3)
    assert third.constraint == Choices(("yes", "no"))
    assert (llm.temperature, llm.stop) == (0.5, ["END"])


@pytest.mark.parametrize("way", WAYS)
async def test_unknown_and_wrong_options_raise_by_name(scripted: Make, way: str) -> None:
    llm, engine = scripted()
    with pytest.raises(UnknownOptionError, match="temprature"):
        await ask(llm, way, "x", temprature=0.1)
    with pytest.raises(ValidationError, match="temperature"):
        await ask(llm, way, "x", temperature="hot")
    assert engine.history == []


@pytest.mark.parametrize("way", WAYS)
async def test_failures_of_the_engine_reach_the_caller_and_the_observers(
    scripted: Make, recorder: Recorder, way: str
) -> None:
    failure = EngineTimeoutError("Too slow.")
    llm, _ = scripted(["One", failure])
    with pytest.raises(EngineTimeoutError, match="Too slow"):
        await ask(llm, way, "x")
    assert not any(name.endswith("EndEvent") for name in recorder.names())


@pytest.mark.parametrize("way", WAYS)
async def test_a_limit_used_up_by_reasoning_is_reported(
    scripted: Make, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    llm, _ = scripted("<think>one two three four")
    *_, answer = await ask(llm, way, "x", thinking=True, max_tokens=3)
    assert (text_of(answer), answer.raw["finish_reason"]) == ("", "length_in_thinking")
    assert "no answer" in caplog.text


class MeetingEngine(ScriptedEngine):
    """Answers only once all expected requests have arrived."""

    def __init__(self, expected: int) -> None:
        super().__init__(["here"] * expected)
        self._expected = expected
        self._complete = asyncio.Event()

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        self._expected -= 1
        if not self._expected:
            self._complete.set()
        async with asyncio.timeout(30):
            await self._complete.wait()
        async for piece in super().stream(request):
            yield piece


async def test_calls_run_concurrently() -> None:
    llm = GLM4VMultiModal(glm4v=Glm4v.from_engine(MeetingEngine(8)))
    answers = await asyncio.gather(*(llm.achat([ChatMessage(content="x")]) for _ in range(8)))
    assert [text_of(answer) for answer in answers] == ["here"] * 8


class WatchedFile(io.BytesIO):
    """Records the threads in which it is read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.threads: set[int] = set()

    def read(self, size: int | None = -1) -> bytes:
        self.threads.add(threading.get_ident())
        return super().read(size)


@pytest.mark.parametrize("way", ["acomplete", "astream_complete"])
async def test_asynchronous_calls_read_images_outside_the_loop(scripted: Make, way: str, png: bytes) -> None:
    llm, _ = scripted("seen")
    file = WatchedFile(png)
    await ask(llm, way, "What is it?", image_documents=[file])
    assert file.threads
    assert threading.get_ident() not in file.threads


async def test_closing_a_stream_aborts_the_request_in_the_engine(scripted: Make) -> None:
    llm, engine = scripted(*["one two three four five"] * 3, latency=0.05)
    question = [ChatMessage(content="x")]
    async with aclosing(await llm.astream_chat(question)) as responses:
        await anext(responses)
    with closing(llm.stream_complete("x")) as stream:
        await asyncio.to_thread(next, stream)
    task = asyncio.create_task(llm.achat(question))
    while len(engine.history) < 3:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while len(engine.cancelled) < 3:
        await asyncio.sleep(0.01)


async def test_blocking_calls_work_inside_a_running_loop(scripted: Make) -> None:
    llm, _ = scripted("from a notebook", "and again")
    assert llm.complete("x").text == "from a notebook"
    assert [text_of(response) for response in llm.stream_chat([ChatMessage(content="x")])][-1] == "and again"


async def test_a_stream_raises_its_error_when_it_is_read(scripted: Make) -> None:
    llm, engine = scripted()
    stream: Any = llm.stream_chat([ChatMessage(role="tool", content="orphan")])
    with pytest.raises(MessageError, match="tool_call_id"):
        next(stream)
    assert engine.history == []
