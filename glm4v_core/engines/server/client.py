"""Clients for one server, and the discovery of the model that it serves."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import openai

from glm4v_core.dialect.families import Family, family_named, published_as
from glm4v_core.engines.server.errors import reported
from glm4v_core.engines.server.options import ServerOptions
from glm4v_core.errors import ConfigError, ModelNotFoundError, ServerError, UnsupportedError

_OLDEST = "0.32"
NO_KEY = "none"
"""Sent if there is no key: the client requires one, and servers without keys ignore it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """One model that a server offers.

    Attributes:
        name: as the server lists it.
        family: guessed from the name, or from the options.
        context: maximum number of tokens of a prompt and its completion together.
        api: see `ServerOptions`; never "auto" here.
        version: of vLLM, if the server tells it.
    """

    name: str
    family: Family
    context: int
    api: Literal["vllm", "openai"]
    version: str | None


def asynchronous_client(options: ServerOptions) -> openai.AsyncOpenAI:
    """Create the client for requests. It belongs to the event loop that uses it first."""
    http = openai.DefaultAsyncHttpxClient(verify=options.verify)
    return openai.AsyncOpenAI(http_client=http, **_settings(options))


def find_model(name: str | None, options: ServerOptions) -> Served:
    """Ask the server for its models and choose one. Blocks.

    Args:
        name: as the server lists it; None if the server has only one model.
        options: of the engine.

    Raises:
        ModelNotFoundError: the server does not have this model, or has several and `name` is None.
        UnsupportedError: the model's family is unknown, or the server renders its prompts wrongly.
        ServerError, ConfigError: the server cannot be reached, or rejects the request.
    """
    http = openai.DefaultHttpxClient(verify=options.verify)
    with reported(options.secrets), openai.OpenAI(http_client=http, **_settings(options)) as client:
        card = _choose(name, _cards(client))
        on_vllm = card.get("owned_by") == "vllm"
        version = _version(client, options) if on_vllm else None
        family = family_named(options.family) if options.family else _family(card)
        if on_vllm and family.dialect.switch == "prefill":
            _check_rendering(client, card["id"], options)
    api = ("vllm" if on_vllm else "openai") if options.api == "auto" else options.api
    _check_version(version)
    served = Served(card["id"], family, _context(card, family, options), api, version)
    _log.info("%s is served at %s as %s, with the fields of %s.", served.name, options.base_url, family.name, api)
    return served


def _settings(options: ServerOptions) -> dict[str, Any]:
    """Set everything that the client would otherwise read from environment variables meant for OpenAI's own service."""
    foreign = [line.partition(":")[0].strip() for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines()]
    omitted = dict.fromkeys(["OpenAI-Organization", "OpenAI-Project", *filter(None, foreign)], openai.Omit())
    return {
        "base_url": options.base_url,
        "api_key": options.api_key.get_secret_value() if options.api_key else NO_KEY,
        "default_headers": {
            **omitted,
            **{name: value.get_secret_value() for name, value in options.headers.items()},
        },
        "max_retries": options.retries,
        "timeout": openai.Timeout(options.deadline, connect=options.connect_timeout),
    }


def _cards(client: openai.OpenAI) -> list[dict[str, Any]]:
    answer: Any = client.get("/models", cast_to=object)
    cards = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(cards, list) or not all(isinstance(card, dict) and card.get("id") for card in cards):
        raise ServerError("The server's list of models cannot be read.", hint="Check base_url.")
    return cards


def _choose(name: str | None, cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = [str(card["id"]) for card in cards]
    if name is None:
        # LoRA adapters have a parent. One checkpoint may be listed under several names.
        origins = {card.get("root") or card["id"] for card in cards if not card.get("parent")}
        if len(origins) == 1:
            return next(card for card in cards if not card.get("parent"))
        raise ModelNotFoundError(f"The server serves {len(origins)} models.", hint=f"Choose one: {', '.join(names)}.")
    if name not in names:
        raise ModelNotFoundError(f"The server does not serve {name!r}.", hint=f"It serves: {', '.join(names)}.")
    return cards[names.index(name)]


def _family(card: dict[str, Any]) -> Family:
    for name in (card.get("root"), card["id"]):
        if name and (family := published_as(str(name))):
            return family
    raise UnsupportedError(
        f"The name {card['id']!r} does not show to which family the model belongs.",
        hint="Pass the engine's option family, such as family='GLM-4.6V-Flash'.",
    )


def _context(card: dict[str, Any], family: Family, options: ServerOptions) -> int:
    said = card.get("max_model_len")
    if options.context and said and options.context > said:
        raise ConfigError(f"context={options.context} is more than the {said} tokens that the server takes.")
    return options.context or said or family.context


def _check_rendering(client: openai.OpenAI, model: str, options: ServerOptions) -> None:
    """Refuse a server that renders messages as Python lists.

    vLLM does so by default for templates that expect lists in user turns only.

    Raises:
        UnsupportedError: the server does so.
    """
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]
    body = {"model": model, "messages": messages, "return_token_strs": True}
    url = options.base_url.removesuffix("/v1") + "/tokenize"
    try:
        answer: Any = client.with_options(max_retries=0).post(url, body=body, cast_to=object)
    except (openai.APIError, ValueError):
        return
    if isinstance(answer, dict) and "'type'" in "".join(answer.get("token_strs") or ()):
        raise UnsupportedError(
            "This server renders system messages and earlier answers as Python lists.",
            hint="Start vLLM with --chat-template-content-format string --interleave-mm-strings.",
        )


def _check_version(version: str | None) -> None:
    """Log a warning for an old vLLM, which silently ignores fields that it does not know."""
    if version and _numbers(version) < _numbers(_OLDEST):
        _log.warning("The server runs vLLM %s; this engine is tested with %s and later.", version, _OLDEST)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def _version(client: openai.OpenAI, options: ServerOptions) -> str | None:
    """Ask vLLM for its version; None if a router in front of it does not forward the request."""
    try:
        answer: Any = client.with_options(max_retries=0).get(
            options.base_url.removesuffix("/v1") + "/version", cast_to=object
        )
    except (openai.APIError, ValueError):
        return None
    version = answer.get("version") if isinstance(answer, dict) else None
    return str(version) if version else None
