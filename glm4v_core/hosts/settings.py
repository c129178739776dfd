"""`ModelSettings`: what both adapters let their users set, as pydantic fields for an adapter's class to inherit."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator

from glm4v_core.engines.loading import ENGINE_VARIABLE, MODEL_VARIABLE
from glm4v_core.engines.server.options import hide_secrets
from glm4v_core.errors import ConfigError, UnknownOptionError, UnsupportedError
from glm4v_core.model import Glm4v
from glm4v_core.shared import Source, close, find_or_load
from glm4v_core.types import Constraint, Request, Sampling

_DRAWN = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed")
SAMPLING_SETTINGS = (*_DRAWN, "stop", "logprobs", "top_logprobs", "constraint", "timeout")
"""Fields of `ModelSettings` that a call may set too."""
_SERVER_OPTIONS = {"api_key": "api_key", "max_retries": "retries"}
"""Settings that hosts name as OpenAI's client does, and the server engine's options that they become."""


def call_settings(request: Request) -> dict[str, Any]:
    """Write what a request sets as options of a call; what it leaves open is the model object's to say.

    Thinking is not among them: each host has a name of its own for it.
    """
    options = asdict(request.sampling) | {"constraint": request.constraint, "timeout": request.timeout}
    if (alternatives := options.pop("logprobs")) is not None:
        options |= {"logprobs": True, "top_logprobs": alternatives}
    return {name: value for name, value in options.items() if value is not None and value != ()}


def _default_model(engine: str | None) -> str:
    return os.environ.get(MODEL_VARIABLE) or ("" if engine == "server" else "tiny")


class ModelSettings(BaseModel):
    """Which model to use and how it draws its answers. None leaves a setting to the model's family.

    Making one costs nothing; the first call loads the model, and all objects with the same model, engine and engine
    options share it.
    """

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,  # the input may hold the API key
    )

    engine: str = Field(default_factory=lambda: os.environ.get(ENGINE_VARIABLE) or "auto")
    """auto, transformers, vllm, server or scripted."""
    model: str = Field(default_factory=lambda data: _default_model(data.get("engine")), alias="model_name")
    """Checkpoint folder, hub id, the bundled "tiny", or the name by which a server offers its model; empty is the only
    model that it offers."""
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """The engine's own settings, such as `device` and `slots`, or `base_url`. Secrets among them are never shown."""
    api_key: SecretStr | None = None
    """Key of the server, for `engine="server"` only; None is GLM4V_API_KEY. Never shown."""
    max_retries: int | None = Field(default=None, ge=0)
    """Attempts after the first, for `engine="server"` only; None is 2."""
    glm4v: Glm4v | None = Field(default=None, exclude=True, repr=False)
    """A model that is loaded already; its owner closes it."""

    temperature: float | None = None
    """0 is greedy."""
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    """Upper bound on new tokens, the thought included."""
    stop: list[str] | str | None = Field(default=None, alias="stop_sequences")
    """Strings that end the answer and are not part of it."""
    seed: int | None = None
    logprobs: bool = False
    """Give the log probability of each token."""
    top_logprobs: int | None = None
    """How many alternatives per token; needs `logprobs`."""
    constraint: Constraint | None = None
    """Binds the answer, never the thought, to a JSON schema, choices or a regex."""
    timeout: float | None = None
    """Seconds for a whole answer."""
    max_image_tokens: int | None = None
    """Most visual tokens per image; larger images are scaled down."""

    _elsewhere: bool = PrivateAttr(default=False)

    @field_validator("engine_options")
    @classmethod
    def _hide_secrets(cls, options: dict[str, Any]) -> dict[str, Any]:
        return hide_secrets(options)

    @model_validator(mode="after")
    def _take_names_from_a_loaded_model(self) -> Self:
        if self.glm4v is None:
            return self
        info = self.glm4v.info
        for name, actual in (("model", info.model), ("engine", info.engine)):
            if name in self.model_fields_set and getattr(self, name) != actual:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but the loaded model's is {actual!r}.")
            setattr(self, name, actual)
        if self.engine_options:
            raise ValueError("engine_options cannot be changed on a loaded model.")
        return self

    @model_validator(mode="after")
    def _keep_server_settings_for_a_server(self) -> Self:
        for name, option in _SERVER_OPTIONS.items():
            if getattr(self, name) is None:
                continue
            if self.glm4v is not None:
                raise ValueError(f"{name} cannot be changed on a loaded model.")
            if self.engine != "server":
                raise UnsupportedError(
                    f"{name} is for engine='server'; engine={self.engine!r} runs in this process.",
                    hint=f"Leave {name} out, or set engine='server' and its base_url.",
                )
            if option in self.engine_options:
                raise ConfigError(f"{name} and the engine option {option} are the same.", hint="Set one of them.")
        return self

    @model_validator(mode="after")
    def _want_logprobs_with_alternatives(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=True.")
        return self

    def load(self) -> Glm4v:
        """Load the model now rather than with the first call, and return it."""
        self._elsewhere = False
        return self._loaded()

    def close(self) -> None:
        """Free the model that this and equal objects share; a later call loads it again."""
        if self.glm4v is None:
            close(self._source)

    @property
    def _source(self) -> Source:
        named = {option: getattr(self, name) for name, option in _SERVER_OPTIONS.items()}
        given = {option: value for option, value in named.items() if value is not None}
        return Source(self.model, self.engine, self.engine_options | given)

    def _loaded(self) -> Glm4v:
        """Return the model for a call."""
        if self._elsewhere:
            raise ConfigError(
                f"This object was pickled in another process, which may hold the model {self.model!r} in memory.",
                hint="Do such work in threads or tasks, which share one model, or call load() here to load it again.",
            )
        return self.glm4v or find_or_load(self._source)

    def _with(self, options: Mapping[str, Any], settings: Collection[str], others: Collection[str] = ()) -> Self:
        """Set a call's options over the constructor's, checked by the same rules.

        Args:
            options: of one call.
            settings: the fields that a call may set.
            others: options that only calls have; known, but not set here.

        Raises:
            UnknownOptionError: an option in neither.
        """
        if unknown := sorted(options.keys() - {*settings, *others}):
            raise UnknownOptionError(
                f"{type(self).__name__} has no call option {', '.join(unknown)}.",
                hint=f"It has: {', '.join([*settings, *others])}.",
            )
        chosen = {name: value for name, value in options.items() if name in settings}
        if not chosen:
            return self
        return self.model_validate({name: getattr(self, name) for name in self.model_fields_set} | chosen)

    def _sampling(self) -> Sampling:
        return Sampling(
            **{name: getattr(self, name) for name in _DRAWN},
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy the settings; a loaded model is shared, never copied."""
        return super().__deepcopy__({} if memo is None else memo | {id(self.glm4v): self.glm4v})

    def __getstate__(self) -> dict[Any, Any]:
        if self.glm4v is not None:
            raise UnsupportedError(
                "An object with a loaded model cannot be pickled.", hint="Give it model and engine instead of glm4v."
            )
        return super().__getstate__() | {"process": os.getpid()}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        process = state.pop("process")
        super().__setstate__(state)
        self._elsewhere = process != os.getpid()
