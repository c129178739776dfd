"""Reading, summarizing and classifying pages as an LCEL runnable whose parts can be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from glm4v_core import Completion, DocumentResult, Family, Image, Page, Step, Text, tasks
from glm4v_core.errors import MessageError
from glm4v_core.hosts import WORKFLOW_PAGES_IN_FLIGHT, ImageSource, Language, Part, call_settings
from langchain_glm4v._convert import image_block
from langchain_glm4v._results import to_completion

T = TypeVar("T")

PageSource = Page | Image | ImageSource
State = dict[str, Any]
"""The input of each part: `page`, and the values of the parts before it."""


@dataclass(frozen=True, slots=True)
class StepAnswer(Generic[T]):
    """A step's value, with the completion it was read from."""

    name: str
    value: T
    completion: Completion


def ask_step(llm: Runnable[LanguageModelInput, AIMessage], step: Step[T]) -> Runnable[State, StepAnswer[T]]:
    """Return a part of a workflow that asks one step of `glm4v_core.tasks` about the page.

    Args:
        llm: a ChatGLM4V, or a runnable around one, such as `llm.with_retry()`.
        step: its constraint and sampling are bound to the calls.
    """
    return (
        RunnableLambda(partial(_question, step), name=f"{step.name}_prompt")
        | llm.bind(**_call_options(step))
        | RunnableLambda(partial(_read, step), name=f"{step.name}_answer")
    )


def document_workflow(
    llm: Runnable[LanguageModelInput, AIMessage],
    *,
    labels: Sequence[str] = (),
    language: Language = "en",
    family: Family | None = None,
    text: Runnable[State, Any] | None = None,
    summary: Runnable[State, Any] | None = None,
    label: Runnable[State, Any] | None = None,
) -> Runnable[PageSource, DocumentResult]:
    """Return a runnable that reads, summarizes and classifies a page.

    This is LangChain's form of `glm4v_core.document_workflow`, which asks the same steps without a host. The text is
    read first and the rest at the same time, since the page's prompt prefix is then computed. `batch` takes many
    pages; `batch_as_completed` finishes page by page instead of step by step.

    Args:
        llm: a ChatGLM4V, or a runnable around one.
        labels: to choose from; without any, pages are not classified.
        language: of the prompts.
        family: of the model, for one that was trained on its own prompt for reading.
        text: replaces reading; gets a mapping with `page` and returns the text.
        summary: replaces summarizing; gets `text` too.
        label: replaces classifying; gets `text` too.

    Raises:
        ConstraintError: a label is empty or given twice.
    """
    text = text or ask_step(llm, tasks.ocr(language, family=family))
    others = {"summary": summary or ask_step(llm, tasks.summarize(language))}
    if label is not None or labels:
        others["label"] = label or ask_step(llm, tasks.classify(labels, language))
    workflow = (
        RunnableLambda(_open, name="page")
        | RunnablePassthrough.assign(text=text)
        | RunnableLambda(_unpack, name="read")
        | RunnablePassthrough.assign(**others)
        | RunnableLambda(_unpack, name="understood")
        | RunnableLambda(_result, name="result")
    )
    return workflow.with_config(run_name="document_workflow", max_concurrency=WORKFLOW_PAGES_IN_FLIGHT)


def _open(source: PageSource) -> State:
    if not isinstance(source, Page):
        image = source if isinstance(source, Image) else Image.load(source)
        source = Page(image, image.provenance.source, image.provenance.frame + 1, image.provenance.frames)
    return {"page": source, "completions": {}}


def _question(step: Step[Any], state: State) -> list[BaseMessage]:
    (message,) = step.request(state["page"].image).messages
    return [HumanMessage([_block(part) for part in message.parts])]


def _block(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            return image_block(part)
    raise MessageError(f"A step cannot ask with a {type(part).__name__}.")


def _call_options(step: Step[Any]) -> dict[str, Any]:
    options = call_settings(step.request(""))
    return options if step.thinking is None else options | {"reasoning": step.thinking}


def _read(step: Step[T], message: AIMessage) -> StepAnswer[T]:
    completion = to_completion(message)
    return StepAnswer(step.name, step.read(completion), completion)


def _unpack(state: State) -> State:
    """Replace answers with their values; custom parts return plain values already."""
    answers = {key: answer for key, answer in state.items() if isinstance(answer, StepAnswer)}
    completions = {answer.name: answer.completion for answer in answers.values()}
    values = {key: answer.value for key, answer in answers.items()}
    return {**state, **values, "completions": state["completions"] | completions}


def _result(state: State) -> DocumentResult:
    values = {key: value for key, value in state.items() if key not in ("page", "completions")}
    return DocumentResult.of(state["page"], values, state["completions"])
