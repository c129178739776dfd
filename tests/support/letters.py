"""A page store of three letters about three cities, as images of different widths, and a model that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import PIL.Image

from glm4v_core import Glm4v, Image, PageStore, Request, ScriptedEngine, Text, ingest

TEXTS = {
    1: "LETTER\nFrom: Mona Holt\nCity: Oslo\nTotal 11.00",
    2: "LETTER\nFrom: Glacier Ltd\nCity: Turin\nTotal 22.00",
    3: "LETTER\nFrom: 张伟\n城市：上海\nTotal 33.00",
}
ABSENT = "It is not on the page."


def width_of(request: Request) -> int:
    """Return the number of the page that a request shows, or 0."""
    images = [part for message in request.messages for part in message.parts if isinstance(part, Image)]
    return images[0].width // 28 if images else 0


def words_of(request: Request) -> str:
    return "\n".join(part.text for message in request.messages for part in message.parts if isinstance(part, Text))


def read(request: Request) -> str:
    """Answer as a model that reads these pages, and a question with the last word of the page's last line."""
    words = words_of(request)
    number = width_of(request) or next(number for number, text in TEXTS.items() if text in words)
    if words.startswith("Read"):
        return TEXTS[number]
    return "A letter." if words.startswith("Summarize") else TEXTS[number].split()[-1]


def save_pages(folder: Path, numbers: Any = TEXTS) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.png" for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        PIL.Image.new("RGB", (28 * number, 28), "white").save(path)
    return paths


def fill(store: PageStore, folder: Path) -> None:
    save_pages(folder)
    ingest(store, Glm4v.from_engine(ScriptedEngine(read)), folder)
