"""Pages that name what a person must be allowed to do to see them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from assets.catalog.access_records import Scope as Permission
from orchestration.web.principal import principal_of
from orchestration.web.templates import render_problem

Endpoint = Callable[[Request], Awaitable[Response]] | Callable[[Request], Response]


class Page(Route):
    """A route below ``/headrace``. An endpoint that blocks is a plain function: it gets a thread.

    Args:
        permission: the scope that the person needs; None: anybody, also without a login.
    """

    def __init__(
        self, path: str, endpoint: Endpoint, *, permission: Permission | None, methods: Sequence[str] = ("GET",)
    ) -> None:
        super().__init__(path, endpoint, methods=list(methods), name=getattr(endpoint, "__name__", None))
        self.permission: Permission | None = permission

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.permission is not None and not principal_of(scope).may(self.permission):
            refused = render_problem(Request(scope), 403, "This needs more rights than you have.")
            await refused(scope, receive, send)
            return
        await super().handle(scope, receive, send)
