"""report.html is one self-contained file: it runs nothing, loads nothing, and renders hostile text harmless."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import PIL.Image
import pytest

from glm4v_core.bulk.report import ReportWriter
from glm4v_core.bulk.rows import row_of
from glm4v_core.errors import Failure
from glm4v_core.html.page import data_uri
from glm4v_core.media.image import Image
from glm4v_core.media.pages import PageInfo
from glm4v_core.tasks.prompts import Language
from glm4v_core.tasks.results import DocumentResult, PageFailure
from glm4v_core.tasks.workflow import Column

COLUMNS: tuple[Column, ...] = ("text", "summary", "label", "fields")
EVIL = '</pre><script>alert(1)</script><img src="https://evil.example/x.png">'
TOTALS = {"pages": 3, "done": 2, "failed": 1, "warned": 1}


class Elements(HTMLParser):
    """Collects every element with its attributes, and checks that all are closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def picture() -> str:
    return data_uri(Image.load(PIL.Image.new("RGB", (1240, 1754), "white")))


def result(**values: object) -> DocumentResult:
    filled = {"text": EVIL, "summary": EVIL, "label": "发票", "fields": {"a": EVIL}, **values}
    return DocumentResult(PageInfo(f"{EVIL}.pdf", 2, 3), **filled)  # type: ignore[arg-type]


def written(
    folder: Path,
    *outcomes: tuple[DocumentResult | PageFailure, str | None],
    language: Language = "en",
    most_pictures: int = 9,
) -> str:
    with closing(ReportWriter(folder, COLUMNS, language, most_pictures=most_pictures)) as writer:
        for outcome, picture in outcomes:
            writer.write(row_of(outcome, COLUMNS), picture)
        writer.finish(TOTALS)
    return (folder / "report.html").read_text("utf-8")


def test_hostile_text_stays_text(tmp_path: Path, picture: str) -> None:
    failure = PageFailure(PageInfo(EVIL), Failure("page_broken", EVIL, EVIL))
    text = written(tmp_path, (result(warnings=(EVIL,)), picture), (failure, None))
    elements = Elements(text)
    assert elements.attributes("script") == []
    assert [image["src"] for image in elements.attributes("img")] == [picture]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not {name for _, attributes in elements.found for name in attributes if name.startswith("on")}


def test_the_content_security_policy_allows_only_the_reports_own_style(tmp_path: Path) -> None:
    text = written(tmp_path)
    style = re.search("<style>(.*)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policies = [meta["content"] for meta in Elements(text).attributes("meta") if "http-equiv" in meta]
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]
    assert "http" not in text.replace("http-equiv", "")
    assert "style=" not in text


def test_the_page_image_is_a_small_jpeg(picture: str) -> None:
    kind, _, data = picture.partition(",")
    assert kind == "data:image/jpeg;base64"
    with PIL.Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert shown.format == "JPEG"
        assert shown.height == 720


def test_values_and_failures_are_shown(tmp_path: Path, picture: str) -> None:
    failure = PageFailure(PageInfo("gone.png"), Failure("image_not_found", "No file.", "Check the path."))
    text = written(tmp_path, (result(text="12 < 13", warnings=("ocr:length",)), picture), (failure, None))
    assert "12 &lt; 13" in text
    assert '<span class="label">发票</span>' in text
    assert "page 2 of 3" in text
    assert "Incomplete: ocr:length" in text
    assert '<article class="failed">' in text
    assert "<strong>image_not_found</strong>: No file." in text
    assert "Check the path." in text
    assert "3 pages: 2 done, 1 failed, 1 with warnings." in text


def test_a_failed_page_still_shows_the_results_of_its_other_steps(tmp_path: Path, picture: str) -> None:
    found = DocumentResult(PageInfo("scan.png", 1, 1), text="12 < 13", label="发票")
    failure = PageFailure(found.page, Failure("out_of_memory", "Too big.", "Scale it down."), found)
    text = written(tmp_path, (failure, picture))
    assert "<strong>out_of_memory</strong>: Too big." in text
    assert "12 &lt; 13" in text
    assert '<span class="label">发票</span>' in text
    assert "Summary" not in text
    assert [image["src"] for image in Elements(text).attributes("img")] == [picture]


def test_images_of_failed_pages_count_towards_the_limit(tmp_path: Path, picture: str) -> None:
    found = DocumentResult(PageInfo("scan.png", 1, 1), text="x")
    failure = PageFailure(found.page, Failure("out_of_memory", "Too big.", "Scale it down."), found)
    with closing(ReportWriter(tmp_path, COLUMNS, "en", most_pictures=2)) as writer:
        for full in (False, True):
            writer.write(row_of(failure, COLUMNS), picture)
            assert writer.is_full is full


def test_a_report_can_be_in_chinese(tmp_path: Path) -> None:
    text = written(tmp_path, (result(), None), language="zh")
    assert '<html lang="zh-CN">' in text
    assert "第 2 页，共 3 页" in text
    assert "共 3 页：成功 2，失败 1，有警告 1。" in text
    assert '<meta charset="utf-8">' in text


def test_past_the_limit_only_failures_are_added(tmp_path: Path) -> None:
    failure = PageFailure(PageInfo("late.png"), Failure("image_not_found", "No file.", "Check the path."))
    pages = [(result(text=f"number {place}"), None) for place in range(5)]
    text = written(tmp_path, *pages, (failure, None), most_pictures=2)
    assert [f"number {place}" in text for place in range(5)] == [True, True, False, False, False]
    assert "late.png" in text
    assert "3 further pages are in results.csv and results.json only." in text
