"""Renders the pages: Jinja2 templates, escaped throughout, with what each one needs to know."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from assets.catalog.access_records import Scope as Permission
from assets.errors import HeadraceError
from orchestration.web import formats
from orchestration.web.flash import clear_flash, read_flash
from orchestration.web.principal import principal_of

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
THEME_COOKIE = "headrace_theme"


@dataclass(frozen=True)
class NavigationEntry:
    """One entry of the navigation, for who has the permission."""

    title: str
    address: str
    permission: Permission = "read"

    def is_of(self, path: str) -> bool:
        """Whether the page at ``path`` belongs to it; an address that ends with a slash is of one page only."""
        return path == self.address or path.startswith(f"{self.address}/")


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "ago": formats.ago,
        "moment": formats.moment,
        "duration": formats.duration,
        "bytes": formats.size,
        "number": formats.number,
        "ticks": formats.ticks,
        "segment": lambda text: quote(text, safe=""),
    }
    return made


@cache
def _fingerprint(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


def prefix_of(request: Request) -> str:
    """The path that a proxy puts before everything, such as ``/headrace-prod``; mostly empty."""
    return str(request.app.state.path_prefix)


def context_of(request: Request) -> dict[str, Any]:
    """What every template knows: `url`, `static`, `here`, `principal`, `may`, `theme`, `csrf` and more."""
    prefix = prefix_of(request)
    path = request.url.path.removeprefix(prefix)
    theme = request.cookies.get(THEME_COOKIE, "")
    principal = principal_of(request.scope)
    navigation = [entry for entry in request.app.state.navigation if principal.may(entry.permission)]
    return {
        "url": lambda address: prefix + address,
        "static": lambda name: f"{prefix}/headrace/static/{name}?v={_fingerprint(name)}",
        "here": _here(request),
        "asked": request.query_params,
        "principal": principal,
        "may": principal.may,
        "theme": theme if theme in ("light", "dark") else "",
        "csrf": request.scope.get("headrace.csrf", ""),
        "navigation": navigation,
        "current": next((entry.address for entry in navigation if entry.is_of(path)), ""),
        "flash": None,
    }


def _here(request: Request) -> Callable[..., str]:
    def here(**changes: object) -> str:
        """The address of this page with some parameters changed; None removes one."""
        asked = dict(request.query_params) | {name: str(value) for name, value in changes.items() if value is not None}
        query = urlencode({name: value for name, value in asked.items() if changes.get(name, "") is not None})
        return request.url.path + (f"?{query}" if query else "")

    return here


def fragment(request: Request, template: str, **context: Any) -> str:
    """A template as text: a part of a page, for what is streamed or swapped in."""
    return environment().get_template(template).render(context_of(request) | context)


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A template as the answer, with what `context_of` gives beside its own context. Shows the flash message once."""
    flash = None if request.headers.get("hx-request") else read_flash(request)
    answer = HTMLResponse(fragment(request, template, **{"flash": flash} | context), status_code=status)
    if flash is not None:
        clear_flash(request, answer)
    return answer


def render_problem(
    request: Request, status: int, detail: str, *, where: str = "", remedy: str = "", title: str = ""
) -> HTMLResponse:
    """An error as a page, or as a fragment where htmx asked."""
    template = "problem_fragment.html" if request.headers.get("hx-request") else "problem.html"
    shown = {"code": status, "title": title or str(status), "detail": detail, "where": where, "remedy": remedy}
    return render(request, template, status=status, **shown)


def render_error(request: Request, status: int, title: str, error: HeadraceError) -> HTMLResponse:
    """A typed error as a page or fragment, with what to do next."""
    return render_problem(request, status, error.what, where=error.where, remedy=error.remedy, title=title)
