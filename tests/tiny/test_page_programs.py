"""The programs that write pages with truth: the evaluation accepts them, and one seed gives one result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import make_pages
import make_samples
import PIL.Image
import pytest
from tiny.documents import KINDS
from tiny.sequences import PRINTABLE

from glm4v_core.evaluation.truth import load_truths
from glm4v_core.media.pages import load_pages

pytestmark = pytest.mark.usefixtures("fonts")


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, bytes]:
    monkeypatch.setattr(sys, "argv", ["make_pages.py", str(folder), *options])
    make_pages.main()
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_truth_is_accepted_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    write(tmp_path, monkeypatch, "--count", "6", "--language", language)
    truths = load_truths(tmp_path)
    assert len(truths.pages) == 6
    assert truths.without == ()
    for path, truth in truths.pages.items():
        with PIL.Image.open(path) as page:
            assert max(page.size) <= 448
        assert truth.label in KINDS
        assert truth.text
        assert truth.summary
        assert all(value is None or value in truth.text for value in truth.fields.values())
        assert {str(value) for value in truth.fields.values() if value} == {q.answer for q in truth.questions}
        assert [task.tool.name for task in truth.tools] == [task.name for task in truth.tools]
        assert len(truth.tools) == 2


def test_noise_has_text_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, monkeypatch, "--count", "6", "--noise")
    for truth in load_truths(tmp_path).pages.values():
        assert truth.text
        assert set(truth.text) <= {*PRINTABLE, " ", "\n"}
        assert (truth.label, truth.summary, truth.questions, truth.tools) == (None, None, [], [])


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, other = (
        write(tmp_path / name, monkeypatch, "--count", "2", "--seed", seed)
        for name, seed in (("first", "5"), ("again", "5"), ("other", "6"))
    )
    assert first == again
    assert first["page-0001.png"] == other["page-0000.png"], "a page has a seed of its own"
    assert first["page-0000.png"] != other["page-0000.png"]


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(make_samples, "SAMPLES", tmp_path / "samples")
    monkeypatch.setattr(make_samples, "TRUTH", tmp_path / "samples.json")
    make_samples.main()
    return tmp_path


def test_samples_are_those_in_the_repository(samples: Path) -> None:
    """Pixels may differ between versions of the libraries that draw and pack them; names and words may not."""
    root = Path(make_samples.HERE).parent
    made, kept = (
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (samples / "samples", root / "samples")
    )
    assert made == kept
    truth = json.loads((samples / "samples.json").read_text())
    assert truth == json.loads((root / "tests" / "e2e" / "samples.json").read_text())
    for name, pages in truth.items():
        assert len(list(load_pages(samples / "samples" / name))) == len(pages)
