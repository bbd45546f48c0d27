"""Datasets: files that a person uploads, looked at before and after they are synced like any connector's tables."""

from __future__ import annotations

from typing import IO

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from assets.errors import ConfigurationError, ConflictError
from orchestration.api.connectors import DISCOVER_SECONDS
from orchestration.datasets import PREVIEW_ROWS
from orchestration.web.asked import offset, words
from orchestration.web.connector_wizard import headrace_of
from orchestration.web.flash import go_to
from orchestration.web.principal import audit_note_of
from orchestration.web.routing import Page
from orchestration.web.templates import render

LIMIT, MAX_FILES, UPLOAD_SECONDS = 50, 20, 3600
ADD = "add-new"
"""No dataset can have this name."""


def datasets(request: Request) -> HTMLResponse:
    """One page of the datasets."""
    search = words(request.query_params.get("search"), 200)
    page = headrace_of(request).datasets.page(
        search=search, limit=LIMIT, offset=offset(request.query_params.get("offset"))
    )
    return render(request, "datasets.html", page=page, search=search or "")


def new(request: Request) -> HTMLResponse:
    """The form that takes files."""
    return render(request, "dataset_upload.html", name=words(request.query_params.get("to"), 63) or "", most=MAX_FILES)


async def upload(request: Request) -> Response:
    """Take the files into a dataset, which is made at need."""
    note = audit_note_of(request.scope)
    note.action = "upload files"
    async with request.form(max_fields=10, max_files=MAX_FILES) as form:
        name, table = (str(form.get(field, "")).strip()[:100] for field in ("name", "table"))
        note.target = name
        given: list[tuple[str, IO[bytes]]] = [
            (file.filename, file.file)
            for file in form.getlist("files")
            if isinstance(file, UploadFile) and file.filename
        ]
        try:
            if not name:
                raise ConfigurationError("the dataset needs a name.", fields=[("name", "is needed")])
            if not given:
                raise ConfigurationError("no file is chosen.", fields=[("files", "choose one at least")])
            if table and not (table.isascii() and table.isidentifier()):
                wrong = "letters, digits and underscores only"
                raise ConfigurationError(f"the table's name is wrong: {wrong}.", fields=[("table", wrong)])
            stored = headrace_of(request).datasets
            await request.app.state.blocking.run(
                lambda: stored.upload(name, given, table=table or None, replace="replace" in form), UPLOAD_SECONDS
            )
        except ConfigurationError as error:
            fields = error.fields or [("files", error.what)]
            return render(request, "form_problem.html", 422, error=error, fields=fields)
        except ConflictError as error:
            wrong = ConfigurationError(error.what, where=error.where, remedy=error.remedy)
            return render(request, "form_problem.html", 422, error=wrong, fields=[("name", error.what)])
    count = f"{len(given)} file{'s are' if len(given) > 1 else ' is'}"
    return go_to(request, f"/headrace/datasets/{name}", f"{count} in {name} now.")


def dataset(request: Request) -> HTMLResponse:
    """One dataset: its files; a table's rows come by htmx."""
    headrace, name = headrace_of(request), request.path_params["name"]
    return render(
        request,
        "dataset.html",
        dataset=headrace.datasets.show(name),
        pipelines=headrace.pipelines.page(connector=name, limit=1).total,
    )


async def preview(request: Request) -> Response:
    """A table's first rows and a summary of its columns, as a fragment."""
    headrace, name = headrace_of(request), request.path_params["name"]
    table = words(request.query_params.get("table"), 100)
    shown = await request.app.state.blocking.run(
        lambda: headrace.datasets.preview(name, table, PREVIEW_ROWS), DISCOVER_SECONDS
    )
    return render(request, "dataset_preview.html", shown=shown)


DATASET_PAGES = [
    Page("/datasets", datasets, permission="read", title="Datasets"),
    Page(f"/datasets/{ADD}", new, permission="admin"),
    Page(f"/datasets/{ADD}", upload, permission="admin", methods=["POST"]),
    Page("/datasets/{name}", dataset, permission="read"),
    Page("/datasets/{name}/preview", preview, permission="data"),
]
