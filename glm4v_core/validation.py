"""Checked settings: pydantic finds what is wrong, and the caller gets it as an error of `errors.py`."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from glm4v_core.errors import ConfigError, Glm4vError, UnknownOptionError


class Options(BaseModel):
    """A frozen set of options, checked when it is made. A subclass declares fields with their bounds.

    Raises:
        UnknownOptionError: a name that is not a field of this class.
        ConfigError: a value of the wrong type or out of bounds. Values of fields with `repr=False` are not shown.
    """

    # Built with the first instance: importing a module that declares options costs almost nothing.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    owner: ClassVar[str]
    """Whose options these are, as an error names it, such as "The vLLM engine"."""

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

    Raise the result outside the `except` block: pydantic's error holds the values, and some are secret.

    Args:
        error: what pydantic reports; unknown options first, then the first option that is wrong.
        owner: whose options they are, as the subject of a sentence.
        known: names of all options.
        hidden: options whose values must not be shown.
    """
    found = error.errors(include_url=False)
    unknown = sorted(_option(problem) for problem in found if problem["type"] == "extra_forbidden")
    if unknown:
        return UnknownOptionError(f"{owner} has no option {', '.join(unknown)}.", hint=f"It has: {', '.join(known)}.")
    first = found[0]
    # An error of ours that a validator raised says more than pydantic could.
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
    """Write what is required, to follow the word "must"."""
    message = problem["msg"]
    return message.removeprefix("Input should ") if message.startswith("Input should ") else f"be valid: {message}"
