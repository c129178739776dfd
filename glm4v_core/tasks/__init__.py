"""The built-in questions about a page: a step builds the request and turns the completion into a typed value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, overload

from pydantic import BaseModel, ValidationError

from glm4v_core.dialect.families import Family
from glm4v_core.dialect.grammar import check_answer, check_constraint
from glm4v_core.errors import ConstraintError, InvalidOutputError, TruncatedOutputError
from glm4v_core.media.image import Image
from glm4v_core.tasks.prompts import DOCUMENT, PROMPTS, Language
from glm4v_core.types import Choices, Completion, Constraint, FinishReason, JsonSchema, Message, Request, Sampling

__all__ = [
    "INCOMPLETE",
    "Answering",
    "Step",
    "ask",
    "caption",
    "check_labels",
    "classify",
    "extract",
    "ocr",
    "summarize",
]

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)
Schema = Mapping[str, Any]

INCOMPLETE: frozenset[FinishReason] = frozenset({"length", "length_in_thinking", "repetition", "cancelled"})
"""Finish reasons of an incomplete answer."""


class Answering(Protocol):
    """A model that answers steps: a `Glm4v`, or an adapter's wrapper of one."""

    async def agenerate(self, request: Request) -> Completion: ...


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """One question about a page image or about its text.

    Attributes:
        read: turns the completion into the step's value, or raises an OutputError.
        thinking: off by default, since these answers are short and often constrained; None is the family's default.
    """

    name: str
    prompt: str
    read: Callable[[Completion], T]
    constraint: Constraint | None = None
    thinking: bool | None = False
    sampling: Sampling = Sampling()

    def request(self, source: Image | str) -> Request:
        """Build the request. The page comes first, so that all steps on it share a prompt prefix."""
        message = Message.user(source, self.prompt) if isinstance(source, Image) else _about_text(source, self.prompt)
        return Request((message,), sampling=self.sampling, thinking=self.thinking, constraint=self.constraint)

    async def arun(self, model: Answering, source: Image | str) -> tuple[T, Completion]:
        """Ask the model. Returns the value, and the completion from which it was read."""
        completion = await model.agenerate(self.request(source))
        return self.read(completion), completion


def ocr(language: Language = "en", *, family: Family | None = None) -> Step[str]:
    """Read the text of a page, line by line, with the prompt that `family` was trained on if it has one."""
    if family is not None and family.ocr_prompt is not None:
        # Such a model never thinks, and was not trained on prompts with a switch for it.
        return Step("ocr", family.ocr_prompt, _text, thinking=None)
    return Step("ocr", PROMPTS["ocr"][language], _text)


def caption(language: Language = "en", *, prompt: str | None = None) -> Step[str]:
    """Describe a picture."""
    return Step("caption", prompt or PROMPTS["caption"][language], _text)


def summarize(language: Language = "en") -> Step[str]:
    """Say in one sentence what a document is about."""
    return Step("summarize", PROMPTS["summarize"][language], _text)


def ask(question: str) -> Step[str]:
    """Answer a free question."""
    return Step("ask", question, _text)


def classify(labels: Sequence[str], language: Language = "en") -> Step[str]:
    """Choose exactly one of `labels`.

    Raises:
        ConstraintError: there are no labels, or one is empty or repeated.
    """
    choices = _choices(labels)
    prompt = PROMPTS["classify"][language].format(labels=", ".join(choices.options))
    return _constrained("classify", prompt, choices, str)


def check_labels(labels: Sequence[str]) -> None:
    """Refuse labels that `classify` does not take.

    Raises:
        ConstraintError: no labels, an empty one, or one that is there twice.
    """
    check_constraint(_choices(labels))


@overload
def extract(wanted: type[Model], language: Language = "en", *, prompt: str | None = None) -> Step[Model]: ...


@overload
def extract(
    wanted: Sequence[str] | Schema, language: Language = "en", *, prompt: str | None = None
) -> Step[Mapping[str, Any]]: ...


def extract(
    wanted: Sequence[str] | Schema | type[BaseModel], language: Language = "en", *, prompt: str | None = None
) -> Step[Any]:
    """Read fields as JSON.

    Args:
        wanted: field names (each a string or null), a JSON schema, or a pydantic model.
        language: of the built-in wording.
        prompt: replaces that wording.

    Raises:
        ConstraintError: there are no fields, or it is not a JSON schema.
    """
    schema = _schema_of(wanted)
    text = prompt or PROMPTS["extract"][language].format(fields=_describe(schema))

    def value_of(answer: str) -> Any:
        return _filled(wanted, answer) if isinstance(wanted, type) else json.loads(answer)

    return _constrained("extract", text, JsonSchema(schema), value_of)


def _choices(labels: Sequence[str]) -> Choices:
    return Choices(tuple(label.strip() for label in labels))


def _about_text(text: str, prompt: str) -> Message:
    # A document must not be able to close its wrapping and continue as the user.
    return Message.user(DOCUMENT.format(text=text.replace("</document>", "</ document>")) + prompt)


def _text(completion: Completion) -> str:
    return completion.text.strip()


def _constrained(name: str, prompt: str, constraint: Constraint, value_of: Callable[[str], T]) -> Step[T]:
    def read(completion: Completion) -> T:
        answer = completion.text.strip()
        if completion.finish in INCOMPLETE:
            raise TruncatedOutputError(f"The answer ended early ({completion.finish}); it begins {answer[:80]!r}.")
        check_answer(answer, constraint)
        return value_of(answer)

    check_constraint(constraint)  # now, so that a long run does not start with a step that cannot work
    return Step(name, prompt, read, constraint)


def _schema_of(wanted: Sequence[str] | Schema | type[BaseModel]) -> Schema:
    if isinstance(wanted, type):
        return wanted.model_json_schema()
    if isinstance(wanted, Mapping):
        return wanted
    if isinstance(wanted, str) or not wanted:
        raise ConstraintError(f"The fields must be a list of names, not {wanted!r}.", hint="Name at least one field.")
    fields = {name: {"type": ["string", "null"]} for name in wanted}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _describe(schema: Schema) -> str:
    """Name the fields of a flat schema; write out any other schema, since names alone would not describe it."""
    fields = schema.get("properties")
    if isinstance(fields, Mapping) and fields and all(_is_plain(field) for field in fields.values()):
        return ", ".join(fields)
    return json.dumps(schema, ensure_ascii=False)


def _is_plain(field: Any) -> bool:
    if not isinstance(field, Mapping) or not field.keys() <= {"type", "title", "default", "anyOf"}:
        return False
    return all(_is_plain(variant) for variant in field.get("anyOf", ()))


def _filled(wanted: type[Model], answer: str) -> Model:
    try:
        return wanted.model_validate_json(answer)
    except ValidationError as error:
        raise InvalidOutputError(f"The answer does not match {wanted.__name__}: {error}.") from error
