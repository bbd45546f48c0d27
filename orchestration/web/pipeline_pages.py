"""A pipeline on a page: one more for a connector, or another choice of tables, modes and schedule."""

from __future__ import annotations

from datetime import datetime
from typing import Any, get_args

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from assets.catalog.connector_config import connector_type
from assets.catalog.records import PipelineRecord, PipelineTable
from assets.errors import ChangedError, ConfigurationError, ConflictError
from assets.sync import Overlap, SourceTable, TableOptions
from orchestration.api.connectors import DISCOVER_SECONDS
from orchestration.headrace import Headrace
from orchestration.web.connector_wizard import column_rows, headrace_of, tables_context
from orchestration.web.flash import go_to
from orchestration.web.principal import audit_note_of
from orchestration.web.routing import Page
from orchestration.web.sent_form import SentForm, sent_form
from orchestration.web.table_choice import COLUMN_CHOICES, EXPRESSIONS, OPTIONS, SCHEDULES, column_field, read_choice
from orchestration.web.templates import render

OVERLAPS = get_args(Overlap)
_OF_THE_FORM = ("mode", "cursor", "key")


def form_of(record: PipelineRecord) -> SentForm:
    """The choice of tables that a stored pipeline stands for."""
    items = [("all_tables", "on")] if record.all_tables else []
    for table in record.tables:
        given = table.given_options()
        items.append(("table", table.name))
        items += [
            (f"{name}|{table.name}", ", ".join(value) if name == "key" else value)
            for name in _OF_THE_FORM
            if (value := given.get(name))
        ]
        if chosen := given.get("columns"):
            items += [
                (column_field(table.name, column), choice)
                for choice in COLUMN_CHOICES
                if choice != "sync"
                for column in getattr(chosen, choice)
            ]
    return SentForm(items)


def changed_table(known: PipelineTable | None, chosen: PipelineTable, sent: SentForm) -> PipelineTable:
    """The table as the form says it; what the form did not show of it stays."""
    if known is None:
        return chosen
    shown = {name for name in _OF_THE_FORM if f"{name}|{chosen.name}" in sent}
    if any(field.startswith(column_field(chosen.name, "")) for field in sent):
        shown.add("columns")
    kept = {name: value for name, value in known.given_options().items() if name not in shown}
    return PipelineTable.model_validate({"name": chosen.name} | kept | chosen.given_options())


def _arguments(record: PipelineRecord | None, sent: SentForm) -> dict[str, Any]:
    chosen = read_choice(sent)
    known = {table.name: table for table in record.tables} if record else {}
    kept = {name: getattr(record, name) for name in TableOptions.model_fields} if record else {}
    # the first value is the default: what was left to it stays so
    options = {
        name: sent[name]
        for name, (_, values) in OPTIONS.items()
        if sent.get(name) in (values if kept.get(name) else values[1:])
    }
    return kept | {
        **options,
        "tables": [changed_table(known.get(table.name), table, sent) for table in chosen.tables],
        "all_tables": chosen.all_tables,
        "schedule": chosen.schedule,
        "timezone": chosen.timezone,
        "overlap": sent["overlap"] if sent.get("overlap") in OVERLAPS else "skip",
        "deferred": record.deferred if record else False,
        "active": "active" in sent,
    }


def _form(request: Request, connector: str, record: PipelineRecord | None) -> HTMLResponse:
    return render(
        request,
        "pipeline_edit.html",
        connector=headrace_of(request).connectors.show(connector).name,
        pipeline=record,
        sent=form_of(record) if record else SentForm([]),
        options=OPTIONS,
        schedules=SCHEDULES,
        expressions=EXPRESSIONS,
        overlaps=OVERLAPS,
        address=f"/headrace/pipelines/{record.name}/edit"
        if record
        else f"/headrace/connectors/{connector}/add-pipeline",
    )


def edit(request: Request) -> HTMLResponse:
    """The form of a stored pipeline."""
    record = headrace_of(request).pipelines.show(request.path_params["name"])
    return _form(request, record.connector, record)


