"""A span and two figures for each request that is answered. Pure ASGI, like the login in front of it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assets import tracing

if TYPE_CHECKING:
    from orchestration.web.metrics import WebFigures

_SAFE_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


class RequestWatch:
    """ASGI middleware. Names hold the route, never a path, query or body as it came."""

    def __init__(self, app: ASGIApp, prefix: str, figures: WebFigures) -> None:
        self.app = app
        self._prefix, self._figures = prefix, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _SAFE_METHODS else "OTHER"
        status, started = 500, time.monotonic()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        given = Headers(scope=scope).get("traceparent", "")
        parent = given if _TRACEPARENT.match(given) else None
        try:
            with tracing.span(f"{method} {self._part(scope)}", parent=parent) as span:
                try:
                    await self.app(scope, receive, watched)
                finally:
                    if span is not None:
                        span.update_name(f"{method} {route_of(scope)}")
                        span.set_attributes(
                            {
                                "http.request.method": method,
                                "http.route": route_of(scope),
                                "http.response.status_code": status,
                            }
                        )
        finally:
            self._figures.answered(method, self._part(scope), status, time.monotonic() - started)

    def _part(self, scope: Scope) -> str:
        """Which part of the server: few values, as it labels figures."""
        path = scope["path"].removeprefix(self._prefix)
        if path.startswith("/api/"):
            return "api"
        if path.startswith("/headrace/"):
            return "pages"
        return "graphql" if path == "/graphql" else "dagster"


def route_of(scope: Scope) -> str:
    """The pattern of the route that served the request, with its mounts."""
    route = scope.get("route")
    own = getattr(route, "path", None)
    if own is None:
        return "unmatched"
    below = str(scope.get("root_path", ""))
    return own if below and own.startswith(below) else f"{below}{own}"
