"""Options of `glm4v run` -> the workflow they describe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

from glm4v_core.errors import ConfigError
from glm4v_core.media.page_options import PageOptions, check_page_options
from glm4v_core.tasks import Step, ask, caption, classify, extract, ocr
from glm4v_core.tasks.prompts import PRESETS, Language
from glm4v_core.tasks.workflow import Workflow, document_workflow

Task = Literal["workflow", "ocr", "caption", "classify", "extract"]
Preset = Literal["product-copy", "lines", "alt-text", "product-audit"]

AUDIT: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "compliant": {"type": "boolean"},
        "problems": {"type": "array", "items": {"type": "string"}},
        "visible_text": {"type": "string"},
    },
    "required": ["compliant", "problems", "visible_text"],
    "additionalProperties": False,
}
"""The schema of the answers to the preset product-audit."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to find out about each page, as given on the command line."""

    task: Task | None = None
    preset: Preset | None = None
    prompt: str | None = None
    labels: Sequence[str] = ()
    fields: Sequence[str] = ()
    schema: Path | None = None
    language: Language = "en"

    def workflow(self) -> Workflow:
        """Build the steps, with the built-in prompts; see `Workflow.for_family`.

        Raises:
            ConfigError: options that contradict each other, or one that is missing.
        """
        self._check()
        if self.preset is not None:
            return self._ready_made(self.preset)
        if self.prompt is not None and self.task is None:
            return Workflow({"answer": ask(self.prompt)})
        match self.task:
            case "workflow" | None:
                return document_workflow(self.labels, language=self.language)
            case "ocr":
                return Workflow({"text": self._worded(ocr(self.language))})
            case "caption":
                return Workflow({"caption": caption(self.language, prompt=self.prompt)})
            case "classify":
                return Workflow({"label": classify(self.labels, self.language)})
            case "extract":
                return Workflow({"fields": extract(self._wanted(), self.language, prompt=self.prompt)})
            case _:
                assert_never(self.task)

    def _ready_made(self, preset: Preset) -> Workflow:
        prompt = PRESETS[preset][self.language]
        match preset:
            case "lines":
                return Workflow({"text": ocr(self.language)})
            case "product-copy" | "alt-text":
                return Workflow({"caption": caption(self.language, prompt=prompt)})
            case "product-audit":
                return Workflow({"fields": extract(AUDIT, self.language, prompt=prompt)})
            case _:
                assert_never(preset)

    def _worded(self, step: Step[str]) -> Step[str]:
        return step if self.prompt is None else Step(step.name, self.prompt, step.read)

    def _wanted(self) -> Sequence[str] | Mapping[str, Any]:
        if self.schema is None:
            return self.fields
        try:
            schema = json.loads(self.schema.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"The schema {self.schema} cannot be read: {error}.") from error
        if not isinstance(schema, dict):
            raise ConfigError(f"The schema {self.schema} is not a JSON object.")
        return schema

    def _check(self) -> None:
        for problem in self._problems():
            raise ConfigError(problem, hint="See `glm4v run --help`.")

    def _problems(self) -> Iterator[str]:
        """Yield a message for each contradiction between options, and for each one that is missing."""
        if self.preset and (self.task or self.prompt):
            yield "--preset is a task with a prompt: it cannot go with --task or --prompt."
        if self.task == "classify" and not self.labels:
            yield "--task classify needs --labels."
        if twice := sorted({label for label in self.labels if self.labels.count(label) > 1}):
            yield f"--labels must be different; {', '.join(twice)} is there twice."
        if self.labels and not self._classifies():
            yield "--labels are only for the tasks workflow and classify."
        if self.prompt and self.task in ("workflow", "classify"):
            yield "--prompt cannot replace the several prompts of a workflow, nor that of classify."
        if self.task == "extract" and bool(self.fields) == (self.schema is not None):
            yield "--task extract needs either --fields or --schema."
        if self.task != "extract" and (self.fields or self.schema):
            yield "--fields and --schema are only for --task extract."

    def _classifies(self) -> bool:
        return self.task in ("workflow", "classify") or (self.task, self.preset, self.prompt) == (None, None, None)


def split(values: Iterable[str] | None) -> tuple[str, ...]:
    """Split at commas, including Chinese ones."""
    pieces = [piece.strip() for value in values or () for piece in re.split("[,，、]", value)]
    return tuple(piece for piece in pieces if piece)


def page_options(
    frames: str, *, dpi: float, max_pages: int, password: str | None, max_image_tokens: int | None
) -> PageOptions:
    """Gather the options for reading files.

    Raises:
        ConfigError: a value that `load_pages` does not accept.
    """
    chosen: Any = int(frames) if frames.isdecimal() else frames
    options = PageOptions(
        frames=chosen, dpi=dpi, max_pages=max_pages, password=password, max_image_tokens=max_image_tokens
    )
    check_page_options(**options)
    return options
