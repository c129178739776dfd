"""Options say what is wrong with them as errors of glm4v, and never show what is secret."""

from __future__ import annotations

import traceback
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, SecretStr, TypeAdapter, ValidationError, field_validator

from glm4v_core.errors import ConfigError, UnknownOptionError, UnsupportedError
from glm4v_core.validation import Options, check_choice, to_config_error


class Oven(Options):
    """Options of something simple."""

    owner: ClassVar[str] = "The oven"

    degrees: int = Field(default=180, ge=50, le=300)
    fan: bool | None = None
    heat: Literal["top", "bottom", "both"] = "both"
    minutes: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    key: SecretStr | None = Field(default=None, repr=False)
    words: dict[str, SecretStr] = Field(default_factory=dict, repr=False)

    @field_validator("heat", mode="before")
    @classmethod
    def _refuse_a_flame(cls, heat: Any) -> Any:
        if heat == "flame":
            raise UnsupportedError("The oven has no flame.", hint="Use the hob.")
        return heat


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degrees": 20}, "degrees must be greater than or equal to 50, not 20."),
        ({"degrees": "hot"}, "degrees must be a valid integer, unable to parse string as an integer, not 'hot'."),
        ({"heat": "left"}, "heat must be 'top', 'bottom' or 'both', not 'left'."),
        ({"minutes": 0}, "minutes must be 'auto', or be greater than or equal to 1, not 0."),
        ({"degrees": 20, "heat": "left"}, "degrees must be greater than or equal to 50, not 20."),
    ],
)
def test_a_wrong_value_is_reported_with_its_option_and_bound(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Oven(**options)
    assert caught.value.message == message
    assert next(iter(options)) in caught.value.hint


def test_unknown_options_are_reported_before_wrong_values_with_the_known_ones() -> None:
    unknown: dict[str, Any] = {"degrees": 1, "steam": True, "door": "open"}
    with pytest.raises(UnknownOptionError) as caught:
        Oven(**unknown)
    assert caught.value.message == "The oven has no option door, steam."
    assert caught.value.hint == "It has: degrees, fan, heat, minutes, key, words."


def test_our_own_errors_raised_in_a_validator_pass_unchanged() -> None:
    flame: Any = "flame"
    with pytest.raises(UnsupportedError, match=r"no flame.*hob"):
        Oven(heat=flame)


@pytest.mark.parametrize("options", [{"key": ["sesame"]}, {"words": {"door": ["sesame"]}}, {"words": "sesame"}])
def test_a_secret_is_in_no_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))} must be a valid") as caught:
        Oven(**options)
    assert "sesame" not in "".join(traceback.format_exception(caught.value))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_options_are_compared_hashed_and_shown_without_secrets() -> None:
    assert Oven(degrees=180) == Oven()
    assert Oven(degrees=200) != Oven()
    shown = repr(Oven(key=SecretStr("sesame"), words={"door": SecretStr("sesame")}))
    assert "degrees=180" in shown
    assert "sesame" not in shown


def test_other_values_are_reported_in_the_same_words() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Annotated[dict[str, int], Field(min_length=1)]).validate_python({"a": "b"})
    error = to_config_error(caught.value, "The table", ["a"], hidden={"a"})
    assert isinstance(error, ConfigError)
    assert error.message == "a must be a valid integer, unable to parse string as an integer."


def test_a_missing_option_is_named() -> None:
    class Clock(Options):
        owner: ClassVar[str] = "The clock"
        hands: int

    nothing: dict[str, Any] = {}
    with pytest.raises(ConfigError, match=r"The clock needs the option hands\. Hint: Pass hands"):
        Clock(**nothing)


def test_a_choice_is_checked_in_the_same_words() -> None:
    direction = Literal["up", "down", "left"]
    check_choice("way", "down", direction)
    with pytest.raises(ConfigError, match=r"way must be 'up', 'down' or 'left', not 'right'\."):
        check_choice("way", "right", direction)
