"""Pages that name what a person must be allowed to do to see them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from assets.catalog.access_records import Scope as Permission
from orchestration.web.principal import principal_of
from orchestration.web.templates import NavigationEntry, render_problem

Endpoint = Callable[[Request], Awaitable[Response]] | Callable[[Request], Response]


class Page(Route):
    """A route below ``/headrace``. An endpoint that blocks is a plain function: it gets a thread.

    Args:
        permission: the scope that the person needs; None: anybody, also without a login.
        title: its entry in the navigation, for who has the scope; None: it has none.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        permission: Permission | None,
        methods: Sequence[str] = ("GET",),
        title: str | None = None,
    ) -> None:
        super().__init__(path, endpoint, methods=list(methods), name=getattr(endpoint, "__name__", None))
        self.permission: Permission | None = permission
        self.title = title

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.permission is not None and not principal_of(scope).may(self.permission):
            refused = render_problem(Request(scope), 403, "This needs more rights than you have.")
            await refused(scope, receive, send)
            return
        await super().handle(scope, receive, send)


def navigation_of(pages: Iterable[BaseRoute], below: str) -> list[NavigationEntry]:
    """The entries of pages that have a title and need a login; they are served below that path."""
    return [
        NavigationEntry(page.title, below + page.path, page.permission)
        for page in pages
        if isinstance(page, Page) and page.title is not None and page.permission is not None
    ]
