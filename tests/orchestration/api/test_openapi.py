"""The OpenAPI document holds: whatever is sent, no answer is a 500 and none is undocumented."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from orchestration.headrace import Headrace
from tests.orchestration.api.conftest import AsAdministrator

CONFIG = {"host": "127.0.0.1", "port": 9, "database": "d", "user": "u", "password": "p"}
HEALTH = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

WITHOUT_KEY = {("post", "/tokens"), ("post", "/users/{name}/password-link"), ("post", "/datasets/{name}/files")}
"""A token or link is shown once, so no answer of it is kept; files are kept by their hash: again changes nothing."""


@pytest.fixture
def document(hr: Headrace, api: FastAPI) -> Any:
    hr.connectors.add("a", "postgres", CONFIG)
    hr.pipelines.add("a", "a", ["public.t"])
    served, administrator = JSONResponse(api.openapi()), AsAdministrator(api)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (served if scope.get("path") == "/openapi.json" else administrator)(scope, receive, send)

    loaded = schemathesis.openapi.from_asgi("/openapi.json", app)
    return loaded.exclude(path_regex="stream$")  # it never ends


def test_no_answer_is_a_500_or_undocumented(document: Any) -> None:
    tried = 0
    for found in document.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=8,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=HEALTH,
        )
        def holds(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS)

        holds()
        tried += 1
    assert tried > 20


def test_each_creation_takes_an_idempotency_key_and_each_change_an_etag(api: FastAPI) -> None:
    made, changed, wrong = 0, 0, []
    for path, methods in api.openapi()["paths"].items():
        for method, operation in methods.items():
            taken = {parameter["name"] for parameter in operation.get("parameters", ())}
            if {"201", "202"} & set(operation["responses"]) and (method, path) not in WITHOUT_KEY:
                made += 1
                if "Idempotency-Key" not in taken or not operation.get("x-idempotent"):
                    wrong.append((method, path))
            if method in ("put", "patch"):
                changed += 1
                if "If-Match" not in taken or not {"412", "428"} <= set(operation["responses"]):
                    wrong.append((method, path))
    assert wrong == []
    assert made > 6 and changed > 3
