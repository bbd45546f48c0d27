"""The pages below ``/headrace``. Each is a `Page` that names the scope a person needs."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute

from orchestration.headrace import Headrace
from orchestration.web.routing import Page
from orchestration.web.templates import render


def headrace_of(request: Request) -> Headrace:
    """The installation behind this server."""
    return request.app.state.headrace


def status(request: Request) -> HTMLResponse:
    """What there is, at a glance."""
    headrace = headrace_of(request)
    return render(
        request,
        "home.html",
        connectors=headrace.connectors.page(limit=100),
        runs=headrace.catalog.run_page(limit=10).items,
    )


PAGES: list[BaseRoute] = [
    Page("/", status, permission="read"),
]