def new(request: Request) -> HTMLResponse:
    """The form of one more pipeline of a connector."""
    return _form(request, request.path_params["name"], None)


async def change(request: Request) -> Response:
    """Store the pipeline as the form says it."""
    sent, name = await sent_form(request), request.path_params["name"]
    note = audit_note_of(request.scope)
    note.action, note.target = "change pipeline", name
    try:
        record = await run_in_threadpool(_change, headrace_of(request), name, sent)
    except ConfigurationError as error:
        return render(request, "form_problem.html", 422, error=error, fields=error.fields)
    return go_to(request, f"/headrace/connectors/{record.connector}", f"Pipeline {name} is changed.")


def _change(headrace: Headrace, name: str, sent: SentForm) -> PipelineRecord:
    record = headrace.pipelines.show(name)
    if sent.get("updated_at") != record.updated_at.isoformat():
        raise ChangedError("somebody changed it since you opened this page.", where=name, remedy="Load the page again.")
    since = datetime.fromisoformat(sent["updated_at"])
    arguments = _arguments(record, sent)
    return headrace.pipelines.add(name, record.connector, **arguments, replace=True, unchanged_since=since)


async def add(request: Request) -> Response:
    """Store one more pipeline of a connector."""
    sent, connector = await sent_form(request), request.path_params["name"]
    note, name = audit_note_of(request.scope), sent.get("pipeline", "").strip()
    note.action, note.target = "add pipeline", name[:100]

    def stored() -> None:
        if not name:
            raise ConfigurationError("the pipeline needs a name.", fields=[("pipeline", "is needed")])
        headrace_of(request).pipelines.add(name, connector, **_arguments(None, sent))

    try:
        await run_in_threadpool(stored)
    except ConfigurationError as error:
        return render(request, "form_problem.html", 422, error=error, fields=error.fields)
    except ConflictError as error:
        wrong = ConfigurationError(error.what, where=error.where, remedy=error.remedy)
        return render(request, "form_problem.html", 422, error=wrong, fields=[("pipeline", "choose another name")])
    return go_to(request, f"/headrace/connectors/{connector}", f"Pipeline {name} is stored.")


async def _discovered(request: Request, names: list[str] | None = None) -> list[SourceTable]:
    headrace, connector = headrace_of(request), request.path_params["name"]
    return await request.app.state.blocking.run(
        lambda: list(headrace.catalog.connector(connector).discover(names)), DISCOVER_SECONDS
    )


async def tables(request: Request) -> Response:
    """The source's tables, those that match the search, to choose from."""
    sent, connector = await sent_form(request), request.path_params["name"]
    audit_note_of(request.scope).reads_only = True
    record = await run_in_threadpool(headrace_of(request).connectors.show, connector)
    found = await _discovered(request)
    kind = connector_type(record.type, where=connector)
    columns_at = f"/headrace/connectors/{connector}/columns"
    context: dict[str, Any] = tables_context(kind, found, sent) | {"columns_at": columns_at}
    return render(request, "table_choice.html", **context)


async def columns(request: Request) -> Response:
    """The columns of one table, each with a choice."""
    sent, name = await sent_form(request), request.query_params.get("of", "")
    audit_note_of(request.scope).reads_only = True
    found = await _discovered(request, [name])
    rows = column_rows(found, name, sent)
    return render(request, "column_choice.html", table=name, rows=rows, choices=COLUMN_CHOICES)


PIPELINE_PAGES = [
    Page("/pipelines/{name}/edit", edit, permission="admin"),
    Page("/pipelines/{name}/edit", change, permission="admin", methods=["POST"]),
    Page("/connectors/{name}/add-pipeline", new, permission="admin"),
    Page("/connectors/{name}/add-pipeline", add, permission="admin", methods=["POST"]),
    Page("/connectors/{name}/tables", tables, permission="admin", methods=["POST"]),
    Page("/connectors/{name}/columns", columns, permission="admin", methods=["POST"]),
]
