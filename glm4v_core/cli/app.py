"""The commands and their options; each command imports what it needs when it runs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glm4v_core.cli.plan import Preset, RunPlan, Task, page_options, split
from glm4v_core.concurrency.ordered import PAGES_IN_FLIGHT
from glm4v_core.errors import ConfigError
from glm4v_core.media.page_options import DEFAULTS, PageOptions
from glm4v_core.store.asking import Route
from glm4v_core.store.store import PAGES_FOUND
from glm4v_core.tasks.prompts import Language

if TYPE_CHECKING:
    from glm4v_core.model import Glm4v

app = typer.Typer(
    help="Run GLM-V vision-language models on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str | None,
    typer.Option(help="Checkpoint folder, hub id, `tiny`, or a server's name for it; default: GLM4V_MODEL, then tiny."),
]
Engine = Annotated[str | None, typer.Option(help="auto, transformers, vllm, server; default: GLM4V_ENGINE, then auto.")]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option", help="An engine's own setting as NAME=VALUE, such as slots=32, base_url=http://...; repeatable."
    ),
]
Prompts = Annotated[Language, typer.Option(help="Language of the prompts.")]
Labels = Annotated[list[str] | None, typer.Option(help="Labels to choose from, separated by commas; repeatable.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Pages in progress at the same time.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the results that are in the folder.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the results in the folder: keep what is done, retry what failed.")
]
Paths = Annotated[list[Path], typer.Argument(help="Pictures, PDF files, and folders of them.")]
Dpi = Annotated[float, typer.Option(help="Resolution at which PDF pages are rendered.")]
MaxPages = Annotated[int, typer.Option(help="A file with more pages fails.")]
Frames = Annotated[str, typer.Option(help="Pages to read of each file: all, first, or how many.")]
Password = Annotated[str | None, typer.Option(help="Opens encrypted PDF files.")]
ImageTokens = Annotated[int | None, typer.Option(help="Larger pages are scaled down to this.")]
Store = Annotated[Path, typer.Option(help="The page store, one file.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
STORE = Path("glm4v-pages.sqlite")
OutFolder = Annotated[Path, typer.Option(help="Folder for results.jsonl, .json, .csv and report.html.")]


@app.command()
def run(
    paths: Paths,
    out: OutFolder,
    labels: Labels = None,
    task: Annotated[
        Task | None, typer.Option(help="What to find out; default: workflow, or --prompt's answer.")
    ] = None,
    preset: Annotated[Preset | None, typer.Option(help="A ready-made task with its own prompt.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Your own prompt, by itself or instead of the one of ocr, caption or extract.")
    ] = None,
    fields: Annotated[list[str] | None, typer.Option(help="Fields to extract, separated by commas.")] = None,
    schema: Annotated[Path | None, typer.Option(help="JSON schema of what to extract.")] = None,
    model: Model = None,
    engine: Engine = None,
    option: EngineOptions = None,
    language: Prompts = "en",
    dpi: Dpi = DEFAULTS["dpi"],
    max_pages: MaxPages = DEFAULTS["max_pages"],
    frames: Frames = "all",
    password: Password = None,
    max_image_tokens: ImageTokens = None,
    concurrency: Concurrency = PAGES_IN_FLIGHT,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Read pages: text, summary and label of each into OUT, or another task.

    Exits with 0 when all pages are done, 1 when some failed, 2 when there is nothing to use, 130 when interrupted.
    """
    from glm4v_core.cli.run import run_pages

    plan = RunPlan(task, preset, prompt, split(labels), split(fields), schema, language)
    pages = page_options(frames, dpi=dpi, max_pages=max_pages, password=password, max_image_tokens=max_image_tokens)
    load = partial(_load, model, engine, option)
    status = run_pages(paths, out, plan, pages, load, concurrency=concurrency, overwrite=overwrite, resume=resume)
    raise typer.Exit(status)


@app.command()
def ask(
    image: Annotated[Path, typer.Argument(help="A picture; of a PDF, the first page.")],
    question: str,
    model: Model = None,
    engine: Engine = None,
    option: EngineOptions = None,
    thinking: Annotated[
        bool | None, typer.Option(help="Let the model think first; default: as the model does.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Upper bound on new tokens.")] = None,
) -> None:
    """Ask one question about one picture; the answer streams to standard output, the reasoning to standard error."""
    from glm4v_core.cli.ask import stream_answer

    stream_answer(partial(_load, model, engine, option), image, question, thinking=thinking, max_tokens=max_tokens)


