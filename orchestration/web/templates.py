"""Renders the pages: Jinja2 templates, escaped throughout, with what each one needs to know."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from orchestration.web import formats
from orchestration.web.principal import principal_of

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
THEME_COOKIE = "headrace_theme"
NAVIGATION = (("Status", "/headrace/"), ("API", "/api/v1/docs"))
"""Title and address of each entry; the one whose address begins the page's own is the current one."""


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"ago": formats.ago, "duration": formats.duration, "bytes": formats.size, "number": formats.number}
    return made


@cache
def _fingerprint(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


def prefix_of(request: Request) -> str:
    """The path that a proxy puts before everything, such as ``/headrace-prod``; mostly empty."""
    return str(request.app.state.path_prefix)


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """Render a template with ``url``, ``static``, ``principal``, ``theme`` and ``csrf`` beside its own context."""
    prefix = prefix_of(request)
    path = request.url.path.removeprefix(prefix)
    theme = request.cookies.get(THEME_COOKIE, "")
    current = max((address for _, address in NAVIGATION if path.startswith(address)), key=len, default="")
    text = (
        environment()
        .get_template(template)
        .render(
            url=lambda address: prefix + address,
            static=lambda name: f"{prefix}/headrace/static/{name}?v={_fingerprint(name)}",
            principal=principal_of(request.scope),
            theme=theme if theme in ("light", "dark") else "",
            csrf=request.scope.get("headrace.csrf", ""),
            navigation=NAVIGATION,
            current=current,
            **context,
        )
    )
    return HTMLResponse(text, status_code=status)


def render_problem(request: Request, status: int, detail: str) -> HTMLResponse:
    """An error as a page, or as a fragment where htmx asked."""
    template = "problem_fragment.html" if request.headers.get("hx-request") else "problem.html"
    return render(request, template, status=status, code=status, detail=detail)
