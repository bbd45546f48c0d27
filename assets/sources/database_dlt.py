"""The dlt source of a database connector: one resource a table, Arrow tables, for any ``dlt.pipeline``."""

# dlt's hints are wider than its annotations say.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from assets.naming import table_slug
from assets.sources.interface import UNFIT_COLUMN
from assets.sync import SourceTable, WindowPlan

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.sources.interface import Connector


def table_batches(connector: Connector, table: SourceTable) -> Iterator[pa.Table]:
    """All rows of a table in one snapshot, ``_headrace_unfit`` left out where no value needs it."""
    import pyarrow as pa

    plan = WindowPlan(table=table, mode="full", key=table.primary_key)
    with connector.open_read(plan) as read:
        careful = read.needs_care()  # what was yielded cannot be taken back, so it is asked first
        for batch in read.careful_batches() if careful else read.batches():
            whole = pa.Table.from_batches([batch])
            yield whole if careful else whole.drop_columns([UNFIT_COLUMN])


def database_source(
    connector: Connector, tables: Sequence[str] | None = None, *, incremental: dict[str, str] | None = None
) -> Any:
    """Build the dlt source.

    Args:
        tables: names as ``discover`` prints them; default: all tables, views left out.
        incremental: cursor column by table name; dlt then keeps its own state and filters by it.
    """
    import dlt

    found = [t for t in connector.discover(tables) if not t.refusal and (tables or t.kind in ("table", "partitioned"))]

    def resource(table: SourceTable) -> Any:
        cursor = (incremental or {}).get(table.name)

        since = dlt.sources.incremental(cursor) if cursor else None  # dlt finds it as a default

        def rows(updated: Any = since) -> Iterator[pa.Table]:
            yield from table_batches(connector, table)

        return dlt.resource(
            rows,
            name=table_slug(table.name),
            primary_key=list(table.primary_key),
            write_disposition="merge" if cursor and table.primary_key else "replace",
        )

    @dlt.source(name=connector.name)
    def source() -> Any:
        return [resource(table) for table in found]

    return source()
