"""A canary in every secret field of every connector type is found nowhere: answers, pages, logs, audit, files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import PydanticUndefined
from starlette.applications import Starlette

from assets.config_fields import models_in
from assets.sources.interface import connector_types
from orchestration.headrace import Headrace
from tests.orchestration.web.people import People

CANARY = "canary-Qx7-s3cret"
NOWHERE = {"host": "127.0.0.1", "port": 9}
GIVEN: dict[str, dict[str, Any]] = {
    "postgres": {**NOWHERE, "database": "d", "user": "u"},
}
"""Where a type's required fields cannot be made from their examples."""
TOGETHER = {
    "access_key_id": "secret_access_key",
    "secret_access_key": "access_key_id",
    "private_key_passphrase": "private_key",
}
"""Secrets that need another one beside them."""


def secret_fields(model: type[BaseModel]) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Path of each secret field, and the model that holds it."""
    for name, field in model.model_fields.items():
        text = str(field.annotation)
        if field.annotation in (SecretStr, SecretBytes) or "Secret" in text:
            yield (name,), model
        for inner in models_in(field.annotation):
            for path, holder in secret_fields(inner):
                yield (name, *path), holder


FIELDS = [
    pytest.param(name, path, holder, id=f"{name}-{'.'.join(path)}-{holder.__name__}")
    for name, kind in sorted(connector_types().items())
    for path, holder in secret_fields(kind.Config)
]


def filled(model: type[BaseModel]) -> dict[str, Any]:
    """The required fields of a model, made from their examples, literals or types."""
    made = {}
    for name, field in model.model_fields.items():
        literal = getattr(field.annotation, "__args__", None)
        if "Secret" in str(field.annotation):
            if field.is_required():
                made[name] = CANARY
        elif str(field.annotation).startswith("typing.Literal") and field.is_required():
            made[name] = literal[0]  # type: ignore[index]
        elif field.is_required():
            inner = list(models_in(field.annotation))
            if field.examples:
                made[name] = field.examples[0]
            elif inner:
                made[name] = [filled(inner[0])] if "list" in str(field.annotation) else filled(inner[0])
            else:
                made[name] = "http://127.0.0.1:9/x" if "url" in name else "x"
        elif field.default is PydanticUndefined and not field.default_factory:
            made[name] = "x"
    return made


def config_of(name: str, path: tuple[str, ...], holder: type[BaseModel]) -> dict[str, Any]:
    """A config of that type with the canary in that field."""
    config = GIVEN.get(name) or filled(connector_types()[name].Config)
    config = dict(config)
    place = config
    for part in path[:-1]:
        place[part] = filled(holder)
        place = place[part]
    place[path[-1]] = CANARY
    if path[-1] in TOGETHER:
        place[TOGETHER[path[-1]]] = CANARY
    return config


def test_there_are_secret_fields_to_look_at() -> None:
    assert len(FIELDS) > 10
    assert {field.values[0] for field in FIELDS} >= {"postgres", "mysql", "s3", "gcs", "rest_api"}


@pytest.mark.parametrize(("name", "path", "holder"), FIELDS)
def test_a_secret_is_found_nowhere(
    hr: Headrace,
    web_app: Callable[..., Starlette],
    people: People,
    caplog: pytest.LogCaptureFixture,
    name: str,
    path: tuple[str, ...],
    holder: type[BaseModel],
) -> None:
    caplog.set_level(logging.DEBUG)
    client = people.client(web_app(), "admin")
    config = config_of(name, path, holder)
    answers = [client.post("/api/v1/connectors", json={"name": "c", "type": name, "config": config})]
    stored = answers[0].status_code == 201
    answers.append(
        client.post("/api/v1/connectors", json={"name": "c2", "type": name, "config": config | {"x": CANARY}})
    )
    answers.append(client.post("/api/v1/connectors", json={"name": "bad name", "type": name, "config": config}))
    answers.append(client.post("/api/v1/connectors", json={"name": "c3", "type": "none", "config": config}))
    pages = ["/api/v1/connectors", "/api/v1/connectors/c", "/headrace/", "/headrace/oauth/c", "/metrics"]
    answers += [client.get(page) for page in pages]
    read = answers[-4]
    if stored:
        etag = {"If-Match": read.headers["etag"]}
        kept = {key: value for key, value in read.json()["config"].items()}
        answers.append(client.put("/api/v1/connectors/c", json={"config": kept}, headers=etag))
        assert CANARY in str(hr.catalog.resolved_config("c")), "it is kept, encrypted"
    for answer in answers:
        assert CANARY not in answer.text, answer.request.url
    assert stored, answers[0].text
    assert CANARY not in caplog.text
    for line in hr.catalog.access.audit_page(limit=500).items:
        assert CANARY not in line.model_dump_json()
    for file in Path(hr.settings.home_path).rglob("*"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes(), file
