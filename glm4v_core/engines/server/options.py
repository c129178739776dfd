"""Options of the server engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import SplitResult, urlsplit, urlunsplit

from pydantic import BeforeValidator, Field, PositiveInt, SecretStr, model_validator

from glm4v_core.engines.options import PathText, RepetitionOptions
from glm4v_core.errors import ConfigError

BASE_URL_VARIABLE = "GLM4V_BASE_URL"
API_KEY_VARIABLE = "GLM4V_API_KEY"

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}

_log = logging.getLogger(__name__)


def _checked_url(url: Any) -> str:
    if not url:
        raise ConfigError("The server engine needs base_url.", hint=f"Pass it, or set {BASE_URL_VARIABLE}.")
    parts = _split(str(url))
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("base_url is not an http or https URL.", hint="Write it as http://127.0.0.1:8000/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            "base_url may hold only scheme, host, port and path.",
            hint="Pass a key as api_key, other secrets in headers.",
        )
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") or "/v1"))


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:  # its message may show a password
        return None


class ServerOptions(RepetitionOptions):
    """Options of the connection to one server, in addition to those of `RepetitionOptions`.

    Attributes:
        base_url: such as `http://127.0.0.1:8000/v1`; a URL without a path gets `/v1`. None reads GLM4V_BASE_URL.
        api_key: None reads GLM4V_API_KEY. OpenAI's own environment variables are never read or sent.
        headers: sent with every request; their values are treated as secrets.
        verify: whether certificates are checked, or the path of a bundle of certificate authorities.
        retries: further attempts on status 408, 409, 429, 5xx and lost connections, before an answer has begun.
        deadline: seconds for one request including all retries; None waits forever.
        connect_timeout: seconds for one connection attempt.
        api: the fields that the server supports: `vllm` for those of OpenAI and vLLM, `openai` for those of OpenAI
            only, in which case a request that needs more raises. `auto` is vllm if the list of models says so.
        grammars: whether constraints and tools are sent as grammars over the whole turn, including reasoning. They
            then work as with the other engines, without a parser on the server. This requires a vLLM that was started
            with `--structured-outputs-config.backend guidance`, since one backend serves all its requests. If False,
            they are sent in vLLM's field for each kind.
        family: a name from `FAMILIES`, if the served model's name does not show it.
        context: maximum number of tokens of a prompt and its completion together. None is the server's limit, or the
            family's if the server does not tell it.
        max_image_tokens: maximum number of visual tokens per image; larger images are scaled down before sending.
        mm_processor_kwargs: for vLLM's image processor; requires a server started with --trust-request-mm-kwargs.
    """

    owner: ClassVar[str] = "The server engine"

    base_url: Annotated[str, BeforeValidator(_checked_url)] = Field(default="", validate_default=True)
    api_key: SecretStr | None = Field(default=None, repr=False)
    headers: Mapping[str, SecretStr] = Field(default_factory=dict, repr=False)
    verify: bool | PathText = True
    retries: int = Field(default=2, ge=0)
    deadline: float | None = Field(default=600.0, ge=0)
    connect_timeout: float = Field(default=10.0, ge=0)
    api: Literal["auto", "vllm", "openai"] = "auto"
    grammars: bool = False
    family: str | None = None
    context: PositiveInt | None = None
    max_image_tokens: PositiveInt | None = None
    mm_processor_kwargs: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        found = dict(given)
        for name, variable in (("base_url", BASE_URL_VARIABLE), ("api_key", API_KEY_VARIABLE)):
            found[name] = given.get(name) or os.environ.get(variable) or None
        return hide_secrets(found)

    @model_validator(mode="after")
    def _warn(self) -> Self:
        parts = urlsplit(self.base_url)
        if self.secrets and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            _log.warning("The API key is sent to %s unencrypted; use https.", parts.netloc)
        if self.verify is False:
            _log.warning("The certificate of %s is not checked: verify=False.", parts.netloc)
        return self

    def __hash__(self) -> int:
        # Without the mappings, which cannot be hashed; equality does compare them.
        return hash((self.base_url, self.api_key))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must never be shown: the key and the headers."""
        key = self.api_key.get_secret_value() if self.api_key else ""
        return tuple(filter(None, (key, *(value.get_secret_value() for value in self.headers.values()))))


def hide_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of an engine's options in which secrets are wrapped, so that printing does not show them."""
    hidden = dict(options)
    if isinstance(key := hidden.get("api_key"), str):
        hidden["api_key"] = SecretStr(key)
    if isinstance(headers := hidden.get("headers"), Mapping):
        hidden["headers"] = {name: _secret(value) for name, value in headers.items()}
    return hidden


def _secret(value: Any) -> SecretStr:
    return value if isinstance(value, SecretStr) else SecretStr(str(value))
