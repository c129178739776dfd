"""`glm4v query`: a question to a page store, answered with source and page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from glm4v_core.cli.terminal import DONE, SOME_FAILED, print_json, printable
from glm4v_core.concurrency.own_loop import run_in_own_loop
from glm4v_core.errors import ConfigError
from glm4v_core.media.page_options import PageOptions
from glm4v_core.model import Glm4v
from glm4v_core.store.asking import Evidence, Route, SourcedAnswer, ask_pages, find_evidence
from glm4v_core.store.store import PageStore
from glm4v_core.tasks import INCOMPLETE
from glm4v_core.tasks.prompts import Language

NO_PAGE = "No page has any of these words; --find takes others."
NO_ANSWER = "No page answers this."


def answer_question(
    question: str,
    store_path: Path,
    load: Callable[[], Glm4v],
    *,
    find: str | None,
    k: int,
    route: Route,
    language: Language,
    picture: Path | None,
    as_json: bool,
    page_options: PageOptions,
) -> int:
    """Print the answer and its source; the model is loaded only if there is a page to ask about.

    Args:
        question: of the user.
        store_path: made by `glm4v index`.
        load: loads the model.
        find: search words, if they differ from the question.
        k: how many pages to find.
        route: what the model is shown of a page.
        language: of the prompts.
        picture: file for the image of the cited page.
        as_json: print one JSON object.
        page_options: for opening pages; they override those of the index.

    Returns:
        The exit status: 1 if no page has an answer.
    """
    if not question.strip():
        raise ConfigError("The question is empty.")
    with PageStore(store_path, create=False) as store:
        if not store.count():
            raise ConfigError(f"The page store {store_path} has no pages.", hint="Fill it with `glm4v index FOLDER`.")
        evidence = find_evidence(store, find or question, k=k, route=route, **page_options)
        answer = _ask(question, evidence, route, language, load)
        if picture is not None and answer.citation is not None:
            _save_picture(store, answer.citation, picture, page_options)
    if as_json:
        print_json(_answer_json(answer, picture))
    else:
        _print_answer(answer, picture)
    return SOME_FAILED if answer.text is None else DONE


def _ask(
    question: str, evidence: Sequence[Evidence], route: Route, language: Language, load: Callable[[], Glm4v]
) -> SourcedAnswer:
    if not evidence:
        return SourcedAnswer(question, None, None, ())
    with load() as model:
        family = model.info.family
        return run_in_own_loop(ask_pages(model, question, evidence, route, language=language, family=family))


def _save_picture(store: PageStore, citation: Evidence, file: Path, page_options: PageOptions) -> None:
    image = citation.image or store.image(citation.sha256, **page_options)
    try:
        file.write_bytes(image.png())
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written: {error.strerror or error}.", hint="Choose another file."
        ) from error


def _answer_json(answer: SourcedAnswer, picture: Path | None) -> dict[str, Any]:
    cited = answer.citation
    return {
        "question": answer.question,
        "answer": answer.text,
        "citation": _place_json(cited) if cited else None,
        "picture": str(picture) if picture and cited else None,
        "asked": [
            {**_place_json(page.evidence), "answer": page.text, "finish": page.completion.finish}
            for page in answer.asked
        ],
    }


def _place_json(evidence: Evidence) -> dict[str, Any]:
    place = evidence.place
    return {"source": place.source, "page": place.number, "pages": place.count, "sha256": evidence.sha256}


def _print_answer(answer: SourcedAnswer, picture: Path | None) -> None:
    console, cited = Console(soft_wrap=True), answer.citation
    if answer.text is None or cited is None:
        console.print(printable(NO_ANSWER if answer.asked else NO_PAGE, "yellow"))
        return
    console.print(printable(answer.text))
    place = f"{cited.place.source}, page {cited.place.number} of {cited.place.count}"
    console.print(printable(f"[{place}]" + (f" {picture}" if picture else ""), "dim"))
    finish = next(page.completion.finish for page in answer.asked if page.evidence is cited)
    if finish in INCOMPLETE:
        Console(stderr=True).print(f"[yellow]The answer is incomplete ({finish}).[/yellow]")
