"""Score questions over a folder of pages with truth files, by each route: pages found and answers right.

python scripts/make_pages.py out/questions --count 200 --seed 970000
python scripts/score_questions.py out/questions --out out/scores/questions

Each question asks for a field of a page that is identified by another fact, found on that page only: a number, a
party, a date. It is asked in two forms: "named" puts both into one question, as in "Marsh Ltd: What is the total?", by
which pages are found and asked; "apart" finds pages by "Marsh Ltd" and asks them "What is the total?".
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Literal

sys.path[:0] = [str(Path(__file__).parent.parent)]

from rich.console import Console
from rich.table import Table

from glm4v_core import Glm4v, PageStore
from glm4v_core.concurrency.ordered import in_order
from glm4v_core.evaluation.metrics import Score, Tally, anls, is_same, score_all
from glm4v_core.evaluation.truth import Truth, load_truths
from glm4v_core.store import Route, aingest, choose_answer, page_request
from glm4v_core.store.asking import find_evidence
from glm4v_core.store.ingestion import IngestOptions
from glm4v_core.tasks.prompts import Language

Form = Literal["named", "apart"]
ROUTES: tuple[Route, ...] = ("text", "image", "both")
FORMS: tuple[Form, ...] = ("named", "apart")
QUESTIONS_AT_ONCE = 8
PAGES_ASKED = 3
IDENTIFYING = ("number", "sender", "recipient", "date")


@dataclass(frozen=True, slots=True)
class PageQuestion:
    """A question that one page answers, and the mark that identifies the page."""

    source: str
    mark: str
    question: str
    answers: Sequence[str]

    def put(self, form: Form) -> tuple[str, str]:
        """Return the words to find pages by, and what to ask them."""
        whole = f"{self.mark}: {self.question}"
        return (whole, whole) if form == "named" else (self.mark, self.question)


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with what was found and said in one form by one route."""

    asked: PageQuestion
    form: Form
    route: Route
    found: Sequence[str]
    answer: str | None

    @property
    def scores(self) -> Mapping[str, Tally]:
        answer = self.answer or ""
        right = any(is_same(truth, answer) for truth in self.asked.answers)
        return {
            f"{self.form}: recall@1": Tally(self.asked.source in self.found[:1], 1),
            f"{self.form}: recall@{PAGES_ASKED}": Tally(self.asked.source in self.found, 1),
            f"{self.form}: exact, {self.route}": Tally(right, 1),
            f"{self.form}: anls, {self.route}": Tally(anls(self.asked.answers, answer), 1),
        }


def questions(pages: Mapping[Path, Truth], seed: int = 0) -> Iterator[PageQuestion]:
    """Draw one question per page that has an identifying field of its own besides what is asked for."""
    counts: dict[str, int] = {}
    for truth in pages.values():
        for value in set(map(str, truth.fields.values())):
            counts[value] = counts.get(value, 0) + 1
    for index, (path, truth) in enumerate(pages.items()):
        random = Random(f"{seed} {index}")
        named = [truth.fields.get(name) for name in IDENTIFYING]
        own = [str(value) for value in named if value is not None and counts[str(value)] == 1]
        pairs = [(mark, asked) for mark in own for asked in truth.questions if mark not in asked.answers]
        if pairs:
            mark, asked = random.choice(pairs)
            yield PageQuestion(str(path), mark, asked.question, asked.answers)


async def answers(
    model: Glm4v, store: PageStore, asked: Sequence[PageQuestion], routes: Sequence[Route], language: Language
) -> AsyncGenerator[Answered, None]:
    """Ask every question in both forms by every route."""

    async def work(item: tuple[PageQuestion, Form, Route]) -> Answered:
        asked, form, route = item
        words, question = asked.put(form)
        evidence = await asyncio.to_thread(find_evidence, store, words, k=PAGES_ASKED, route=route)
        found = [page.place.source for page in evidence]
        # As in `aquery_pages`, but a page is asked only when no better-ranked one had an answer.
        for page in evidence:
            request = page_request(question, page, route, language=language, family=model.info.family)
            answer = choose_answer(question, [page], [await model.agenerate(request)])
            if answer.text is not None:
                return Answered(asked, form, route, found, answer.text)
        return Answered(asked, form, route, found, None)

    items = [(question, form, route) for question in asked for form in FORMS for route in routes]
    async for answered in in_order(items, work, QUESTIONS_AT_ONCE):
        yield answered


async def score(
    model: Glm4v,
    folder: Path,
    store: PageStore,
    *,
    routes: Sequence[Route] = ROUTES,
    language: Language = "en",
    limit: int | None = None,
    resamples: int = 1000,
) -> tuple[Mapping[str, Score], list[Answered]]:
    """Read the pages of a folder, named by its absolute path, into the store, and score the questions about them."""
    pages = load_truths(folder).pages
    await aingest(store, model, list(pages), IngestOptions(language=language))
    asked = list(questions(pages))[:limit]
    done = [answered async for answered in answers(model, store, asked, routes, language)]
    ways = len(FORMS) * len(routes)
    by_question = [done[first : first + ways] for first in range(0, len(done), ways)]
    tallies = [{name: tally for one in group for name, tally in one.scores.items()} for group in by_question]
    return score_all(tallies, resamples=resamples, seed=0), done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="folder for questions.json, answers.jsonl and the page store")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--language", choices=("en", "zh"), default="en")
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=ROUTES)
    parser.add_argument("--limit", type=int, help="ask at most this many questions")
    options = parser.parse_args()
    out: Path = options.out or options.folder
    out.mkdir(parents=True, exist_ok=True)
    with Glm4v.load(options.model) as model, PageStore(out / "pages.sqlite") as store:
        scoring = score(
            model,
            options.folder.absolute(),
            store,
            routes=options.routes,
            language=options.language,
            limit=options.limit,
        )
        scores, done = asyncio.run(scoring)
        pages = store.count()
    asked = len(done) // (len(FORMS) * len(options.routes))
    table = Table("measure", "value", "95 % interval", title=f"{asked} questions over {pages} pages, {options.model}")
    for name, value in scores.items():
        table.add_row(name, f"{value.value:.1%}", f"{value.low:.1%} to {value.high:.1%}")
    Console().print(table)
    summary = {name: asdict(value) for name, value in scores.items()}
    (out / "questions.json").write_text(json.dumps({"pages": pages, "questions": asked, "scores": summary}, indent=1))
    lines = [json.dumps(asdict(answered), ensure_ascii=False) + "\n" for answered in done]
    (out / "answers.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
