"""Dagster's webserver with Headrace's pages and the REST API in front of its own routes, and a login before all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from dagster_webserver.webserver import DagsterWebserver
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from orchestration.api.app import build_api
from orchestration.code_locations import code_locations
from orchestration.headrace import Headrace
from orchestration.web.body_limit import BodyLimit
from orchestration.web.catalog_watch import CatalogWatch
from orchestration.web.dagster_internals import RequestContext, WorkspaceProcessContext, request_context
from orchestration.web.dagster_routes import guard
from orchestration.web.graphql_guard import Operations, operations_of
from orchestration.web.login import Login
from orchestration.web.login_pages import LOGIN_PAGES
from orchestration.web.metrics import WebFigures, metrics
from orchestration.web.origin import Origins
from orchestration.web.page_errors import PAGE_ERRORS
from orchestration.web.pages import PAGES
from orchestration.web.principal import audit_note_of, principal_of
from orchestration.web.request_watch import RequestWatch
from orchestration.web.routing import Page, navigation_of
from orchestration.web.run_tracing import with_traceparent
from orchestration.web.security_headers import DOCS_POLICY, SecurityHeaders
from orchestration.web.sessions import Sessions
from orchestration.web.templates import STATIC, NavigationEntry, render

_LINK = (
    '<a href="{address}" style="position:fixed;bottom:10px;left:140px;z-index:20;padding:3px 10px;border-radius:6px;'
    'background:#0f5c8c;color:#fff;font:13px sans-serif;text-decoration:none">Headrace</a>'
)
PAGES_PATH, API_PATH = "/headrace", "/api/v1"
UPLOAD_BYTES = 1024**3 + 1024**2


class HeadraceWebserver(DagsterWebserver[WorkspaceProcessContext, RequestContext]):
    """One installation's webserver.

    Args:
        process_context: Dagster's workspace.
        headrace: the installation.
        path_prefix: path under which a proxy shows the server, such as ``/data``; starts with a slash, ends without.
        login: False: whoever reaches it may do everything.
        loopback_only: it listens on loopback, so that requests to other host names are refused.
    """

    def __init__(
        self,
        process_context: WorkspaceProcessContext,
        headrace: Headrace,
        path_prefix: str = "",
        *,
        login: bool = True,
        loopback_only: bool = True,
    ) -> None:
        self._headrace = headrace
        self._prefix = path_prefix
        settings = headrace.settings
        self._origins = Origins(settings.web_url, loopback_only)
        self._sessions = Sessions(settings, headrace.catalog.access) if login else None
        self._figures = WebFigures(headrace.catalog)
        self.api = build_api(headrace)
        super().__init__(process_context, path_prefix, live_data_poll_rate=2000)

    # routes

    def build_routes(self) -> list[BaseRoute]:
        pages = Mount(
            f"{self._prefix}{PAGES_PATH}",
            routes=[Mount("/static", StaticFiles(directory=STATIC), name="headrace_static"), *LOGIN_PAGES, *PAGES],
            name="headrace",
        )
        api = Mount(
            f"{self._prefix}{API_PATH}",
            routes=[
                Page("/docs", api_docs, permission="read"),
                Page("/openapi.json", self._openapi, permission="read"),
                Mount("", app=self.api),
            ],
            name="api",
        )
        of_dagster = super().build_routes()
        guard(of_dagster)
        figures = Page(f"{self._prefix}/metrics", metrics, permission="metrics")
        return [pages, api, figures, *of_dagster]

    def build_middleware(self) -> list[Middleware]:
        settings = self._headrace.settings
        public = {f"{PAGES_PATH}{page.path}" for page in LOGIN_PAGES if page.permission is None}

        def is_ours(path: str) -> bool:
            return path.startswith((f"{PAGES_PATH}/", f"{API_PATH}/"))

        return [
            Middleware(SecurityHeaders, ours=(f"{self._prefix}{PAGES_PATH}", f"{self._prefix}{API_PATH}")),
            Middleware(
                Login,
                access=self._headrace.catalog.access,
                sessions=self._sessions,
                origins=self._origins,
                prefix=self._prefix,
                public=lambda path: path in public or path.startswith(f"{PAGES_PATH}/static/"),
                ours=is_ours,
                audit_days=settings.audit_days,
            ),
            Middleware(RequestWatch, prefix=self._prefix, figures=self._figures),
            Middleware(
                BodyLimit,
                limits={f"{self._prefix}{path}/datasets": UPLOAD_BYTES for path in (API_PATH, PAGES_PATH)},
            ),
            *super().build_middleware(),
        ]

    def create_asgi_app(self, **options: Any) -> Starlette:
        app = super().create_asgi_app(lifespan=_lifespan, exception_handlers=PAGE_ERRORS, **options)
        app.state.headrace = self._headrace
        app.state.new_catalog_watch = lambda: CatalogWatch(
            self._process_context, self._headrace.catalog, code_locations(self._headrace.settings)
        )
        app.state.figures = self._figures
        app.state.path_prefix = self._prefix
        app.state.sessions = self._sessions
        app.state.origins = self._origins
        app.state.blocking = self.api.state.blocking
        app.state.status_feed = self.api.state.status_feed
        app.state.navigation = [*navigation_of(PAGES, PAGES_PATH), NavigationEntry("API", f"{API_PATH}/docs")]
        return app

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(self.api.openapi() | {"servers": [{"url": f"{self._prefix}{API_PATH}"}]})

    # Dagster's part

    def _make_request_context(self, conn: HTTPConnection) -> RequestContext:
        return request_context(self._process_context, conn, principal_of(conn.scope))

    def index_html_endpoint(self, request: Request) -> Response:
        """Dagster's page, with a link to ours."""
        answer = super().index_html_endpoint(request)
        if not isinstance(answer, HTMLResponse):
            return answer
        link = _LINK.format(address=f"{self._prefix}{PAGES_PATH}/")
        content = bytes(answer.body).decode().replace("</body>", f"{link}</body>")
        headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
        return HTMLResponse(content, headers=headers)

    async def execute_graphql_request(
        self, request: Request, query: str, variables: dict[str, Any] | None, operation_name: str | None
    ) -> JSONResponse:
        operations = operations_of(query)
        note = audit_note_of(request.scope)
        note.action, note.reads_only = _named(operations), not operations.mutations
        refusal = operations.refusal(principal_of(request.scope))
        if refusal is None and operations.mutations and request.method == "GET":
            refusal = "A mutation has to be sent by POST."
        if refusal is not None:
            note.detail = refusal
            return JSONResponse({"data": None, "errors": [{"message": refusal}]}, status_code=403)
        if operations.mutations:
            variables = with_traceparent(query, variables)
        return await super().execute_graphql_request(request, query, variables, operation_name)

    async def execute_graphql_subscription(
        self,
        websocket: WebSocket,
        operation_id: str,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
    ) -> Any:
        operations = operations_of(query)
        refusal = operations.refusal(principal_of(websocket.scope))
        if refusal is None and (operations.mutations or not operations.subscriptions):
            refusal = "A websocket is for subscriptions only."
        if refusal is not None:
            return None, {"message": refusal}
        return await super().execute_graphql_subscription(websocket, operation_id, query, variables, operation_name)


def _named(operations: Operations) -> str:
    return "dagster " + ", ".join(operations.mutations) if operations.mutations else ""


def api_docs(request: Request) -> Response:
    """The API, readable and usable by hand."""
    answer = render(request, "api_docs.html")
    answer.headers["Content-Security-Policy"] = DOCS_POLICY
    return answer


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    watch: CatalogWatch = app.state.new_catalog_watch()
    watch.start()
    try:
        with contextlib.suppress(asyncio.CancelledError):  # how the server ends on Ctrl-C
            yield
    finally:
        watch.stop()
