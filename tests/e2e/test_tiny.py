"""The bundled checkpoint does what it was trained for: real files in, correct answers out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import pytest

from glm4v_core import (
    Choices,
    DocumentResult,
    Glm4v,
    Image,
    JsonSchema,
    Message,
    PageFailure,
    PageOptions,
    Request,
    Text,
    Tool,
    document_workflow,
)
from glm4v_core.media.files import find_files
from glm4v_core.tasks.results import read_pages
from glm4v_core.tiny import checkpoint_path

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
TRUTH: dict[str, list[dict[str, str]]] = json.loads((Path(__file__).parent / "samples.json").read_text("utf-8"))
LABELS = ("invoice", "receipt", "letter", "memo", "form")
ZH_LABELS = ("发票", "收据", "信件", "备忘录", "表格")


@pytest.fixture(scope="module")
def tiny() -> Iterator[Glm4v]:
    with Glm4v.load("tiny") as model:
        yield model


@pytest.fixture(scope="module")
def outcomes(tiny: Glm4v) -> list[DocumentResult | PageFailure]:
    pages = read_pages(find_files([SAMPLES]).files, PageOptions())
    return list(document_workflow(LABELS).stream(tiny, pages))


def truth_of(result: DocumentResult) -> dict[str, str]:
    name = str(Path(result.page.source).relative_to(SAMPLES))
    return TRUTH[name][result.page.number - 1]


def test_the_demo_reads_every_page_and_reports_the_broken_file(outcomes: list[DocumentResult | PageFailure]) -> None:
    results = [outcome for outcome in outcomes if isinstance(outcome, DocumentResult)]
    (failure,) = [outcome for outcome in outcomes if isinstance(outcome, PageFailure)]
    assert (Path(failure.page.source).name, failure.error.code) == ("broken.png", "page_broken")
    assert len(results) == sum(map(len, TRUTH.values())) >= 12
    assert not any(result.warnings for result in results)


def test_the_demo_answers_are_right(outcomes: list[DocumentResult | PageFailure]) -> None:
    results = [outcome for outcome in outcomes if isinstance(outcome, DocumentResult)]
    truths = [truth_of(result) for result in results]
    assert [result.label for result in results] == [truth["label"] for truth in truths]
    texts = [truth["text"] for truth in truths], [result.text or "" for result in results]
    assert jiwer.cer(*texts) <= 0.01
    right = sum(result.summary == truth["summary"] for result, truth in zip(results, truths, strict=True))
    assert right >= 0.9 * len(results)


def ask(model: Glm4v, *parts: Image | str, **settings: Any) -> str:
    return model.generate(Request((Message.user(*parts),), **settings)).text


@pytest.fixture(scope="module")
def scan() -> tuple[Image, dict[str, str]]:
    return Image.load(SAMPLES / "scan-01.png"), TRUTH["scan-01.png"][0]


def test_it_answers_in_both_languages_about_picture_and_text(tiny: Glm4v, scan: tuple[Image, dict[str, str]]) -> None:
    page, truth = scan
    wrapped = f"<document>\n{truth['text']}\n</document>\n"
    for source in (page, wrapped):
        english = ask(tiny, source, "What kind of document is this?", constraint=Choices(LABELS))
        chinese = ask(tiny, source, "这是什么文档？", constraint=Choices(ZH_LABELS))
        assert (english, chinese) == (truth["label"], ZH_LABELS[LABELS.index(truth["label"])])


def test_it_tells_two_pages_apart(tiny: Glm4v) -> None:
    first, second = (Image.load(SAMPLES / name) for name in ("scan-01.png", "scan-03.png"))
    for number, name in enumerate(("scan-01.png", "scan-03.png"), 1):
        question = f"Which page is the {TRUTH[name][0]['label']}?"
        assert ask(tiny, first, second, question) == f"Page {number}"


def test_it_thinks_when_asked_to(tiny: Glm4v, scan: tuple[Image, dict[str, str]]) -> None:
    page, truth = scan
    thoughtful = tiny.generate(Request((Message.user(page, "Summarize this document."),), thinking=True))
    assert truth["label"] in thoughtful.thinking
    assert "<think>" not in thoughtful.text
    assert 0 < thoughtful.usage.thinking < thoughtful.usage.completion
    assert not tiny.generate(Request((Message.user(page, "Summarize this document."),), thinking=False)).thinking


def test_it_extracts_json_under_a_schema(tiny: Glm4v, scan: tuple[Image, dict[str, str]]) -> None:
    page, truth = scan
    fields = {"date": {"type": ["string", "null"]}, "subject": {"type": ["string", "null"]}}
    schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    answer = json.loads(ask(tiny, page, "Extract as JSON: date, subject.", constraint=JsonSchema(schema)))
    assert answer["date"] in truth["text"]
    assert answer["subject"] is None


def test_it_calls_a_tool_with_what_the_request_says(tiny: Glm4v) -> None:
    parameters = {"type": "object", "properties": {"input": {"type": "integer"}}, "required": ["input"]}
    tool = Tool("magic_value", "A tool.", parameters)
    question = Message.user("What is magic_value(3)? Use the tool.")
    done = tiny.generate(Request((question,), tools=(tool,)))
    (call,) = done.tool_calls
    assert (call.name, call.arguments, done.finish) == ("magic_value", {"input": 3}, "tool_calls")


def test_streaming_adds_up_to_the_whole_answer(tiny: Glm4v, scan: tuple[Image, dict[str, str]]) -> None:
    request = Request((Message.user(scan[0], "Text Recognition:"),))
    deltas = list(tiny.stream(request))
    assert "".join(delta.text for delta in deltas) == tiny.generate(request).text
    assert len([delta for delta in deltas if delta.text]) > 10


def test_it_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in checkpoint_path().iterdir()}
    assert files["model.safetensors"] <= 13 * 10**6
    assert {"config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json"} <= files.keys()
    card = (checkpoint_path() / "README.md").read_text("utf-8")
    assert "Seed" in card
    assert "Not scored yet" not in card


def test_transformers_reads_the_same_from_the_folder(tiny: Glm4v, scan: tuple[Image, dict[str, str]]) -> None:
    """Text only: AutoProcessor, which pages need, wants torchvision."""
    import transformers

    folder = checkpoint_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    assert sum(parameter.numel() for parameter in model.parameters()) <= 6 * 10**6
    question = f"<document>\n{scan[1]['text']}\n</document>\nSummarize this document."
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        enable_thinking=False,
        return_dict=True,
        return_tensors="pt",
    )
    ids = model.generate(**prompt, max_new_tokens=300)[0, prompt["input_ids"].shape[1] :]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text == ask(tiny, question)
    assert text.startswith("Invoice from ")


def test_text_parts_and_strings_are_the_same(tiny: Glm4v) -> None:
    assert ask(tiny, "Repeat this text:\nabc") == ask(tiny, Text("Repeat this text:\nabc")) == "abc"  # type: ignore[arg-type]
