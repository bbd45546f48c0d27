"""Data: the stored tables, one table's rows, columns, origin and quarantine, the SQL box, uploaded files."""

from __future__ import annotations

from typing import Any, get_args
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from assets.errors import HeadraceError, NotFoundError
from assets.lakehouse_sql import MAX_QUERY, table_address
from orchestration import sql_box, stored_tables
from orchestration.api.connectors import DISCOVER_SECONDS
from orchestration.api.problems import ApiError, problem_of
from orchestration.headrace import Headrace
from orchestration.stored_tables import StoredLayer, TablePreview
from orchestration.web.asked import choice, offset, words
from orchestration.web.charts import runs_chart
from orchestration.web.routing import Page
from orchestration.web.templates import render

TABLES_A_PAGE, RUNS_IN_CHART, NAMES_BESIDE_THE_BOX = 50, 40, 200
_PLACE = ("source", "session", "message")


def _headrace(request: Request) -> Headrace:
    return request.app.state.headrace


def _named(request: Request) -> tuple[str, str]:
    asked = request.query_params
    connector, table = words(asked.get("connector"), 63), (asked.get("table") or "").replace("\x00", "")[:1000]
    if connector is None or not table:
        raise NotFoundError("no table is named.", remedy="Choose one from the list.")
    return connector, table


def tables(request: Request) -> Response:
    """All stored tables."""
    asked = request.query_params
    connector, search = words(asked.get("connector"), 63), words(asked.get("search"), 200)
    headrace = _headrace(request)
    page = headrace.catalog.table_page(
        connector=connector, search=search, limit=TABLES_A_PAGE, offset=offset(asked.get("offset"))
    )
    return render(
        request,
        "data.html",
        page=page,
        connector=connector or "",
        search=search or "",
        knowledge=_knowledge_tables(headrace),
    )


def _knowledge_tables(headrace: Headrace) -> list[str]:
    from assets.knowledge.tables import SILVER, silver

    if not headrace.knowledge.runs(limit=1):
        return []
    lakehouse = headrace._lakehouse()
    return [name for name in SILVER if lakehouse.state(silver(name)) is not None]


def table(request: Request) -> Response:
    """One table: its state, its columns with their origin; rows and quarantine come by htmx."""
    from assets.lakehouse.interface import TableId

    headrace, (connector, name) = _headrace(request), _named(request)
    catalog = headrace.catalog
    state = catalog.table_state(connector, name)
    known = state is not None or (connector == "knowledge" and name in _knowledge_tables(headrace))
    if not known:
        raise NotFoundError("this table was never synced.", where=f"{connector}/{name}")
    points = catalog.recent_points([(connector, name)], each=RUNS_IN_CHART)
    return render(
        request,
        "data_table.html",
        connector=connector,
        table=name,
        state=state,
        columns=stored_tables.lineage(headrace, connector, name),
        chart=runs_chart(points.get((connector, name), []), width=480, height=64),
        runs=catalog.table_runs(connector, name, limit=10),
        address=table_address(TableId(layer="silver", connector=connector, table=name)),
    )


async def preview(request: Request) -> Response:
    """The first rows of a layer, as a fragment."""
    headrace, (connector, name) = _headrace(request), _named(request)
    layer: StoredLayer = choice(request.query_params.get("layer"), get_args(StoredLayer)) or "silver"  # type: ignore[assignment]
    shown = await request.app.state.blocking.run(
        lambda: stored_tables.preview(headrace, connector, name, layer), DISCOVER_SECONDS
    )
    return render(request, "data_preview.html", shown=shown, places=_places(shown), layer=layer)


def _places(shown: TablePreview) -> list[str]:
    """For each row of knowledge, the address of the message that it was found in; empty for other tables."""
    names = [column.name for column in shown.columns]
    if shown.connector != "knowledge" or not set(_PLACE) <= set(names):
        return []
    asked = [name for name in (*_PLACE, "start", "end") if name in names]
    rows = [dict(zip(names, row, strict=True)) for row in shown.rows]
    return [f"/headrace/knowledge/message?{urlencode({n: row[n] or '' for n in asked})}#quote" for row in rows]


async def quarantine(request: Request) -> Response:
    """What was set aside, as a fragment."""
    headrace, (connector, name) = _headrace(request), _named(request)
    shown = await request.app.state.blocking.run(
        lambda: stored_tables.quarantine(headrace, connector, name), DISCOVER_SECONDS
    )
    return render(request, "data_quarantine.html", shown=shown)


def sql(request: Request) -> Response:
    """The box for one read-only query."""
    from assets.lakehouse.interface import TableId

    found = _headrace(request).catalog.table_page(limit=NAMES_BESIDE_THE_BOX)
    names = [
        table_address(TableId(layer="silver", connector=state.connector, table=state.table)) for state in found.items
    ]
    query = (request.query_params.get("query") or "")[:MAX_QUERY]
    return render(
        request,
        "sql.html",
        query=query,
        names=names,
        total=found.total,
        max_query=MAX_QUERY,
        max_rows=sql_box.MAX_ROWS,
        seconds=int(sql_box.MAX_SECONDS),
    )


async def ask(request: Request) -> Response:
    """The answer to a query, as a fragment; what is wrong with it stands there too."""
    async with request.form(max_fields=10, max_files=0, max_part_size=4 * MAX_QUERY) as form:
        query = str(form.get("query", ""))
        rows = str(form.get("rows", ""))
    headrace = _headrace(request)
    wanted = int(rows) if rows.isascii() and rows.isdecimal() and len(rows) < 6 else sql_box.DEFAULT_ROWS
    context: dict[str, Any] = {"result": None, "problem": None}
    status = 200
    try:
        context["result"] = await request.app.state.blocking.run(
            lambda: sql_box.ask(headrace, query, max_rows=wanted), sql_box.START_SECONDS + sql_box.MAX_SECONDS + 5
        )
    except (HeadraceError, ApiError) as error:
        problem = error.problem if isinstance(error, ApiError) else problem_of(error)
        context["problem"], status = problem, problem.status
    if request.headers.get("hx-request"):
        return render(request, "sql_result.html", **context)  # htmx puts only what succeeded in its place
    return render(request, "sql_answer.html", status=status, **context)


DATA_PAGES: list[BaseRoute] = [
    Page("/data", tables, permission="data", title="Data"),
    Page("/data/table", table, permission="data"),
    Page("/data/preview", preview, permission="data"),
    Page("/data/quarantine", quarantine, permission="data"),
    Page("/data/sql", sql, permission="data"),
    Page("/data/sql", ask, permission="data", methods=["POST"]),
]
