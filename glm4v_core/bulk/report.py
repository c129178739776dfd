"""report.html: every page with its picture and what was found on it, in one file that loads nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from glm4v_core.bulk.rows import Row, open_text, writing
from glm4v_core.html.page import PAGE_END, page_start, picture_html
from glm4v_core.tasks.prompts import Language
from glm4v_core.tasks.workflow import Column

REPORT = "report.html"
MOST_PICTURES = 500
"""Beyond these, pages stay out of the report, so that a browser can open it; failures are all in it."""

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
    """Writes the report while the run goes on; the totals come last and are shown first."""

    def __init__(
        self, folder: Path, columns: Sequence[Column], language: Language, *, most_pictures: int = MOST_PICTURES
    ) -> None:
        self._columns = columns
        self._most_pictures = most_pictures
        self._words = WORDS[language]
        self._pictures = self._left_out = 0
        self._path = folder / REPORT
        self._file = open_text(self._path)
        self._put(page_start(self._words["title"], language))

    def close(self) -> None:
        with writing(self._path):
            self._file.close()

    @property
    def is_full(self) -> bool:
        """Whether pictures of further pages would be left out."""
        return self._pictures >= self._most_pictures

    def write(self, row: Row, picture: str | None) -> None:
        if row["status"] == "ok" and self.is_full:
            self._left_out += 1
            return
        self._pictures += row["status"] == "ok" or picture is not None
        self._put(article(row, picture, self._columns, self._words))

    def finish(self, totals: Mapping[str, int]) -> None:
        """Close the page with its totals."""
        lines = [self._words["totals"].format(**totals)]
        if self._left_out:
            lines.append(self._words["left_out"].format(left_out=self._left_out))
        paragraphs = "".join(f'<p class="dim">{escape(line)}</p>' for line in lines)
        self._put(f"<header><h1>{escape(self._words['title'])}</h1>{paragraphs}</header>\n{PAGE_END}")

    def _put(self, text: str) -> None:
        with writing(self._path):
            self._file.write(text)


def article(row: Row, picture: str | None, columns: Sequence[Column], words: Mapping[str, str]) -> str:
    """Write one page."""
    place = words["page"].format(page=row["page"], pages=row["pages"]) if row["pages"] > 1 else ""
    parts = [f'<h2>{escape(row["source"])} <span class="dim">{escape(place)}</span></h2>']
    if row["error"]:
        parts.append(_failure(row["error"]))
    found = [column for column in columns if row[column] is not None or not row["error"]]
    parts += [_value(words[column], column, row[column]) for column in found]
    if row["warnings"]:
        parts.append(f'<p class="warning">{escape(words["warnings"])}: {escape(", ".join(row["warnings"]))}</p>')
    body = "\n".join(parts)
    image = picture_html(picture, row["source"])
    side = "" if image else ' class="wide"'
    return f'<article class="{row["status"]}">\n{image}<section{side}>\n{body}\n</section>\n</article>\n'


def _failure(error: Mapping[str, str]) -> str:
    return (
        f'<p class="error"><strong>{escape(error["code"])}</strong>: {escape(error["message"])}</p>'
        f'<p class="dim">{escape(error["hint"])}</p>'
    )


def _value(heading: str, column: Column, value: Any) -> str:
    if column == "label":
        shown = f'<span class="label">{escape(value)}</span>'
    elif column == "fields":
        shown = f"<pre>{escape(json.dumps(value, ensure_ascii=False, indent=2))}</pre>"
    elif column == "text":
        shown = f'<pre tabindex="0">{escape(value)}</pre>'
    else:
        shown = f"<p>{escape(value)}</p>"
    return f"<div><h3>{escape(heading)}</h3>{shown}</div>"
