"""Dagster's webserver with Headrace's pages and the REST API in front of its own routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

from dagster_webserver.webserver import DagsterWebserver
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestration.api.app import build_api
from orchestration.headrace import Headrace
from orchestration.web.pages import PAGES
from orchestration.web.principal import EVERYONE, set_principal
from orchestration.web.routing import Page
from orchestration.web.security_headers import DOCS_POLICY, SecurityHeaders
from orchestration.web.templates import STATIC, render, render_problem

_LINK = (
    '<a href="{address}" style="position:fixed;bottom:10px;left:140px;z-index:20;padding:3px 10px;border-radius:6px;'
    'background:#0f5c8c;color:#fff;font:13px sans-serif;text-decoration:none">Headrace</a>'
)


class HeadraceWebserver(DagsterWebserver):
    """One installation's webserver.

    Args:
        process_context: Dagster's workspace.
        headrace: the installation.
        path_prefix: path under which a proxy shows the server, such as ``/data``; starts with a slash, ends without.
    """

    def __init__(self, process_context: Any, headrace: Headrace, path_prefix: str = "") -> None:
        self._headrace = headrace
        self._prefix = path_prefix
        super().__init__(process_context, path_prefix, live_data_poll_rate=2000)

    def build_routes(self) -> list[BaseRoute]:
        pages = Mount(
            f"{self._prefix}/headrace",
            routes=[Mount("/static", StaticFiles(directory=STATIC), name="headrace_static"), *PAGES],
            name="headrace",
        )
        api = Mount(
            f"{self._prefix}/api/v1",
            routes=[Page("/docs", api_docs, permission="read"), Mount("", app=build_api(self._headrace))],
            name="api",
        )
        return [pages, api, *super().build_routes()]

    def index_html_endpoint(self, request: Request) -> Response:
        """Dagster's page, with a link to ours."""
        answer = super().index_html_endpoint(request)
        if not isinstance(answer, HTMLResponse):
            return answer
        link = _LINK.format(address=f"{self._prefix}/headrace/")
        content = bytes(answer.body).decode().replace("</body>", f"{link}</body>")
        headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
        return HTMLResponse(content, headers=headers)

    def build_middleware(self) -> list[Middleware]:
        ours = (f"{self._prefix}/headrace", f"{self._prefix}/api/v1")
        headers = Middleware(SecurityHeaders, ours=ours)
        return [headers, Middleware(_Everyone), *super().build_middleware()]

    def create_asgi_app(self, **options: Any) -> Starlette:
        app = super().create_asgi_app(lifespan=_lifespan, exception_handlers={HTTPException: _refused}, **options)
        app.state.headrace = self._headrace
        app.state.path_prefix = self._prefix
        return app


def api_docs(request: Request) -> Response:
    """The API, readable and usable by hand."""
    answer = render(request, "api_docs.html")
    answer.headers["Content-Security-Policy"] = DOCS_POLICY
    return answer


def _refused(request: Request, error: Exception) -> Response:
    """An error of a page or of Dagster's routes, as a page; the API has handlers of its own."""
    assert isinstance(error, HTTPException)
    answer = render_problem(request, error.status_code, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


@contextlib.asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    with contextlib.suppress(asyncio.CancelledError):  # how the server ends on Ctrl-C
        yield


class _Everyone:
    """Until there is a login: whoever reaches the loopback address may do everything."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        set_principal(cast("dict[str, Any]", scope), EVERYONE)
        await self.app(scope, receive, send)
