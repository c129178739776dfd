"""Checked settings: pydantic validates them, and its errors are translated into those of `errors.py`."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from glm4v_core.errors import ConfigError, Glm4vError, UnknownOptionError


class Options(BaseModel):
    """A frozen set of options, checked when it is created. Subclasses declare the options as fields with bounds.

    Raises:
        UnknownOptionError: a name that is not a field of this class.
        ConfigError: a value of the wrong type or out of bounds. Values of fields with `repr=False` are not shown.
    """

    # The schema is built with the first instance, so that importing a module that declares options stays cheap.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    owner: ClassVar[str]
    """Whose options these are, as the subject of an error message, such as "The vLLM engine"."""

    # Type checkers see the signature that pydantic derives from the fields.
    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            hidden = {name for name, field in type(self).model_fields.items() if not field.repr}
            try:
                super().__init__(**values)
                return
            except ValidationError as error:
                problem = to_config_error(error, self.owner, self.names(), hidden)
            raise problem

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options, for the hint of an error."""
        return tuple(cls.model_fields)


def to_config_error(
    error: ValidationError, owner: str, known: Iterable[str], hidden: Container[str] = ()
) -> Glm4vError:
    """Translate pydantic's error into one of ours.

    Raise the result outside the `except` block. Otherwise it would be chained to pydantic's error, which contains the
    values, and some of them are secret.

    Args:
        error: unknown options are reported first, otherwise the first wrong one.
        owner: whose options they are, as the subject of a sentence.
        known: names of all options.
        hidden: options whose values must not be shown.
    """
    found = error.errors(include_url=False)
    unknown = sorted(_option(problem) for problem in found if problem["type"] == "extra_forbidden")
    if unknown:
        return UnknownOptionError(f"{owner} has no option {', '.join(unknown)}.", hint=f"It has: {', '.join(known)}.")
    first = found[0]
    # A validator of ours raised an error that is more helpful than pydantic's.
    if isinstance(ours := first.get("ctx", {}).get("error"), Glm4vError):
        return ours
    name = _option(first)
    # A union reports one problem for each of its members.
    rules = dict.fromkeys(_rule(problem) for problem in found if _option(problem) == name)
    if first["type"] == "missing":
        return ConfigError(f"{owner} needs the option {name}.", hint=f"Pass {name}.")
    value = "" if name in hidden else f", not {first['input']!r}"
    return ConfigError(f"{name} must {', or '.join(rules)}{value}.", hint=f"Correct {name}, or leave it out.")


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is not in a `Literal`.

    Raises:
        ConfigError: the value is not one of `choices`; the message lists them.
    """
    allowed = get_args(choices)
    if value not in allowed:
        *others, last = map(repr, allowed)
        raise ConfigError(f"{name} must be {', '.join(others)} or {last}, not {value!r}.", hint=f"Correct {name}.")


def _option(problem: Mapping[str, Any]) -> str:
    return str(problem["loc"][0]) if problem["loc"] else "options"


def _rule(problem: Mapping[str, Any]) -> str:
    """Phrase the requirement so that it can follow the word "must"."""
    message = problem["msg"]
    return message.removeprefix("Input should ") if message.startswith("Input should ") else f"be valid: {message}"
