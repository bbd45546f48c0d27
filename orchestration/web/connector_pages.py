"""The pages of connectors: the list, one connector, its test, its config, its removal, its pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, get_args
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from assets.catalog.connector_config import connector_type
from assets.catalog.listing import ConnectorOrder
from assets.catalog.records import ConnectorStatus
from assets.errors import BridgeError, ChangedError, ConfigurationError, HeadraceError
from assets.sync import CheckResult
from orchestration.api.connectors import DISCOVER_SECONDS
from orchestration.datasets import TYPE as UPLOAD
from orchestration.headrace import Headrace
from orchestration.web.config_form import config_form, input_of, read_config
from orchestration.web.connector_wizard import headrace_of, shown_config, type_title
from orchestration.web.flash import go_to
from orchestration.web.live_checks import stream_checks
from orchestration.web.principal import audit_note_of
from orchestration.web.routing import Page
from orchestration.web.sent_form import SentForm, sent_form
from orchestration.web.templates import render

LIMIT = 50
TABLES_SHOWN = 200
MAX_OFFSET = 10_000_000


def _one_of(value: str | None, kind: Any) -> Any:
    return value if value in get_args(kind) else None


def _offset(request: Request) -> int:
    text = request.query_params.get("offset", "")
    return min(int(text), MAX_OFFSET) if text.isascii() and text.isdecimal() and len(text) < 12 else 0


def connectors(request: Request) -> HTMLResponse:
    """One page of the connectors, with what became of their tables."""
    headrace, asked = headrace_of(request), request.query_params
    order = _one_of(asked.get("order"), ConnectorOrder) or "name"
    search = asked.get("search", "").strip()[:200]
    status = _one_of(asked.get("status"), ConnectorStatus)
    page = headrace.connectors.page(
        search=search or None, status=status, order=order, limit=LIMIT, offset=_offset(request)
    )
    return render(
        request,
        "connectors.html",
        page=page,
        order=order,
        search=search,
        chosen_status=status or "",
        statuses=get_args(ConnectorStatus),
        tables=headrace.catalog.tables_of_connectors([record.name for record in page.items]),
        titles={record.type: type_title(record.type) for record in page.items},
    )


def connector(request: Request) -> HTMLResponse:
    """One connector: its state, its config without secrets, its pipelines and tables."""
    headrace, name = headrace_of(request), request.path_params["name"]
    record = headrace.connectors.show(name)
    kind = connector_type(record.type, where=name)
    return render(
        request,
        "connector.html",
        connector=record,
        login_at_source=_logs_in_at_source(headrace, name),
        title=type_title(record.type),
        config=shown_config(kind, record.config),
        pipelines=headrace.pipelines.page(connector=name, limit=LIMIT),
        tables=headrace.catalog.table_page(connector=name, limit=TABLES_SHOWN, order="status"),
        assets=f"/assets/silver/{quote(name, safe='')}",
    )


def _logs_in_at_source(headrace: Headrace, name: str) -> bool:
    """Whether a person gives this connector its access, on a page of its own."""
    try:
        return headrace.catalog.connector(name).oauth_client() is not None
    except HeadraceError:  # its test says why
        return False


async def test(request: Request) -> Response:
    """Try the source as it is stored, each check told as it is known; the outcome is stored."""
    headrace, name = headrace_of(request), request.path_params["name"]
    note = audit_note_of(request.scope)
    note.action, note.target = "test connector", name
    await run_in_threadpool(headrace.connectors.show, name)
    return stream_checks(request, lambda: _tested(headrace, name))


def _tested(headrace: Headrace, name: str) -> Iterator[CheckResult]:
    before, tried = headrace.connectors.show(name), []
    for check in headrace.catalog.connector(name).checks():
        tried.append(check)
        yield check
    if headrace.connectors.show(name).updated_at == before.updated_at:
        headrace.catalog.record_test(name, tried)
    else:
        yield CheckResult(
            name="config", ok=False, detail="somebody changed it during the test: what was tried is not stored"
        )


def edit(request: Request) -> HTMLResponse:
    """The form of its config, secrets left empty."""
    return _edit(request)


def _edit(request: Request, status: int = 200, **more: Any) -> HTMLResponse:
    record = headrace_of(request).connectors.show(request.path_params["name"])
    kind = connector_type(record.type, where=record.name)
    context = {
        "connector": record,
        "title": type_title(record.type),
        "grants": kind.grants,
        "error": None,
        "fields": [],
    }
    return render(request, "connector_edit.html", status, form=config_form(kind, record.config), **context | more)


async def change(request: Request) -> Response:
    """Store a changed config; a secret that was left empty stays."""
    sent, name = await sent_form(request), request.path_params["name"]
    note = audit_note_of(request.scope)
    note.action, note.target = "change connector", name
    try:
        await run_in_threadpool(_change, headrace_of(request), name, sent)
    except ConfigurationError as error:
        fields = [(input_of(path, sent), message) for path, message in error.fields]
        return render(request, "form_problem.html", 422, error=error, fields=fields)
    return go_to(request, f"/headrace/connectors/{name}?test=now", f"The config of {name} is changed.")


def _change(headrace: Headrace, name: str, sent: SentForm) -> None:
    record = headrace.connectors.show(name)
    if sent.get("updated_at") != record.updated_at.isoformat():
        raise ChangedError("somebody changed it since you opened this page.", where=name, remedy="Load the page again.")
    config = read_config(connector_type(record.type, where=name), sent)
    headrace.connectors.update(name, config, unchanged_since=datetime.fromisoformat(sent["updated_at"]))


def removal(request: Request) -> HTMLResponse:
    """What goes with the connector and what stays, before it is removed."""
    headrace, name = headrace_of(request), request.path_params["name"]
    return render(
        request,
        "connector_removal.html",
        connector=headrace.connectors.show(name),
        pipelines=headrace.pipelines.page(connector=name, limit=LIMIT),
        tables=headrace.catalog.table_page(connector=name, limit=1).total,
        running=headrace.catalog.run_page(connector=name, status="running", limit=1).total,
    )


async def remove(request: Request) -> Response:
    """Remove it with its pipelines; its tables stay."""
    sent, headrace, name = await sent_form(request), headrace_of(request), request.path_params["name"]
    note = audit_note_of(request.scope)
    note.action, note.target = "remove connector", name
    force = "with_pipelines" in sent
    record = await run_in_threadpool(headrace.connectors.show, name)
    of = headrace.datasets if record.type == UPLOAD else headrace.connectors
    await request.app.state.blocking.run(lambda: of.remove(name, force=force), DISCOVER_SECONDS)
    return go_to(request, "/headrace/connectors", f"Connector {name} is removed. Its tables stay.")


async def run_pipeline(request: Request) -> Response:
    """Start a pipeline now and show the run."""
    headrace, name = headrace_of(request), request.path_params["name"]
    note = audit_note_of(request.scope)
    note.action, note.target = "run pipeline", name
    pipeline = await run_in_threadpool(headrace.pipelines.show, name)
    back = f"/headrace/connectors/{pipeline.connector}"
    try:
        report = await request.app.state.blocking.run(
            lambda: headrace.pipelines.run(name, wait=False), DISCOVER_SECONDS
        )
    except BridgeError as error:
        return go_to(request, back, error.text, "problem")
    except HeadraceError as error:
        return go_to(request, back, f"The run did not start: {error.text}", "problem")
    return go_to(request, f"/headrace/runs/{quote(report.run_group, safe='')}", f"Pipeline {name} runs.")


async def switch_pipeline(request: Request) -> Response:
    """Pause or resume a pipeline's schedule."""
    sent, headrace, name = await sent_form(request), headrace_of(request), request.path_params["name"]
    note = audit_note_of(request.scope)
    pauses = sent.get("active") == "no"
    note.action, note.target = "pause pipeline" if pauses else "resume pipeline", name
    switch = headrace.pipelines.pause if pauses else headrace.pipelines.resume
    record = await run_in_threadpool(switch, name)
    text = f"Pipeline {name} is paused." if pauses else f"Pipeline {name} follows its schedule again."
    return go_to(request, f"/headrace/connectors/{record.connector}", text)


CONNECTOR_PAGES = [
    Page("/connectors", connectors, permission="read", title="Connectors"),
    Page("/connectors/{name}", connector, permission="read"),
    Page("/connectors/{name}/test", test, permission="operate", methods=["POST"]),
    Page("/connectors/{name}/edit", edit, permission="admin"),
    Page("/connectors/{name}/edit", change, permission="admin", methods=["POST"]),
    Page("/connectors/{name}/remove", removal, permission="admin"),
    Page("/connectors/{name}/remove", remove, permission="admin", methods=["POST"]),
    Page("/pipelines/{name}/run", run_pipeline, permission="operate", methods=["POST"]),
    Page("/pipelines/{name}/active", switch_pipeline, permission="operate", methods=["POST"]),
]