@app.command("eval")
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Pictures, each with a truth file page.json beside page.png.")],
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json, answers.jsonl, worst.html.")] = None,
    model: Model = None,
    engine: Engine = None,
    option: EngineOptions = None,
    language: Prompts = "en",
    tasks: Annotated[list[str] | None, typer.Option(help="text, summary, label, fields, questions, tools.")] = None,
    labels: Labels = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first pages.")] = None,
    concurrency: Concurrency = PAGES_IN_FLIGHT,
    seed: Annotated[int, typer.Option(help="Seed of the random resampling that gives the confidence intervals.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Score a model over pages whose truth is known."""
    from glm4v_core.cli.eval import run_evaluation, tasks_from
    from glm4v_core.evaluation.scoring import EvaluationOptions

    options = EvaluationOptions(language, tasks_from(tasks), split(labels), limit, concurrency, seed=seed)
    run_evaluation(partial(_load, model, engine, option), folder, options, out, overwrite=overwrite)


@app.command()
def index(
    paths: Paths,
    store: Store = STORE,
    labels: Labels = None,
    keep_pictures: Annotated[
        bool,
        typer.Option(
            "--keep-pictures", help="Copy page pictures into the store; by default they are read from their files."
        ),
    ] = False,
    model: Model = None,
    engine: Engine = None,
    option: EngineOptions = None,
    language: Prompts = "en",
    dpi: Dpi = DEFAULTS["dpi"],
    max_pages: MaxPages = DEFAULTS["max_pages"],
    frames: Frames = "all",
    password: Password = None,
    max_image_tokens: ImageTokens = None,
    concurrency: Concurrency = PAGES_IN_FLIGHT,
    as_json: Json = False,
) -> None:
    """Read scans into a page store for `glm4v query`: only new and changed pages; files that are gone are removed.

    Exits with 0 when all pages are in the store, 1 when some failed, 2 when nothing usable came out.
    """
    from glm4v_core.cli.index import index_pages
    from glm4v_core.store.ingestion import IngestOptions

    pages = page_options(frames, dpi=dpi, max_pages=max_pages, password=password, max_image_tokens=max_image_tokens)
    options = IngestOptions(
        labels=split(labels), language=language, concurrency=concurrency, keep_pictures=keep_pictures
    )
    load = partial(_load, model, engine, option)
    raise typer.Exit(index_pages(paths, store, options, pages, load, as_json=as_json))


@app.command()
def query(
    question: str,
    store: Store = STORE,
    find: Annotated[
        str | None,
        typer.Option(help="Search words, if they differ from the question: a name, for example."),
    ] = None,
    pages: Annotated[int, typer.Option(min=1, help="How many pages to find and to ask the model about.")] = PAGES_FOUND,
    route: Annotated[Route, typer.Option(help="What the model is shown of a page: image, text or both.")] = "both",
    picture: Annotated[Path | None, typer.Option(help="File for the picture of the cited page, as PNG.")] = None,
    model: Model = None,
    engine: Engine = None,
    option: EngineOptions = None,
    language: Prompts = "en",
    password: Password = None,
    as_json: Json = False,
) -> None:
    """Answer a question from the pages of a store, with source and page.

    Exits with 0 when a page has an answer, 1 when none has one, 2 on an error.
    """
    from glm4v_core.cli.query import answer_question

    options = PageOptions() if password is None else PageOptions(password=password)
    load = partial(_load, model, engine, option)
    status = answer_question(
        question,
        store,
        load,
        find=find,
        k=pages,
        route=route,
        language=language,
        picture=picture,
        as_json=as_json,
        page_options=options,
    )
    raise typer.Exit(status)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what is installed, and which engines and models would run on this machine."""
    from glm4v_core.cli.doctor import print_findings
    from glm4v_core.engines.doctor import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps(findings.as_json(), ensure_ascii=False, indent=1))
    else:
        print_findings(findings)


def _load(model: str | None, engine: str | None, options: list[str] | None) -> Glm4v:
    from rich.console import Console

    from glm4v_core.model import Glm4v

    settings = dict(map(_setting, options or ()))
    with Console(stderr=True).status("Loading the model"):  # on a terminal only, and gone when it is loaded
        return Glm4v.load(model, engine, **settings)


def _setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; a value that is not JSON is a string."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--option {text!r} has no value.", hint="Write it as NAME=VALUE.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
