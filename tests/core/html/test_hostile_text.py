"""Whatever a page, a file name, a label or an error contains stays text in every HTML page."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm4v_core.bulk.report import ReportWriter
from glm4v_core.bulk.rows import row_of
from glm4v_core.errors import Failure
from glm4v_core.evaluation.metrics import Score, Tally
from glm4v_core.evaluation.report import write_report
from glm4v_core.evaluation.scoring import Evaluation, ScoredAnswer, ScoredPage
from glm4v_core.media.pages import PageInfo
from glm4v_core.tasks.results import DocumentResult, PageFailure
from glm4v_core.tasks.workflow import Column

COLUMNS: tuple[Column, ...] = ("text", "summary", "label", "caption", "fields", "answer")
PICTURE = "data:image/jpeg;base64,AAAA"
PIECES = (
    *("<script>alert(1)</script>", "</pre>", "</title>", "</style>", "<!--", "-->", "<img src=x onerror=a()>"),
    *('"', "'", '" onload="a()', "' onload='a()", "&lt;", "&#60;", "&", "<", ">", "{{ 7*7 }}", "{% endmacro %}", "{#"),
)
ALLOWED: Mapping[str, frozenset[str]] = {
    "html": frozenset({"lang"}),
    "meta": frozenset({"charset", "http-equiv", "content", "name"}),
    "article": frozenset({"class"}),
    "section": frozenset({"class"}),
    "img": frozenset({"src", "alt", "loading"}),
    "span": frozenset({"class"}),
    "p": frozenset({"class"}),
    "div": frozenset({"class"}),
    "pre": frozenset({"tabindex"}),
    **dict.fromkeys("head title style body header h1 h2 h3 strong table tr th td del ins".split(), frozenset()),
}
hostile = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), min_size=1, max_size=5).map("".join).filter(bool)


class Shown(HTMLParser):
    """Parses a page as a browser does: elements, their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.alternatives: list[str | None] = []
        self.sources: list[str | None] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        assert {name for name, _ in attrs} <= ALLOWED[tag]
        self.tags.append(tag)
        if tag == "img":
            self.alternatives.append(dict(attrs)["alt"])
            self.sources.append(dict(attrs)["src"])

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        pytest.fail(f"A comment: {data}")


def report(text: str) -> Shown:
    page = PageInfo(text, 2, 3)
    result = DocumentResult(
        page, text=text, summary=text, label=text, caption=text, fields=[1], answer=text, warnings=(text,)
    )
    failure = PageFailure(page, Failure(text, text, text))
    with tempfile.TemporaryDirectory() as folder:
        with closing(ReportWriter(Path(folder), COLUMNS, "en")) as writer:
            writer.write(row_of(result, COLUMNS), PICTURE)
            writer.write(row_of(failure, COLUMNS), None)
            writer.finish({"pages": 2, "done": 1, "failed": 1, "warned": 1})
        return Shown((Path(folder) / "report.html").read_bytes().decode())


def worst_page(text: str) -> Shown:
    scores = {"cer": Tally(1.0, 1)}
    answers = (
        ScoredAnswer("text", text, text, text, "stop", None, scores),
        ScoredAnswer("text", "", text, None, None, Failure(text, text, text), scores),
    )
    page = ScoredPage(f"none/{text}", answers, {}, 0.5)
    evaluation = Evaluation(text, text, "en", 1, 0, {"cer": Score(0.5, 0.1, 0.9, 2)}, {}, (page,))
    with tempfile.TemporaryDirectory() as folder:
        write_report(evaluation, Path(folder))
        return Shown((Path(folder) / "worst.html").read_bytes().decode())


@settings(max_examples=60, deadline=None)
@given(hostile)
def test_a_report_shows_hostile_text_and_keeps_its_elements(text: str) -> None:
    harmless, shown = report("x"), report(text)
    assert shown.tags == harmless.tags
    assert shown.alternatives == [text]
    assert shown.sources == [PICTURE]
    # On the first page heading, text, summary, label, caption, answer and warning; on the second heading and error.
    assert shown.text.count(text) >= 11


@settings(max_examples=60, deadline=None)
@given(hostile)
def test_an_evaluation_shows_hostile_text_and_keeps_its_elements(text: str) -> None:
    marks = ("del", "ins")
    harmless, shown = worst_page("x"), worst_page(text)
    assert [tag for tag in shown.tags if tag not in marks] == [tag for tag in harmless.tags if tag not in marks]
    assert shown.text.count(text) >= 8


def test_without_jinja2_the_install_line_is_shown() -> None:
    code = "import sys; sys.modules['jinja2'] = None; from glm4v_core.html.page import template; template('any')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingDependencyError: Reports need jinja2. Hint: pip install 'glm4v[cli]'" in run.stderr
