"""Builds the FastAPI app that is mounted at ``/api/v1``."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from orchestration.api import problems
from orchestration.api.blocking import BlockingCalls
from orchestration.api.connectors import connectors
from orchestration.api.datasets import datasets
from orchestration.api.kits import kit_runs, kits
from orchestration.api.knowledge import knowledge
from orchestration.api.oauth import oauth
from orchestration.api.people import tokens, users
from orchestration.api.pipelines import pipelines
from orchestration.api.problems import Problem
from orchestration.api.runs import runs
from orchestration.api.status_feed import StatusFeed
from orchestration.api.tables import sql, status, tables
from orchestration.headrace import Headrace

VERSION = "1"
ROUTERS = (
    connectors,
    oauth,
    pipelines,
    runs,
    tables,
    status,
    sql,
    datasets,
    knowledge,
    kits,
    kit_runs,
    users,
    tokens,
)
_ABOUT = (
    "Everything that `headrace` does, over HTTP. Log in as a browser does, or send `Authorization: Bearer TOKEN` "
    "with a token of `headrace tokens create`; each operation names the scope it needs (`x-required-scope`). "
    "Errors are `application/problem+json`. Secrets are write-only."
)


def build_api(headrace: Headrace) -> FastAPI:
    """The API of one installation, without the login in front of it."""
    app = FastAPI(
        title="Headrace",
        version=VERSION,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.headrace = headrace
    app.state.blocking = BlockingCalls()
    app.state.status_feed = StatusFeed(headrace.catalog)
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)

    def document() -> dict[str, object]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                servers=app.servers,
            )
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            schemas |= schema.pop("$defs", {}) | {"Problem": schema}
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    return app
