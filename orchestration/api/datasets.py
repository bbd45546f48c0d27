"""``/datasets``: uploaded files as tables; sync one like any connector."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response, UploadFile

from assets.catalog.listing import Page
from orchestration.api.connectors import DISCOVER_SECONDS, Limit, Name, Offset, Search
from orchestration.api.preconditions import IfMatch, check, tag
from orchestration.api.problems import responses
from orchestration.api.routing import blocking_of, headrace_of, needs, router
from orchestration.datasets import MAX_PREVIEW_ROWS, PREVIEW_ROWS, Dataset, Preview

datasets = router("/datasets", "datasets")
Table = Annotated[str | None, Query(min_length=1, max_length=100, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


@datasets.get("", openapi_extra=needs("read"), summary="One page of the datasets")
def list_datasets(request: Request, search: Search = None, limit: Limit = 50, offset: Offset = 0) -> Page[Dataset]:
    return headrace_of(request).datasets.page(search=search, limit=limit, offset=offset)


@datasets.get("/{name}", openapi_extra=needs("read"), responses=responses(404, 409), summary="One dataset")
def read_dataset(request: Request, response: Response, name: Name) -> Dataset:
    headrace = headrace_of(request)
    tag(response, headrace.connectors.show(name).updated_at)
    return headrace.datasets.show(name)


@datasets.post(
    "/{name}/files",
    status_code=201,
    openapi_extra=needs("admin"),
    responses=responses(409, 412, 413),
    summary="Add files (CSV, Excel, JSON, Parquet; up to 1 GiB); the same content again changes nothing",
)
def add_files(
    request: Request,
    response: Response,
    name: Name,
    files: list[UploadFile],
    table: Annotated[Table, Query(description="the one table of all these files; default: one a file or sheet")] = None,
    replace: Annotated[bool, Query(description="take the place of a file with the same name")] = False,
) -> Dataset:
    headrace = headrace_of(request)
    given = [(file.filename or "", file.file) for file in files]
    dataset = headrace.datasets.upload(name, given, table=table, replace=replace)
    tag(response, headrace.connectors.show(name).updated_at)
    return dataset


@datasets.get(
    "/{name}/preview",
    openapi_extra=needs("data"),
    responses=responses(404, 409, 502, 504),
    summary="First rows of a table, and a summary of each column",
)
async def preview_dataset(
    request: Request,
    name: Name,
    table: Table = None,
    rows: Annotated[int, Query(ge=1, le=MAX_PREVIEW_ROWS)] = PREVIEW_ROWS,
) -> Preview:
    datasets = headrace_of(request).datasets
    return await blocking_of(request).run(lambda: datasets.preview(name, table, rows), DISCOVER_SECONDS)


@datasets.delete(
    "/{name}",
    status_code=204,
    openapi_extra=needs("admin"),
    responses=responses(404, 409, 412),
    summary="Remove it with its files; synced tables stay",
)
def remove_dataset(
    request: Request,
    name: Name,
    with_pipelines: Annotated[bool, Query(description="remove the pipelines that use it too")] = False,
    if_match: IfMatch = None,
) -> None:
    headrace = headrace_of(request)
    check(if_match, headrace.connectors.show(name).updated_at, needed=False)
    headrace.datasets.remove(name, force=with_pipelines)
