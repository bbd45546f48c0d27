"""Checks a connector's config against its type's model. Errors repeat no value that may be secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from assets.config_fields import names_without_secrets
from assets.errors import ConfigurationError
from assets.sources.interface import Connector, ConnectorConfig, connector_types


def connector_type(name: str, where: str = "") -> type[Connector]:
    """The connector type of that name.

    Raises:
        ConfigurationError: there is none.
    """
    types = connector_types()
    if name not in types:
        raise ConfigurationError(
            f"there is no connector type {name!r}.", where=where, remedy=f"Types: {', '.join(sorted(types))}."
        )
    return types[name]


def checked_config(kind: type[Connector], config: Mapping[str, Any], where: str) -> ConnectorConfig:
    """Validate a config.

    Raises:
        ConfigurationError: it does not fit; all wrong fields are named.
    """
    try:
        return kind.Config.model_validate(dict(config))
    except ValidationError as error:
        values = {text for text in _undisclosed(config, names_without_secrets(kind.Config)) if text}
        problems = []
        for item in error.errors(include_url=False, include_context=False):
            field = ".".join(str(part) for part in item["loc"]) or "config"
            message = item["msg"]
            # a message written by a validator may repeat what it was given
            if item["type"] in ("value_error", "assertion_error") and any(text in message for text in values):
                message = "the value is not valid"
            problems.append((field, message))
        shown = "; ".join(f"{field}: {message}" for field, message in problems[:20])
    raise ConfigurationError(
        f"the config does not fit type {kind.type_name}: {shown}.", where=where, fields=problems[:20]
    )


def _undisclosed(value: Any, shown: frozenset[str], *, known: bool = False) -> Iterator[str]:
    """The texts of a config under other names than ``shown``: secret ones, and those that no model has."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _undisclosed(item, shown, known=name in shown)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _undisclosed(item, shown, known=known)
    elif value is not None and not known:
        yield str(value)
