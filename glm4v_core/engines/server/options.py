"""What a caller may set on the server engine."""

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
    """Settings of the connection to one server, with those of `RepetitionOptions`.

    Attributes:
        base_url: such as `http://127.0.0.1:8000/v1`; a URL without a path gets `/v1`. None is GLM4V_BASE_URL.
        api_key: None is GLM4V_API_KEY; OpenAI's own variables are never read, nor sent to another server.
        headers: sent with every request; their values are treated as secrets.
        verify: whether certificates are checked, or the path of a bundle of authorities to check them against.
        retries: attempts after the first, on 408, 409, 429, 5xx and lost connections, before an answer has begun.
        deadline: seconds for one request with all its attempts; None waits forever.
        connect_timeout: seconds for one connection.
        api: which fields the server knows: `vllm` is OpenAI's and vLLM's, `openai` is OpenAI's alone, where a request
            that needs more raises. `auto` is vllm where the list of models says that it comes from vLLM.
        grammars: whether constraints and tools are sent as grammars over the whole turn, reasoning included. They then
            work as on the other engines and need no parser on the server; but only a vLLM that was started with
            `--structured-outputs-config.backend guidance` takes them, since one backend serves all its requests.
            Otherwise they are sent in the fields that vLLM has for each kind.
        family: a name from `FAMILIES`, if the served model's name does not tell it.
        context: tokens that a prompt and its completion may hold; None is what the server says, or the family's.
        max_image_tokens: visual tokens one image may take; larger images are scaled down before they are sent.
        mm_processor_kwargs: for vLLM's image processor; a server takes it only with --trust-request-mm-kwargs.
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
            _log.warning("The API key goes to %s unencrypted; use https.", parts.netloc)
        if self.verify is False:
            _log.warning("The certificate of %s is not checked: verify=False.", parts.netloc)
        return self

    def __hash__(self) -> int:
        # Without the mappings, which cannot be hashed; they are compared all the same.
        return hash((self.base_url, self.api_key))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must never be shown: the key and the headers."""
        key = self.api_key.get_secret_value() if self.api_key else ""
        return tuple(filter(None, (key, *(value.get_secret_value() for value in self.headers.values()))))


def hide_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Wrap the secrets among an engine's options, so that showing the options does not show them."""
    hidden = dict(options)
    if isinstance(key := hidden.get("api_key"), str):
        hidden["api_key"] = SecretStr(key)
    if isinstance(headers := hidden.get("headers"), Mapping):
        hidden["headers"] = {name: _secret(value) for name, value in headers.items()}
    return hidden


def _secret(value: Any) -> SecretStr:
    return value if isinstance(value, SecretStr) else SecretStr(str(value))
