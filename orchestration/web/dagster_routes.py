"""Which scope each of Dagster's own routes needs; one that is not listed is the administrators'."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from assets.catalog.access_records import Scope as Permission
from orchestration.web.principal import principal_of

RULES: dict[str, Permission] = {
    "/server_info": "read",
    "/dagit_info": "read",
    "/graphql": "read",
    "/logs/{path:path}": "read",
    "/notebook": "admin",
    "/dagit/notebook": "admin",
    "/download_debug/{run_id:str}": "operate",
    "/report_asset_materialization/{asset_key:path}": "admin",
    "/report_asset_check/{asset_key:path}": "admin",
    "/report_asset_observation/{asset_key:path}": "admin",
    "/{path:path}": "read",
    "/": "read",
}


class Guarded:
    """An ASGI app that only lets in who has the scope."""

    def __init__(self, app: ASGIApp, permission: Permission) -> None:
        self.app = app
        self.permission: Permission = permission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if principal_of(scope).may(self.permission):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4403})
        else:
            await PlainTextResponse(f"This needs the scope {self.permission}.", 403)(scope, receive, send)


def guard(routes: Iterable[BaseRoute]) -> None:
    """Put the rule of each route before it."""
    for route in routes:
        if isinstance(route, Mount) and route.routes and not _serves_files(route):
            guard(route.routes)
        elif isinstance(route, Mount | Route | WebSocketRoute):
            route.app = Guarded(route.app, rule_of(route))


def rule_of(route: Mount | Route | WebSocketRoute) -> Permission:
    """The rule of a route; files of Dagster's UI are for everybody who may read."""
    return "read" if _serves_files(route) else RULES.get(route.path, "admin")


def _serves_files(route: BaseRoute) -> bool:
    return (getattr(route, "name", None) or "").endswith("_static")
