"""report.html: all pages with pictures and results, in one file that does not load any others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from glm4v_core.bulk.rows import Row, open_text, writing
from glm4v_core.html.page import macros
from glm4v_core.tasks.prompts import Language
from glm4v_core.tasks.workflow import Column

REPORT = "report.html"
MOST_PICTURES = 500
"""Maximum number of pages with pictures, so that a browser can open the report. Further successful pages are left out;
failures are always included."""

WORDS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "title": "Pages read",
        "text": "Text",
        "summary": "Summary",
        "label": "Label",
        "caption": "Caption",
        "fields": "Fields",
        "answer": "Answer",
        "page": "page {page} of {pages}",
        "totals": "{pages} pages: {done} done, {failed} failed, {warned} with warnings.",
        "left_out": "{left_out} further pages are in results.csv and results.json only.",
        "warnings": "Incomplete",
    },
    "zh": {
        "title": "页面识别结果",
        "text": "文字",
        "summary": "摘要",
        "label": "类别",
        "caption": "描述",
        "fields": "字段",
        "answer": "回答",
        "page": "第 {page} 页，共 {pages} 页",
        "totals": "共 {pages} 页：成功 {done}，失败 {failed}，有警告 {warned}。",
        "left_out": "另有 {left_out} 页只在 results.csv 和 results.json 中。",
        "warnings": "不完整",
    },
}


class ReportWriter:
    """Writes the report row by row. The totals are written last, and the style shows them first."""

    def __init__(
        self, folder: Path, columns: Sequence[Column], language: Language, *, most_pictures: int = MOST_PICTURES
    ) -> None:
        self._columns = columns
        self._most_pictures = most_pictures
        self._words = WORDS[language]
        self._pictures = self._left_out = 0
        self._html = macros("report.html.jinja")
        self._path = folder / REPORT
        self._file = open_text(self._path)
        self._put(self._html.start(self._words["title"], language))

    def close(self) -> None:
        with writing(self._path):
            self._file.close()

    @property
    def is_full(self) -> bool:
        """Whether further successful pages would be left out."""
        return self._pictures >= self._most_pictures

    def write(self, row: Row, picture: str | None) -> None:
        """Add one page, unless it succeeded and the report is full.

        Args:
            row: of the page.
            picture: of the page as a data URI; None if there is none.
        """
        succeeded = row["status"] == "ok"
        if succeeded and self.is_full:
            self._left_out += 1
            return
        if succeeded or picture is not None:
            self._pictures += 1
        self._put(self._html.article(row, picture, self._columns, self._words))

    def finish(self, totals: Mapping[str, int]) -> None:
        """End the page with its totals."""
        lines = [self._words["totals"].format(**totals)]
        if self._left_out:
            lines.append(self._words["left_out"].format(left_out=self._left_out))
        self._put(self._html.finish(self._words["title"], lines))

    def _put(self, text: str) -> None:
        with writing(self._path):
            self._file.write(text)
