"""What a caller may set on the server engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from glm4v_core.errors import ConfigError, UnknownOptionError

BASE_URL_VARIABLE = "GLM4V_BASE_URL"
API_KEY_VARIABLE = "GLM4V_API_KEY"

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_LOWEST: Mapping[str, float] = {
    "context": 1,
    "retries": 0,
    "deadline": 0,
    "connect_timeout": 0,
    "max_image_tokens": 1,
    "repetition_pattern": 0,
    "repetition_repeats": 2,
    "repetition_tokens": 1,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Settings of the way to one server.

    Attributes:
        base_url: such as `http://127.0.0.1:8000/v1`; a URL without a path gets `/v1`. None is GLM4V_BASE_URL.
        api_key: None is GLM4V_API_KEY; OpenAI's own variables are never read, nor sent to another server.
        headers: sent with every request; their values are treated as secrets.
        verify: whether certificates are checked, or the path of a bundle of authorities to check them against.
        retries: attempts after the first, on 408, 409, 429, 5xx and lost connections, before an answer has begun.
        deadline: seconds for one request with all its attempts; None waits for ever.
        connect_timeout: seconds for one connection.
        api: which fields the server knows: `vllm` is OpenAI's and vLLM's, `openai` is OpenAI's alone, where what
            cannot be said raises. `auto` is vllm where the list of models says that it comes from vLLM.
        grammars: whether constraints and tools go as grammars over the whole turn, thought included. They mean what
            they mean on the other engines and need no parser on the server; but only a vLLM that was started with
            `--structured-outputs-config.backend guidance` takes them, since one backend serves all its requests.
            Otherwise they go by the fields that vLLM has for each kind.
        family: a name from `FAMILIES`, where the served model's name does not tell it.
        context: tokens that a prompt and its completion may hold; None is what the server says, or the family's.
        max_image_tokens: visual tokens one image may take; larger images are scaled down before they are sent.
        mm_processor_kwargs: for vLLM's image processor; a server takes it only with --trust-request-mm-kwargs.
        repetition_pattern: longest pattern, in tokens, that vLLM's repetition guard looks for; 0 turns it off.
        repetition_repeats: how many times a pattern must follow itself,
        repetition_tokens: and how many tokens these repeats must span at least, before the answer is ended.
    """

    base_url: str | None = None
    api_key: SecretStr | None = None
    headers: Mapping[str, SecretStr] = field(default_factory=dict, hash=False)
    verify: bool | str = True
    retries: int = 2
    deadline: float | None = 600.0
    connect_timeout: float = 10.0
    api: Literal["auto", "vllm", "openai"] = "auto"
    grammars: bool = False
    family: str | None = None
    context: int | None = None
    max_image_tokens: int | None = None
    mm_processor_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    repetition_pattern: int = 64
    repetition_repeats: int = 8
    repetition_tokens: int = 96

    def __post_init__(self) -> None:
        if self.api not in ("auto", "vllm", "openai"):
            raise ConfigError(f"api must be 'auto', 'vllm' or 'openai', not {self.api!r}.")
        for name, minimum in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ConfigError(f"{name} must be at least {minimum}, not {value}.")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> ServerOptions:
        """Read keyword arguments, and the environment where they say nothing.

        Raises:
            UnknownOptionError: a name that is no field of this class.
            ConfigError: no base_url, or one that cannot be used.
        """
        known = [entry.name for entry in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise UnknownOptionError(
                f"The server engine has no option {', '.join(unknown)}.", hint=f"It has: {', '.join(known)}."
            )
        given = dict(options)
        for name, variable in (("base_url", BASE_URL_VARIABLE), ("api_key", API_KEY_VARIABLE)):
            given[name] = given.get(name) or os.environ.get(variable) or None
        settings = cls(**hide_secrets(given))
        settings = replace(settings, base_url=_checked_url(settings.base_url))
        _warn(settings)
        return settings

    @property
    def url(self) -> str:
        """The checked base_url; there is none by default, least of all OpenAI's."""
        return _checked_url(self.base_url)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
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


def _checked_url(url: Any) -> str:
    if not url:
        raise ConfigError("The server engine needs base_url.", hint=f"Pass it, or set {BASE_URL_VARIABLE}.")
    parts = urlsplit(str(url))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("base_url is no http or https URL.", hint="Write it as http://127.0.0.1:8000/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            "base_url may hold only scheme, host, port and path.",
            hint="Pass a key as api_key, other secrets in headers.",
        )
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") or "/v1"))


def _warn(settings: ServerOptions) -> None:
    parts = urlsplit(settings.url)
    if settings.secrets and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        _log.warning("The API key goes to %s unencrypted; use https.", parts.netloc)
    if settings.verify is False:
        _log.warning("The certificate of %s is not checked: verify=False.", parts.netloc)
