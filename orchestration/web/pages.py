"""The pages below ``/headrace``. Each is a `Page` that names the scope a person needs.

An endpoint renders a template that extends ``base.html`` and takes badges, pagination and the like from ``parts.html``,
or answers an action with `flash.go_to`. Errors of ours may be raised: `page_errors` shows them. What reaches a source
runs in ``request.app.state.blocking``. Scripts and styles are files: the policy allows nothing inline.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute

from assets.errors import NotFoundError
from orchestration.headrace import Headrace
from orchestration.web.connector_pages import CONNECTOR_PAGES
from orchestration.web.connector_wizard import WIZARD_PAGES
from orchestration.web.data_pages import DATA_PAGES
from orchestration.web.dataset_pages import DATASET_PAGES
from orchestration.web.oauth_pages import OAUTH_PAGES
from orchestration.web.people_pages import PEOPLE_PAGES
from orchestration.web.pipeline_pages import PIPELINE_PAGES
from orchestration.web.routing import Page
from orchestration.web.run_pages import RUN_PAGES
from orchestration.web.status_pages import STATUS_PAGES
from orchestration.web.templates import render, render_problem


def headrace_of(request: Request) -> Headrace:
    """The installation behind this server."""
    return request.app.state.headrace


def knowledge_message(request: Request) -> HTMLResponse:
    """One message with the quote that a finding rests on: where provenance leads."""
    asked = request.query_params
    place = [asked.get(name, "") for name in ("source", "session", "message")]
    try:
        message = headrace_of(request).knowledge.message(*place)
    except NotFoundError as error:
        return render_problem(request, 404, error.text)
    start, end = (_position(asked.get(name), len(message["text"])) for name in ("start", "end"))
    text = message["text"]
    return render(
        request,
        "knowledge_message.html",
        message=message,
        before=text[:start],
        quote=text[start:end],
        after=text[max(start, end) :],
    )


def _position(value: str | None, most: int) -> int:
    return min(most, int(value)) if value and value.isdecimal() and len(value) < 12 else 0


PAGES: list[BaseRoute] = [
    *WIZARD_PAGES,  # first: no connector can be named "add-new"
    *CONNECTOR_PAGES,
    *PIPELINE_PAGES,
    *STATUS_PAGES,
    *RUN_PAGES,
    *DATA_PAGES,
    *DATASET_PAGES,
    Page("/knowledge/message", knowledge_message, permission="data"),
    *OAUTH_PAGES,
    *PEOPLE_PAGES,
]
"""In the order of the navigation."""
