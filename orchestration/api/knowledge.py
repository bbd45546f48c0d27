"""``/knowledge``: its sources, extractions, and what they found."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from assets.catalog.listing import Page
from assets.knowledge.source_config import KnowledgeSource
from orchestration.api.connectors import DISCOVER_SECONDS, Limit, Name, Offset
from orchestration.api.paging import page_of
from orchestration.api.preconditions import IdempotencyKey, IfMatch, check, tag
from orchestration.api.problems import responses
from orchestration.api.routing import blocking_of, headrace_of, needs, router
from orchestration.knowledge import EntityView, SearchHit, SearchKind

knowledge = router("/knowledge", "knowledge")
Place = Annotated[str, Query(min_length=1, max_length=1000)]
KnowledgeTable = Literal[
    "sessions", "messages", "mentions", "statements", "entities", "relations", "observations", "entity_history"
]


class ChangedSource(BaseModel):
    """Where the sessions are, and what reads them: docs/knowledge.md."""

    model_config = ConfigDict(extra="forbid")
    source: dict[str, Any]
    extractor: dict[str, Any] | None = None
    active: bool = True


class NewSource(ChangedSource):
    name: str = Field(max_length=63)


class Extraction(BaseModel):
    """Which sources; default: every active one."""

    model_config = ConfigDict(extra="forbid")
    sources: list[str] | None = Field(default=None, max_length=1000)
    again: bool = False
    token_budget: int | None = Field(default=None, ge=0, le=10**12)


class StartedExtraction(BaseModel):
    """It goes on in the background: see `/knowledge/runs`."""

    run_id: str
    workflow_id: str


class ExtractionRun(BaseModel):
    run_group: str
    source: str
    trigger: str
    status: str
    workflow_id: str | None = None
    started_at: datetime
    completed_at: datetime | None = None
    error: str | None = None
    result: dict[str, Any] | None = None


def _tagged(response: Response, source: KnowledgeSource) -> KnowledgeSource:
    assert source.updated_at is not None
    tag(response, source.updated_at)
    return source


@knowledge.get("/sources", openapi_extra=needs("read"), summary="One page of the sources")
def list_sources(request: Request, limit: Limit = 50, offset: Offset = 0) -> Page[KnowledgeSource]:
    return page_of(headrace_of(request).knowledge.sources(), limit, offset)


@knowledge.post(
    "/sources",
    status_code=201,
    openapi_extra=needs("admin", idempotent=True),
    responses=responses(409),
    summary="Add one",
)
def add_source(
    request: Request, response: Response, new: NewSource, idempotency_key: IdempotencyKey = None
) -> KnowledgeSource:
    made = headrace_of(request).knowledge.add(new.name, new.source, new.extractor, active=new.active)
    return _tagged(response, made)


@knowledge.get("/sources/{name}", openapi_extra=needs("read"), responses=responses(404), summary="One source")
def read_source(request: Request, response: Response, name: Name) -> KnowledgeSource:
    return _tagged(response, headrace_of(request).knowledge.source(name))


@knowledge.put(
    "/sources/{name}", openapi_extra=needs("admin"), responses=responses(404, 409, 412, 428), summary="Change it"
)
def change_source(
    request: Request, response: Response, name: Name, changed: ChangedSource, if_match: IfMatch = None
) -> KnowledgeSource:
    knowledge = headrace_of(request).knowledge
    known = knowledge.source(name)
    assert known.updated_at is not None
    check(if_match, known.updated_at)
    made = knowledge.add(
        name,
        changed.source,
        changed.extractor,
        active=changed.active,
        replace=True,
        unchanged_since=known.updated_at,
    )
    return _tagged(response, made)


@knowledge.delete(
    "/sources/{name}",
    status_code=204,
    openapi_extra=needs("admin"),
    responses=responses(404, 412),
    summary="Remove it; what was extracted stays",
)
def remove_source(request: Request, name: Name, if_match: IfMatch = None) -> None:
    knowledge = headrace_of(request).knowledge
    known = knowledge.source(name)
    assert known.updated_at is not None
    check(if_match, known.updated_at, needed=False)
    knowledge.remove(name)


@knowledge.post(
    "/extract",
    status_code=202,
    openapi_extra=needs("operate", idempotent=True),
    responses=responses(404, 409, 502, 504),
    summary="Extract what is new or changed",
)
async def extract(request: Request, asked: Extraction, idempotency_key: IdempotencyKey = None) -> StartedExtraction:
    knowledge = headrace_of(request).knowledge
    report = await blocking_of(request).run(
        lambda: knowledge.extract(asked.sources, again=asked.again, token_budget=asked.token_budget, wait=False),
        DISCOVER_SECONDS,
    )
    return StartedExtraction(run_id=report.run_group, workflow_id=report.workflow_id)


@knowledge.get("/runs", openapi_extra=needs("read"), summary="The latest extractions, newest first")
def list_extractions(
    request: Request, source: Annotated[str | None, Query(max_length=63)] = None, limit: Limit = 50
) -> list[ExtractionRun]:
    return [ExtractionRun.model_validate(run) for run in headrace_of(request).knowledge.runs(source, limit)]


@knowledge.get(
    "/search",
    openapi_extra=needs("data"),
    responses=responses(504),
    summary='Full-text search: all words, "a phrase", begin*',
)
async def search(
    request: Request,
    query: Annotated[str, Query(min_length=1, max_length=1000)],
    kind: SearchKind | None = None,
    limit: Limit = 20,
) -> list[SearchHit]:
    knowledge = headrace_of(request).knowledge
    return await blocking_of(request).run(lambda: knowledge.search(query, kind=kind, limit=limit), DISCOVER_SECONDS)


@knowledge.get(
    "/entities/{entity:path}",
    openapi_extra=needs("data"),
    responses=responses(404, 504),
    summary="One entity by id, name or alias, with all that is known of it",
)
async def read_entity(request: Request, entity: Annotated[str, Path(min_length=1, max_length=1000)]) -> EntityView:
    knowledge = headrace_of(request).knowledge
    return await blocking_of(request).run(lambda: knowledge.entity(entity), DISCOVER_SECONDS)


@knowledge.get("/message", openapi_extra=needs("data"), responses=responses(404, 504), summary="Where provenance leads")
async def read_message(request: Request, source: Place, session: Place, message: Place) -> dict[str, Any]:
    knowledge = headrace_of(request).knowledge
    return await blocking_of(request).run(lambda: knowledge.message(source, session, message), DISCOVER_SECONDS)


@knowledge.get(
    "/tables/{table}", openapi_extra=needs("data"), responses=responses(404, 504), summary="First rows of a table"
)
async def read_rows(request: Request, table: KnowledgeTable, limit: Limit = 50) -> list[dict[str, Any]]:
    knowledge = headrace_of(request).knowledge
    return await blocking_of(request).run(lambda: knowledge.rows(table, limit), DISCOVER_SECONDS)


@knowledge.get("/checks", openapi_extra=needs("read"), responses=responses(504), summary="What must hold, checked")
async def checks(request: Request) -> list[dict[str, Any]]:
    knowledge = headrace_of(request).knowledge
    return await blocking_of(request).run(knowledge.check, DISCOVER_SECONDS)
