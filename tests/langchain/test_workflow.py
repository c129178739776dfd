"""The document workflow as a runnable: what it asks, what it returns, and how its parts are replaced."""

from __future__ import annotations

import io
from typing import Any

import PIL.Image
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda

from glm4v_core import Choices, Image, JsonSchema, Page, Request, Sampling, Step, Text, load_pages, tasks
from glm4v_core.errors import ConstraintError, ImageFormatError, InvalidOutputError, MessageError, OutOfMemoryError
from langchain_glm4v import ChatGLM4V
from langchain_glm4v.workflows import ask_step, document_workflow
from tests.support.langchain_calls import Make


def answer(request: Request) -> str:
    """Read, summarize or classify; each answer contains the size of the image."""
    image, prompt = request.messages[0].parts
    assert isinstance(image, Image)
    assert isinstance(prompt, Text)
    if isinstance(request.constraint, Choices):
        return request.constraint.options[image.width % len(request.constraint.options)]
    reads = prompt.text.startswith(("Read", "请逐行"))
    return f"text of {image.width}" if reads else f"summary of {image.width}"


def paper(width: int) -> PIL.Image.Image:
    return PIL.Image.new("L", (width, 40), 250)


@pytest.fixture
def pages() -> list[Page]:
    file = io.BytesIO()
    paper(60).save(file, "TIFF", save_all=True, append_images=[paper(width) for width in range(61, 70)])
    return list(load_pages(io.BytesIO(file.getvalue())))


def test_a_page_becomes_a_typed_result(scripted: Make, pages: list[Page]) -> None:
    llm, engine = scripted(answer)
    result = document_workflow(llm, labels=["invoice", "memo"]).invoke(pages[1])
    assert (result.text, result.summary, result.label) == ("text of 61", "summary of 61", "memo")
    assert (result.page.number, result.page.count, result.page.sha256) == (2, 10, pages[1].image.sha256)
    assert set(result.steps) == {"ocr", "summarize", "classify"}
    assert result.steps["ocr"].usage.image == 6
    assert (result.steps["ocr"].finish, result.model, result.warnings) == ("stop", "scripted", ())
    assert [request.thinking for request in engine.history] == [False] * 3


def test_it_asks_what_the_core_asks(scripted: Make, pages: list[Page]) -> None:
    llm, engine = scripted(answer)
    document_workflow(llm, labels=["发票", "备忘录"], language="zh").invoke(pages[0])
    steps: list[Step[Any]] = [tasks.ocr("zh"), tasks.summarize("zh"), tasks.classify(["发票", "备忘录"], "zh")]
    asked = {(request.messages, request.constraint) for request in engine.history}
    wanted = [step.request(pages[0].image) for step in steps]
    assert asked == {(request.messages, request.constraint) for request in wanted}


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_many_pages_come_back_in_order(scripted: Make, pages: list[Page], way: str) -> None:
    llm, _ = scripted(answer, latency=0.001)
    workflow = document_workflow(llm, labels=["invoice", "memo"])
    results = await workflow.abatch(pages) if way == "abatch" else workflow.batch(pages)  # type: ignore[arg-type]
    assert [result.text for result in results] == [f"text of {width}" for width in range(60, 70)]
    assert [result.page.number for result in results] == list(range(1, 11))


def test_one_page_of_a_batch_fails_alone(scripted: Make, pages: list[Page]) -> None:
    def fail_once(request: Request) -> Any:
        image = request.messages[0].parts[0]
        return OutOfMemoryError("Too big.") if isinstance(image, Image) and image.width == 61 else answer(request)

    llm, _ = scripted(fail_once)
    first, second, third = document_workflow(llm).batch(pages[:3], return_exceptions=True)  # type: ignore[arg-type]
    assert (first.text, third.text) == ("text of 60", "text of 62")
    assert isinstance(second, OutOfMemoryError)


def test_a_single_picture_needs_no_page(scripted: Make) -> None:
    llm, _ = scripted(answer)
    workflow = document_workflow(llm)
    result = workflow.invoke(paper(77))
    assert (result.text, result.label, result.page.number, result.page.count) == ("text of 77", None, 1, 1)
    assert workflow.invoke(Image.load(paper(78))).text == "text of 78"
    with pytest.raises(ImageFormatError):
        workflow.invoke(b"%PDF-1.7 has pages, not a picture")


