"""Scanned pages by a question: a retriever over a page store, and a chain that answers from the pages it finds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NotRequired, TypedDict, Unpack

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from pydantic import ConfigDict, Field

from glm4v_core import Evidence, Image, PageOptions, PageStore, Request, SourcedAnswer, StoredPage, Text
from glm4v_core.errors import ConfigError
from glm4v_core.hosts import PAGES_FOUND, Language, PageAsking, Route, choose_answer, open_each, page_facts, page_id
from langchain_glm4v._convert import image_block
from langchain_glm4v._results import to_completion
from langchain_glm4v.documents import family_of

State = dict[str, Any]


class PageQuestion(TypedDict):
    """A question, and search words if they differ from those of the question."""

    question: str
    find: NotRequired[str]


class PageRetriever(BaseRetriever):
    """Finds pages of a store by the words of a question, best match first.

    The metadata of a document is `source`, `page` (from 0), `total_pages`, `sha256`, `summary`, `model`, `score`, and
    `label` if there is one. For a page in several files it names the first; `store.get` lists all.

    Example:
        ```python
        store = PageStore("glm4v-pages.sqlite")
        ingest(store, llm.load(), "scans/")
        PageRetriever(store=store).invoke("What is the total on the invoice from Marsh & Thorne?")
        ```
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    store: PageStore = Field(exclude=True, repr=False)
    k: int = Field(default=PAGES_FOUND, ge=1)
    """Most pages to find; a call may override it, as in `invoke(question, k=1)`."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        found = self.store.search(query, self.k if k is None else k)
        return [page_document(each.page, score=each.score) for each in found]


def page_document(page: StoredPage, **metadata: Any) -> Document:
    """Make a document of a stored page, for a vector store that replaces the lexical index.

    The id comes from the page's content hash, so that a page is not added twice.

    Args:
        page: of a `PageStore`.
        **metadata: further metadata.
    """
    return Document(page_content=page.text, metadata={**page_facts(page), **metadata}, id=page_id(page.sha256))


def page_query_chain(
    llm: Runnable[LanguageModelInput, AIMessage],
    retriever: Runnable[str, list[Document]],
    *,
    store: PageStore | None = None,
    route: Route = "both",
    language: Language = "en",
    **options: Unpack[PageOptions],
) -> Runnable[str | PageQuestion, SourcedAnswer]:
    """Answer questions from scanned pages: find pages, ask about each separately, and cite the best that answers.

    The input is a question, or a dict of `question` and `find`: search words such as a name, or terms in the language
    of the pages, which the model does not see.

    An answer comes with its page and the page's image. The content of a page is data: its text is wrapped, and tools
    bound to the model are not offered while it reads.

    Args:
        llm: a ChatGLM4V, or a runnable around one.
        retriever: a `PageRetriever`, or another retriever whose documents have the metadata of `page_document`, such
            as that of a vector store.
        store: where images come from; without it, from the files that the metadata names.
        route: what the model is shown of a page.
        language: of the words around the question.
        **options: for opening pages; with a store, they override those of its index.

    Raises:
        ConfigError: a setting is out of range.
    """
    if store is None and isinstance(retriever, PageRetriever):
        store = retriever.store
    asking = PageAsking(store, route, language, options)
    prompts = RunnableLambda(partial(_prompts, llm, asking), name="prompts")
    chain = (
        RunnableLambda(_begin, name="begin")
        | RunnablePassthrough.assign(documents=itemgetter("find") | retriever)
        | RunnablePassthrough.assign(evidence=RunnableLambda(partial(_open, asking), name="pages"))
        | RunnablePassthrough.assign(messages=prompts | llm.bind(tools=None, tool_choice=None, reasoning=False).map())
        | RunnableLambda(_choose, name="answer")
    )
    return chain.with_config(run_name="page_query_chain")


def _begin(asked: str | PageQuestion) -> State:
    if isinstance(asked, str):
        asked = PageQuestion(question=asked)
    if set(asked) not in ({"question"}, {"question", "find"}):
        raise ConfigError(f"The input has {', '.join(asked)}.", hint="Pass a question, or a dict of question and find.")
    return {"question": asked["question"], "find": asked.get("find") or asked["question"]}


def _open(asking: PageAsking, state: State) -> list[Evidence]:
    documents: Sequence[Document] = state["documents"]
    opened = open_each(lambda found: asking.open(found.metadata, found.page_content), documents)
    return [evidence for _, evidence in opened]


def _prompts(llm: Runnable[LanguageModelInput, AIMessage], asking: PageAsking, state: State) -> list[list[BaseMessage]]:
    question, pages = state["question"], state["evidence"]
    family = family_of(llm) if pages else None  # may load the model
    return [[_message(asking.request(question, page, family))] for page in pages]


def _choose(state: State) -> SourcedAnswer:
    return choose_answer(
        state["question"], state["evidence"], [to_completion(message) for message in state["messages"]]
    )


def _message(request: Request) -> HumanMessage:
    parts = [part for message in request.messages for part in message.parts]
    return HumanMessage(
        [
            image_block(part) if isinstance(part, Image) else {"type": "text", "text": part.text}
            for part in parts
            if isinstance(part, (Image, Text))
        ]
    )
