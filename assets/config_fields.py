"""What the fields of a config model are: which models stand in it, and which of its fields hold secrets."""

from __future__ import annotations

import inspect
from typing import Any, get_args

from pydantic import BaseModel, SecretBytes, SecretStr


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models of an annotation, and theirs."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        inner = [found for field in annotation.model_fields.values() for found in models_in(field.annotation)]
        return [annotation, *inner]
    return [found for part in get_args(annotation) for found in models_in(part)]


def holds_secret(annotation: Any) -> bool:
    return annotation in (SecretStr, SecretBytes) or any(holds_secret(part) for part in get_args(annotation))


def names_without_secrets(model: type[BaseModel]) -> frozenset[str]:
    """Names of fields, of the model and those in it, that hold no secret in any of them."""
    fields = [(name, field) for found in models_in(model) for name, field in found.model_fields.items()]
    return frozenset(name for name, _ in fields) - {name for name, field in fields if holds_secret(field.annotation)}
