"""A document workflow over many pages as a LangGraph graph, which resumes after an interruption.

Import this module by its own name; it needs `pip install 'glm4v[langgraph]'`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, TypedDict, Unpack

from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import get_runtime
from langgraph.types import Checkpointer, Overwrite, RetryPolicy, Send
from pydantic import TypeAdapter

from glm4v_core import DocumentResult, Failure, Glm4vError, Page, PageFailure, PageInfo, PageOptions
from glm4v_core.errors import is_of_one_page, is_transient
from glm4v_core.hosts import WORKFLOW_PAGES_IN_FLIGHT, Outcome, check_page_options, list_pages, load_page

FIND_PAGES, READ_PAGE = "find_pages", "read_page"
RETRY = RetryPolicy(retry_on=is_transient)
"""Three attempts, with a wait that grows from about a second."""

_RESULT = TypeAdapter(DocumentResult)
_FAILURE = TypeAdapter(PageFailure)


class PageTask(TypedDict):
    """A page to read; number 0 is a document that cannot be opened."""

    path: str
    number: int
    count: int


class DocumentInput(TypedDict):
    """The input of a graph: files and folders."""

    paths: list[str]


class DocumentState(DocumentInput):
    """What a checkpoint holds: paths, page numbers and texts as plain data, and never pixels.

    Attributes:
        outcomes: in the order of the pages; `outcomes_of` reads them.
    """

    pages: list[PageTask]
    outcomes: Annotated[list[dict[str, Any]], operator.add]


def document_graph(
    workflow: Runnable[Page, DocumentResult],
    *,
    checkpointer: Checkpointer = None,
    retry: RetryPolicy = RETRY,
    **options: Unpack[PageOptions],
) -> CompiledStateGraph[DocumentState, None, DocumentInput, DocumentState]:
    """Run a workflow over the pages of many files: `find_pages` lists them, then `read_page` runs once for each.

    A page is the unit of work. Its node opens it by path and number, runs all steps of the workflow on it, and leaves
    only plain data in the state, so an interrupted run resumes with the missing pages. A page that fails becomes a
    `PageFailure` among the results; only an error that would hit every page, such as a dead engine, ends the run. Up
    to 32 pages are in progress at the same time, unless `max_concurrency` in the config says otherwise.

    Args:
        workflow: made by `langchain_glm4v.document_workflow`.
        checkpointer: saves the state of a run under the `thread_id` in its config.
        retry: how often and how soon to try again. Only transient failures of the engine are retried.
        **options: of `glm4v_core.load_pages`, such as `dpi` and `max_pages`.

    Example:
        ```python
        graph = document_graph(document_workflow(ChatGLM4V(), labels=["invoice", "letter"]))
        for outcome in outcomes_of(graph.invoke({"paths": ["scans/"]})):
            print(outcome.page.source, outcome.page.number, outcome)
        ```
    """
    check_page_options(**options)
    retry = retry._replace(retry_on=is_transient)
    read = RunnableLambda(partial(_open, options), name="open") | workflow | RunnableLambda(_plain, name="result")
    failed = RunnableLambda(partial(_failed, retry.max_attempts), name="failure")
    tolerant = read.with_fallbacks([failed], exceptions_to_handle=(Glm4vError,), exception_key="error")
    # A copy, since the fallback writes the error into its input, which is part of the state.
    node: Runnable[PageTask, dict[str, Any]] = RunnableLambda(_copy) | tolerant
    builder = StateGraph(DocumentState, input_schema=DocumentInput)
    builder.add_node(FIND_PAGES, partial(_find_pages, options))
    builder.add_node(READ_PAGE, node, input_schema=PageTask, retry_policy=retry)
    builder.add_edge(START, FIND_PAGES)
    builder.add_conditional_edges(FIND_PAGES, _fan_out, [READ_PAGE])
    return builder.compile(checkpointer, name="document_graph").with_config(max_concurrency=WORKFLOW_PAGES_IN_FLIGHT)


def outcomes_of(state: Mapping[str, Any]) -> list[Outcome]:
    """Read the results and failures in a graph's state, in the order of the pages.

    Args:
        state: what the graph returned, or `graph.get_state(config).values`.
    """
    return [(_FAILURE if "error" in plain else _RESULT).validate_python(plain) for plain in state.get("outcomes", ())]


def _find_pages(options: PageOptions, state: DocumentInput) -> dict[str, Any]:
    found = list_pages(state["paths"], options)
    tasks = [PageTask(path=page.source, number=page.number, count=page.count) for page in found]
    return {"pages": tasks, "outcomes": Overwrite([])}  # there may be those of an earlier run


def _fan_out(state: DocumentState) -> list[Send]:
    return [Send(READ_PAGE, task) for task in state["pages"]]


def _copy(task: PageTask) -> dict[str, Any]:
    return {**task}


def _open(options: PageOptions, task: Mapping[str, Any]) -> Page:
    return load_page(task["path"], task["number"], **options)


def _plain(result: DocumentResult) -> dict[str, Any]:
    return {"outcomes": [_RESULT.dump_python(result, mode="json")]}


def _failed(attempts: int, task: Mapping[str, Any]) -> dict[str, Any]:
    error: Glm4vError = task["error"]
    if not is_of_one_page(error) or (is_transient(error) and _attempt() < attempts):
        raise error
    page = PageInfo(task["path"], task["number"], task["count"])
    return {"outcomes": [_FAILURE.dump_python(PageFailure(page, Failure.of(error)), mode="json")]}


def _attempt() -> int:
    """Return the number of LangGraph's attempt at this node, counted from 1."""
    execution = get_runtime().execution_info
    return execution.node_attempt if execution is not None else 1
