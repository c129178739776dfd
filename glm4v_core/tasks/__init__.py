"""The built-in tasks. A step builds the request about a page and converts the completion to a typed value."""

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
from glm4v_core.tasks.prompts import DOCUMENT, Language, prompt_of
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
"""Finish reasons that mean an incomplete answer."""


class Answering(Protocol):
    """A model that steps can ask: a `Glm4v`, or an adapter's wrapper around one."""

    async def agenerate(self, request: Request) -> Completion:
        """See `Glm4v.agenerate`."""
        ...


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """One question about a page image or about its text.

    Attributes:
        name: of the task, such as "ocr".
        prompt: the question or instruction.
        read: converts the completion to the step's value, or raises an OutputError.
        constraint: on the answer.
        thinking: off by default, since these answers are short and often constrained; None is the family's default.
        sampling: of the request.
    """

    name: str
    prompt: str
    read: Callable[[Completion], T]
    constraint: Constraint | None = None
    thinking: bool | None = False
    sampling: Sampling = Sampling()

    def request(self, source: Image | str) -> Request:
        """Build the request. The page comes before the question, so that all steps on a page share a prompt prefix."""
        message = Message.user(source, self.prompt) if isinstance(source, Image) else _about_text(source, self.prompt)
        return Request((message,), sampling=self.sampling, thinking=self.thinking, constraint=self.constraint)

    async def arun(self, model: Answering, source: Image | str) -> tuple[T, Completion]:
        """Ask the model; return the value and the completion from which it was read."""
        completion = await model.agenerate(self.request(source))
        return self.read(completion), completion


def ocr(language: Language = "en", *, family: Family | None = None) -> Step[str]:
    """Read the text of a page line by line. If `family` was trained on a fixed prompt, use that one."""
    if family is not None and family.ocr_prompt is not None:
        # Such a model never reasons, and was not trained on prompts that turn reasoning off.
        return Step("ocr", family.ocr_prompt, _text, thinking=None)
    return Step("ocr", prompt_of("ocr", language), _text)


def caption(language: Language = "en", *, prompt: str | None = None) -> Step[str]:
    """Describe a picture; `prompt` replaces the built-in wording."""
    return Step("caption", prompt or prompt_of("caption", language), _text)


def summarize(language: Language = "en") -> Step[str]:
    """Summarize a document in one sentence."""
    return Step("summarize", prompt_of("summarize", language), _text)


def ask(question: str) -> Step[str]:
    """Ask any question in the caller's words."""
    return Step("ask", question, _text)


def classify(labels: Sequence[str], language: Language = "en") -> Step[str]:
    """Choose exactly one of `labels`.

    Raises:
        ConstraintError: the list is empty, or a label is empty or repeated.
    """
    choices = _choices(labels)
    prompt = prompt_of("classify", language).format(labels=", ".join(choices.options))
    return _constrained("classify", prompt, choices, str)


def check_labels(labels: Sequence[str]) -> None:
    """Refuse labels that `classify` does not accept.

    Raises:
        ConstraintError: the list is empty, or a label is empty or repeated.
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
        wanted: field names (each value is then a string or null), a JSON schema, or a pydantic model.
        language: of the built-in prompt.
        prompt: replaces the built-in prompt.

    Raises:
        ConstraintError: the list of fields is empty, or the schema is not valid.
    """
    schema = _schema_of(wanted)
    text = prompt or prompt_of("extract", language).format(fields=_describe(schema))

    def value_of(answer: str) -> Any:
        return _filled(wanted, answer) if isinstance(wanted, type) else json.loads(answer)

    return _constrained("extract", text, JsonSchema(schema), value_of)


def _choices(labels: Sequence[str]) -> Choices:
    return Choices(tuple(label.strip() for label in labels))


def _about_text(text: str, prompt: str) -> Message:
    # Otherwise a document could close its wrapping and continue with instructions, as if the user had written them.
    return Message.user(DOCUMENT.format(text=text.replace("</document>", "</ document>")) + prompt)


def _text(completion: Completion) -> str:
    return completion.text.strip()


def _constrained(name: str, prompt: str, constraint: Constraint, value_of: Callable[[str], T]) -> Step[T]:
    def read(completion: Completion) -> T:
        answer = completion.text.strip()
        if completion.finish in INCOMPLETE:
            raise TruncatedOutputError(f"The answer ended early ({completion.finish}); it begins with {answer[:80]!r}.")
        check_answer(answer, constraint)
        return value_of(answer)

    check_constraint(constraint)  # checked now, so that a long run does not start with a step that cannot work
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
    """Describe a schema for the prompt: by its field names if it is flat, otherwise as JSON."""
    fields = schema.get("properties")
    if isinstance(fields, Mapping) and fields and all(_is_plain(field) for field in fields.values()):
        return ", ".join(fields)
    return json.dumps(schema, ensure_ascii=False)


def _is_plain(field: Any) -> bool:
    """Tell whether a field's name describes it well enough: it has a simple type and no further rules."""
    if not isinstance(field, Mapping) or not field.keys() <= {"type", "title", "default", "anyOf"}:
        return False
    return all(_is_plain(variant) for variant in field.get("anyOf", ()))


def _filled(wanted: type[Model], answer: str) -> Model:
    try:
        return wanted.model_validate_json(answer)
    except ValidationError as error:
        raise InvalidOutputError(f"The answer does not match {wanted.__name__}: {error}.") from error
