"""`glm4v index` and `glm4v query`: folders of scans into a page store, and questions to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from glm4v_core.cli.run import DONE, INTERRUPTED, NOTHING_USABLE, SOME_FAILED, progress_bar
from glm4v_core.errors import ConfigError, ImageNotFoundError, InputError
from glm4v_core.media.files import FileStamp, find_files
from glm4v_core.media.page_options import PageOptions
from glm4v_core.model import Glm4v
from glm4v_core.store.asking import Evidence, Route, SourcedAnswer, choose_answer, find_evidence, page_request
from glm4v_core.store.ingestion import IngestedPage, Ingestion, IngestOptions, aingest
from glm4v_core.store.store import PageStore
from glm4v_core.tasks import INCOMPLETE
from glm4v_core.tasks.prompts import Language
from glm4v_core.tasks.results import PageFailure

STOPPED = "Stopped early; the pages so far are in the store. The same command goes on."
NO_PAGE = "No page has any of these words; --find takes others."
NO_ANSWER = "No page answers this."


def index_pages(
    paths: Sequence[Path],
    store_path: Path,
    options: IngestOptions,
    page_options: PageOptions,
    load: Callable[[], Glm4v],
    *,
    as_json: bool,
) -> int:
    """Bring the store up to date and return the exit status; paths and the store are checked before loading."""
    if not any(FileStamp.of(path).modified for path in paths):
        raise ImageNotFoundError(f"There is no file or folder {', '.join(map(str, paths[:5]))}.")
    files = len(find_files(paths).files)
    if not files and not store_path.is_file():  # in one that is there, pages may have to be forgotten
        raise InputError("There is no picture and no PDF in these folders.", hint="Name files or their folder.")
    with PageStore(store_path) as store:
        with load() as model:
            try:
                outcome = _ingest(store, model, paths, options, page_options, files)
            except KeyboardInterrupt:
                Console(stderr=True).print(STOPPED)
                return INTERRUPTED
        pages = store.count()
    if as_json:
        _print_json(_outcome_json(outcome, pages))
    else:
        _print_outcome(outcome, pages, store_path)
    if not (outcome.read or outcome.kept) and outcome.failed:
        return NOTHING_USABLE
    return SOME_FAILED if outcome.failed else DONE


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
    """Print the answer and its source; the model is loaded only when there is a page to ask.

    Args:
        question: of the user.
        store_path: made by `glm4v index`.
        load: loads the model.
        find: words that lead to the pages, if they are not those of the question.
        k: pages to find.
        route: what of a page is shown to the model.
        language: of the prompts.
        picture: file for the picture of the cited page.
        as_json: print one JSON object.
        page_options: to open pages with, over those of the index.

    Returns:
        The exit status: 1 when no page answers.
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
        _print_json(_answer_json(answer, picture))
    else:
        _print_answer(answer, picture)
    return SOME_FAILED if answer.text is None else DONE


def _ingest(
    store: PageStore,
    model: Glm4v,
    paths: Sequence[Path],
    options: IngestOptions,
    page_options: PageOptions,
    expected: int,
) -> Ingestion:
    with progress_bar() as progress:
        bar = progress.add_task("Pages", total=expected)
        done = 0

        def on_page(page: IngestedPage) -> None:
            nonlocal done, expected
            done += 1
            if page.page.number > 1:  # only now is it known that the file has so many
                expected += 1
            progress.update(bar, completed=done, total=max(done, expected))

        return asyncio.run(aingest(store, model, paths, options, on_page, **page_options))


def _ask(
    question: str, evidence: Sequence[Evidence], route: Route, language: Language, load: Callable[[], Glm4v]
) -> SourcedAnswer:
    if not evidence:
        return choose_answer(question, (), ())
    with load() as model:
        family = model.info.family
        requests = [page_request(question, page, route, language=language, family=family) for page in evidence]
        return choose_answer(question, evidence, model.generate_many(requests))


def _save_picture(store: PageStore, citation: Evidence, file: Path, page_options: PageOptions) -> None:
    image = citation.image or store.image(citation.sha256, **page_options)
    try:
        file.write_bytes(image.png())
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written: {error.strerror or error}.", hint="Choose another file."
        ) from error


def _outcome_json(outcome: Ingestion, pages: int) -> dict[str, Any]:
    return {
        "pages": pages,
        "read": outcome.read,
        "kept": outcome.kept,
        "failed": [_failure_json(failure) for failure in outcome.failed],
        "forgotten": list(outcome.forgotten),
        "skipped": [str(path) for path in outcome.skipped],
    }


def _failure_json(failure: PageFailure) -> dict[str, Any]:
    return {"source": failure.page.source, "page": failure.page.number, "error": asdict(failure.error)}


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


def _print_json(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    Console(soft_wrap=True).print(_escaped(text))


def _print_outcome(outcome: Ingestion, pages: int, store: Path) -> None:
    console = Console(soft_wrap=True)
    for failure in outcome.failed:
        place = f"{failure.page.source}, page {failure.page.number}" if failure.page.number else failure.page.source
        console.print(_escaped(f"{place}: {failure.error.code}: {failure.error.message}", "red"))
    parts = [
        f"{outcome.read} pages read, {outcome.kept} kept, {len(outcome.failed)} failed",
        f"{len(outcome.forgotten)} files forgotten" if outcome.forgotten else "",
        f"{len(outcome.skipped)} other files skipped" if outcome.skipped else "",
    ]
    line = "; ".join(part for part in parts if part)
    console.print(_escaped(f"{line}. {store} holds {pages} pages."))


def _print_answer(answer: SourcedAnswer, picture: Path | None) -> None:
    console, cited = Console(soft_wrap=True), answer.citation
    if answer.text is None or cited is None:
        console.print(_escaped(NO_ANSWER if answer.asked else NO_PAGE, "yellow"))
        return
    console.print(_escaped(answer.text))
    place = f"{cited.place.source}, page {cited.place.number} of {cited.place.count}"
    console.print(_escaped(f"[{place}]" + (f" {picture}" if picture else ""), "dim"))
    finish = next(page.completion.finish for page in answer.asked if page.evidence is cited)
    if finish in INCOMPLETE:
        Console(stderr=True).print(f"[yellow]The answer is incomplete ({finish}).[/yellow]")


def _escaped(text: str, style: str = "") -> Text:
    """Escape what a terminal cannot show: bytes of a file name that are not UTF-8."""
    return Text(text.encode("utf-8", "backslashreplace").decode("utf-8"), style)
