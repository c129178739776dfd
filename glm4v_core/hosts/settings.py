"""What both adapters let their users set, as pydantic fields for an adapter's class to inherit."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator

from glm4v_core.concurrency.bridge import run_sync
from glm4v_core.engines import sharing
from glm4v_core.engines.loading import ENGINE_VARIABLE, MODEL_VARIABLE, plan_engine
from glm4v_core.engines.server.options import hide_secrets
from glm4v_core.errors import ConfigError, UnknownOptionError, UnsupportedError
from glm4v_core.model import Glm4v
from glm4v_core.types import Constraint, Message, Request, Sampling, Tool, ToolChoice

_SERVER_OPTIONS = {"api_key": "api_key", "max_retries": "retries"}
"""Settings named as in OpenAI's client, and the options of the server engine that they set."""


class CallSettings(BaseModel):
    """Settings of an answer, for the constructor and for each call. None leaves one to the model's family.

    An adapter's subclass adds those that its host has names of its own for.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, arbitrary_types_allowed=True)

    temperature: float | None = None
    """0 is greedy."""
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    """Upper bound on new tokens, reasoning included."""
    stop: list[str] | str | None = Field(default=None, alias="stop_sequences")
    """Strings that end the answer and are not part of it."""
    seed: int | None = None
    logprobs: bool = False
    """Return the log probability of each token."""
    top_logprobs: int | None = None
    """How many alternatives per token; needs `logprobs`."""
    constraint: Constraint | None = None
    """Holds the answer, never the reasoning, to a JSON schema, choices or a regex."""
    timeout: float | None = None
    """Seconds for a whole answer."""

    @model_validator(mode="after")
    def _want_logprobs_with_alternatives(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=True.")
        return self

    @classmethod
    def merged(cls, constructor: Self, options: Mapping[str, Any], others: Collection[str] = ()) -> Self:
        """Return the constructor's settings with a call's options merged in, checked by the same rules.

        Args:
            constructor: the model object; returned unchanged if the call sets nothing.
            options: of one call.
            others: known options that only calls have; they are not merged.

        Raises:
            UnknownOptionError: an option that is neither a field of this class nor among `others`.
        """
        known = cls.model_fields
        if unknown := sorted(options.keys() - {*known, *others}):
            raise UnknownOptionError(
                f"{type(constructor).__name__} has no call option {', '.join(unknown)}.",
                hint=f"It has: {', '.join([*known, *others])}.",
            )
        chosen = {name: value for name, value in options.items() if name in known}
        if not chosen:
            return constructor
        given = {name: getattr(constructor, name) for name in constructor.model_fields_set if name in known}
        return cls.model_validate(given | chosen)

    def sampling(self) -> Sampling:
        """Return how tokens are drawn."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            max_tokens=self.max_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            seed=self.seed,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )

    def request(
        self,
        messages: tuple[Message, ...],
        *,
        thinking: bool | None,
        thinking_budget: int | None,
        tools: tuple[Tool, ...] = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool | None = None,
        constraint: Constraint | None = None,
    ) -> Request:
        """Build the core's request from a converted call.

        Args:
            messages: of the conversation.
            thinking: as `Request` has it, like the four below; `parallel_tool_calls=None` means True.
            thinking_budget: most tokens of reasoning.
            tools: that may be called.
            tool_choice: which of them.
            parallel_tool_calls: whether one answer may hold several calls.
            constraint: takes precedence over the setting of that name.
        """
        return Request(
            messages,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls is not False,
            sampling=self.sampling(),
            thinking=thinking,
            thinking_budget=thinking_budget,
            constraint=constraint or self.constraint,
            timeout=self.timeout,
        )


def call_settings(request: Request) -> dict[str, Any]:
    """Return what a request sets as the options of a call; what it leaves open is left to the model object.

    `thinking` is not included, since each host has its own name for it.
    """
    options = asdict(request.sampling) | {"constraint": request.constraint, "timeout": request.timeout}
    if (alternatives := options.pop("logprobs")) is not None:
        options |= {"logprobs": True, "top_logprobs": alternatives}
    return {name: value for name, value in options.items() if value is not None and value != ()}


def _load(configuration: sharing.Configuration) -> Glm4v:
    plan = plan_engine(configuration.model, configuration.engine, configuration.options)
    return run_sync(sharing.find_or_load(configuration, plan, Glm4v.from_engine))


def _default_model(engine: str | None) -> str:
    return os.environ.get(MODEL_VARIABLE) or ("" if engine == "server" else "tiny")


class ModelSettings(CallSettings):
    """Which model to use and how it answers. None leaves a setting to the model's family.

    Creating one loads nothing; the first call loads the model, and all objects with the same model, engine and engine
    options share it.
    """

    model_config = ConfigDict(
        title=None,
        hide_input_in_errors=True,  # the input may hold the API key
    )

    engine: str = Field(default_factory=lambda: os.environ.get(ENGINE_VARIABLE) or "auto")
    """auto, transformers, vllm, server or scripted."""
    model: str = Field(default_factory=lambda data: _default_model(data.get("engine")), alias="model_name")
    """Checkpoint folder, hub id, the bundled "tiny", or the name under which a server serves its model; an empty name
    means the only one it serves."""
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """The engine's own settings, such as `device` and `slots`, or `base_url`. Secrets among them are never shown."""
    api_key: SecretStr | None = None
    """Key of the server, for `engine="server"` only; None is GLM4V_API_KEY. Never shown."""
    max_retries: int | None = Field(default=None, ge=0)
    """Attempts after the first, for `engine="server"` only; None is 2."""
    glm4v: Glm4v | None = Field(default=None, exclude=True, repr=False)
    """A model that is already loaded; its owner closes it."""

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

    def load(self) -> Glm4v:
        """Load the model now rather than with the first call, and return it."""
        self._elsewhere = False
        return self.loaded()

    def loaded(self, model: str | None = None) -> Glm4v:
        """Return the model for a call; the first call loads it.

        Args:
            model: instead of the one set, with the same engine and options.

        Raises:
            ConfigError: this object was pickled in another process.
            UnsupportedError: `model` differs from the loaded model that was passed in.
        """
        if self._elsewhere:
            raise ConfigError(
                f"This object was pickled in another process, which may hold the model {self.model!r} in memory.",
                hint="Do such work in threads or tasks, which share one model, or call load() here to load it again.",
            )
        if self.glm4v is None:
            configuration = self._configuration(model)
            found: Glm4v | None = sharing.find(configuration)
            return found or _load(configuration)
        if model not in (None, self.model):
            raise UnsupportedError(
                f"model={model!r} cannot be had from a model that was passed in.",
                hint=f"Make a {type(self).__name__} of that name.",
            )
        return self.glm4v

    def close(self) -> None:
        """Free the model that this object shares with equal ones; a later call loads it again."""
        configuration = self._configuration()
        if self.glm4v is None and sharing.find(configuration) is not None:
            run_sync(sharing.close(configuration))

    def _configuration(self, model: str | None = None) -> sharing.Configuration:
        named = {option: getattr(self, name) for name, option in _SERVER_OPTIONS.items()}
        given = {option: value for option, value in named.items() if value is not None}
        return sharing.Configuration(model or self.model, self.engine, self.engine_options | given)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy the settings; a loaded model is shared, not copied."""
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