def test_parts_can_be_replaced(scripted: Make, pages: list[Page]) -> None:
    llm, engine = scripted(answer, "never asked")
    text: Runnable[dict[str, Any], str] = RunnableLambda(lambda state: f"own reading of page {state['page'].number}")
    label: Runnable[dict[str, Any], str] = RunnableLambda(lambda state: f"label for {state['text']!r}")
    llm, engine = scripted(answer)
    result = document_workflow(llm, text=text, label=label).invoke(pages[2])
    assert result.text == "own reading of page 3"
    assert result.label == "label for 'own reading of page 3'"
    assert result.summary == "summary of 62"
    assert list(result.steps) == ["summarize"]
    assert len(engine.history) == 1


def test_a_part_may_ask_any_step_of_the_core(scripted: Make, pages: list[Page]) -> None:
    llm, engine = scripted('{"total": "12.50"}')
    part = ask_step(llm, tasks.extract(["total"]))
    found = part.invoke({"page": pages[0]})
    assert (found.name, found.value) == ("extract", {"total": "12.50"})
    assert isinstance(engine.history[0].constraint, JsonSchema)


def test_a_steps_own_settings_win_over_the_chat_models(scripted: Make, pages: list[Page]) -> None:
    llm, engine = scripted("short", seed=7, max_tokens=99)
    sampling = Sampling(max_tokens=5, stop=("END",), logprobs=3)
    step = Step("ask", "Why?", lambda completion: completion.text, sampling=sampling)
    ask_step(llm, step).invoke({"page": pages[0]})
    used = engine.history[0].sampling
    assert (used.max_tokens, used.seed, used.stop, used.logprobs) == (5, 7, ("END",), 3)


def test_a_chat_model_with_retries_works_too(scripted: Make, pages: list[Page]) -> None:
    llm, engine = scripted(OutOfMemoryError("Too big."), "text", "summary")
    result = document_workflow(llm.with_retry(wait_exponential_jitter=False)).invoke(pages[0])
    assert (result.text, result.summary) == ("text", "summary")
    assert len(engine.history) == 3


def test_a_message_of_another_model_is_accepted(pages: list[Page]) -> None:
    usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}

    def other(_: Any, **options: Any) -> AIMessage:
        return AIMessage("from elsewhere", usage_metadata=usage, response_metadata={"finish_reason": "length"})

    result = document_workflow(RunnableLambda(other)).invoke(pages[0])
    assert (result.text, result.warnings) == ("from elsewhere", ("ocr:length", "summarize:length"))
    assert (result.steps["ocr"].usage.prompt, result.steps["ocr"].usage.completion) == (5, 2)


def test_a_message_without_usage_counts_nothing(pages: list[Page]) -> None:
    result = document_workflow(RunnableLambda(lambda _, **options: AIMessage("bare"))).invoke(pages[0])
    assert result.steps["ocr"].usage.prompt == 0


def test_wrong_labels_are_refused_when_the_workflow_is_made() -> None:
    with pytest.raises(ConstraintError):
        document_workflow(ChatGLM4V(), labels=["memo", "memo"])


def test_an_answer_that_is_not_a_label_is_an_error(scripted: Make, pages: list[Page]) -> None:
    llm, _ = scripted("novel")
    with pytest.raises(InvalidOutputError):
        ask_step(llm, tasks.classify(["invoice", "memo"])).invoke({"page": pages[0]})


def test_a_step_that_asks_with_more_than_text_and_images_is_refused(pages: list[Page]) -> None:
    from glm4v_core import Message, Thinking

    class Strange(Step[str]):
        def request(self, source: Image | str) -> Request:
            return Request((Message.user(Thinking("hm")),))

    step = Strange("strange", "?", lambda completion: completion.text)
    with pytest.raises(MessageError, match="Thinking"):
        ask_step(ChatGLM4V(), step).invoke({"page": pages[0]})
