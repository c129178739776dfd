"""Truth files: the true content of a page, as a JSON file next to its image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from glm4v_core.errors import InputError
from glm4v_core.media.files import find_files
from glm4v_core.types import Tool

Scalar = str | int | float | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Question(_Strict):
    """A question with its answer or several accepted answers."""

    question: str
    answer: str | list[str]

    @property
    def answers(self) -> list[str]:
        return [self.answer] if isinstance(self.answer, str) else self.answer


class ToolTask(_Strict):
    """An instruction that should lead to one call of `tool`."""

    tool: Tool
    instruction: str
    name: str
    arguments: dict[str, Any]


class Truth(_Strict):
    """The known truth about a page. Questions are asked only about the fields that are given.

    `about` is for notes of the page's author, such as seed, font or source.
    """

    text: str | None = None
    summary: str | None = None
    label: str | None = None
    fields: dict[str, Scalar] = {}
    questions: list[Question] = []
    tools: list[ToolTask] = []
    about: Any = None


@dataclass(frozen=True, slots=True)
class Truths:
    """Images with their truth, in natural order, and the images without truth."""

    pages: Mapping[Path, Truth]
    without: tuple[Path, ...]


def load_truths(folder: Path) -> Truths:
    """Pair every image under `folder` with the JSON file of the same stem.

    Raises:
        InputError: a truth file is not valid, or there are no truth files.
    """
    images = find_files([folder]).files
    pages = {image: _read(image.with_suffix(".json")) for image in images if image.with_suffix(".json").exists()}
    if not pages:
        raise InputError(
            f"There is no image with a truth file under {folder}.",
            hint='Put page.json beside page.png, for example {"text": "...", "label": "invoice"}.',
        )
    return Truths(pages, tuple(image for image in images if image not in pages))


def _read(path: Path) -> Truth:
    try:
        return Truth.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"The truth file {path} cannot be used: {error}.", hint="Correct or remove it.") from error
