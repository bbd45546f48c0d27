"""The status: every table as it is now, live."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from assets.catalog.table_states import ATTENTION, Health, TableOrder
from orchestration.headrace import Headrace
from orchestration.web.asked import choice, offset, words
from orchestration.web.charts import runs_chart
from orchestration.web.routing import Page
from orchestration.web.templates import render

TABLES_A_PAGE = 50
ATTENTION_FIRST = "attention"
_ORDERS: dict[str, str] = {
    "table": "name",
    "synced_from": "furthest behind first",
    "-changed_at": "latest change first",
    "-rows": "most rows first",
    "status": "status",
}


def status(request: Request) -> Response:
    """Every table; htmx gets the live part alone."""
    headrace: Headrace = request.app.state.headrace
    template = "status_live.html" if request.headers.get("hx-request") else "status.html"
    return render(request, template, **_shown(request, headrace))


def _shown(request: Request, headrace: Headrace) -> dict[str, Any]:
    asked = request.query_params
    health = choice(asked.get("health"), (ATTENTION_FIRST, *get_args(Health)))
    wanted: tuple[Health, ...] | None = None
    if health is not None:
        wanted = ATTENTION if health == ATTENTION_FIRST else (health,)  # type: ignore[assignment]
    order: TableOrder = choice(asked.get("order"), tuple(_ORDERS)) or "table"  # type: ignore[assignment]
    connector, search = words(asked.get("connector"), 63), words(asked.get("search"), 200)
    catalog = headrace.catalog
    page = catalog.table_page(
        connector=connector,
        health=wanted,
        search=search,
        order=order,
        limit=TABLES_A_PAGE,
        offset=offset(asked.get("offset")),
    )
    points = catalog.recent_points([(state.connector, state.table) for state in page.items])
    counts = catalog.health_counts(connector)
    return {
        "page": page,
        "charts_of": [runs_chart(points.get((state.connector, state.table), [])) for state in page.items],
        "counts": counts,
        "total": sum(counts.values()),
        "attention": sum(counts[health] for health in ATTENTION),
        "health": health or "",
        "order": order,
        "orders": _ORDERS,
        "connector": connector or "",
        "search": search or "",
    }


async def stream(request: Request) -> Response:
    """Tells the page that tables changed; it asks for what it shows then."""
    events = await request.app.state.status_feed.subscribe()

    async def told() -> AsyncIterator[str]:
        try:
            async for event in events:
                yield "event: tables\ndata: changed\n\n" if event.startswith("event:") else event
        finally:
            await events.aclose()

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(told(), media_type="text/event-stream", headers=headers)


STATUS_PAGES: list[BaseRoute] = [
    Page("/", status, permission="read", title="Status"),
    Page("/status/stream", stream, permission="read"),
]
