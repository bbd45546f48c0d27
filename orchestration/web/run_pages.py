"""Runs: the list, and one run with its tables in time, what happened, cancel and re-run."""

from __future__ import annotations

import os
from typing import Any, get_args
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from assets.catalog.models import now
from assets.catalog.records import TERMINAL, RunStatus
from orchestration.api.connectors import DISCOVER_SECONDS
from orchestration.api.runs import CANCEL_SECONDS
from orchestration.headrace import Headrace
from orchestration.web.asked import choice, offset, words
from orchestration.web.charts import timeline
from orchestration.web.flash import go_to
from orchestration.web.routing import Page
from orchestration.web.templates import render

RUNS_A_PAGE, TABLES_A_PAGE, EVENTS_SHOWN = 50, 100, 1_000


def _headrace(request: Request) -> Headrace:
    return request.app.state.headrace


def runs(request: Request) -> Response:
    """The list; htmx gets the live part alone."""
    asked = request.query_params
    filters: dict[str, Any] = {
        "connector": words(asked.get("connector"), 63),
        "pipeline": words(asked.get("pipeline"), 63),
        "status": choice(asked.get("status"), get_args(RunStatus)),
    }
    page = _headrace(request).catalog.run_page(**filters, limit=RUNS_A_PAGE, offset=offset(asked.get("offset")))
    template = "runs_live.html" if request.headers.get("hx-request") else "runs.html"
    return render(request, template, page=page, statuses=get_args(RunStatus), asked_for=filters)


def run(request: Request) -> Response:
    """One run; htmx gets the live part alone."""
    headrace, run_group = _headrace(request), request.path_params["run_id"]
    asked = request.query_params
    status = choice(asked.get("status"), get_args(RunStatus))
    summary = headrace.catalog.run_summary(run_group)
    page = headrace.catalog.table_run_page(
        run_group,
        status=status,
        limit=TABLES_A_PAGE,
        offset=offset(asked.get("offset")),
    )
    ended_at = summary.completed_at or now()
    template = "run_live.html" if request.headers.get("hx-request") else "run.html"
    return render(
        request,
        template,
        run=summary,
        page=page,
        wanted=status or "",
        statuses=get_args(RunStatus),
        open=summary.status not in TERMINAL,
        seconds=(ended_at - summary.started_at).total_seconds(),
        chart=timeline(page.items, summary.started_at, ended_at),
        temporal=_temporal_links(headrace, summary.workflow_id, [row.workflow_id for row in page.items]),
    )


def _temporal_links(headrace: Headrace, of_run: str | None, of_tables: list[str | None]) -> dict[str, str]:
    """Addresses of workflows on Temporal's page, by their ids, where there is such a page."""
    from orchestration.stack_record import running_stack

    stack = running_stack(headrace.settings)
    base = os.environ.get("TEMPORAL_UI_URL") or (stack.temporal_ui_url if stack else None)
    if not base or not base.startswith(("http://", "https://")):
        return {}
    namespace = os.environ.get("TEMPORAL_NAMESPACE") or (stack.temporal_namespace if stack else "default")
    below = f"{base.rstrip('/')}/namespaces/{quote(namespace, safe='')}/workflows"
    return {id: f"{below}/{quote(id, safe='')}" for id in {of_run, *of_tables} if id}


async def events(request: Request) -> Response:
    """What happened, with the attempts of each step; asked for by the page, because Temporal has to be asked."""
    headrace, run_group = _headrace(request), request.path_params["run_id"]
    found = await request.app.state.blocking.run(lambda: headrace.run(run_group).events(), DISCOVER_SECONDS)
    attempts: dict[str, int] = {}
    for event in found:
        if event.detail.startswith("attempt "):
            attempts[event.table] = max(attempts.get(event.table, 1), int(event.detail.removeprefix("attempt ")))
    shown = found[-EVENTS_SHOWN:]
    return render(request, "run_events.html", events=shown, left_out=len(found) - len(shown), attempts=attempts)


async def cancel(request: Request) -> Response:
    headrace, run_group = _headrace(request), request.path_params["run_id"]
    ended = await request.app.state.blocking.run(lambda: headrace.run(run_group).cancel().record, CANCEL_SECONDS)
    return go_to(request, _address(run_group), f"The run has ended: {ended.status}.")


async def rerun(request: Request) -> Response:
    headrace, run_group = _headrace(request), request.path_params["run_id"]
    failed_only = request.query_params.get("failed") == "1"
    report = await request.app.state.blocking.run(
        lambda: headrace.run(run_group).rerun(from_failure=failed_only, wait=False), DISCOVER_SECONDS
    )
    return go_to(request, _address(report.run_group), "The run is started.")


def _address(run_group: str) -> str:
    return f"/headrace/runs/{quote(run_group, safe='')}"


RUN_PAGES: list[BaseRoute] = [
    Page("/runs", runs, permission="read", title="Runs"),
    Page("/runs/{run_id}", run, permission="read"),
    Page("/runs/{run_id}/events", events, permission="read"),
    Page("/runs/{run_id}/cancel", cancel, permission="operate", methods=["POST"]),
    Page("/runs/{run_id}/rerun", rerun, permission="operate", methods=["POST"]),
]
