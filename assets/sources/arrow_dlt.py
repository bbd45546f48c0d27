"""The dlt source of a connector whose reads need no care: one resource a table, Arrow tables, all rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from assets.naming import table_slug
from assets.sources.interface import UNFIT_COLUMN, Connector
from assets.sync import SourceTable, WindowPlan

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_source(connector: Connector, tables: Sequence[str] | None = None) -> Any:
    """Build the dlt source: a full read of each table, usable in any ``dlt.pipeline``."""
    import dlt

    names = list(tables) if tables else [table.name for table in connector.discover()]
    found = [table for table in connector.discover(names) if not table.refusal]

    def resource(table: SourceTable) -> Any:
        def rows() -> Iterator[pa.Table]:
            import pyarrow as pa

            with connector.open_read(WindowPlan(table=table, mode="full", key=table.primary_key)) as read:
                for batch in read.batches():
                    whole = pa.Table.from_batches([batch])
                    misfits = batch.column(batch.schema.get_field_index(UNFIT_COLUMN))
                    yield whole if misfits.null_count < len(misfits) else whole.drop_columns([UNFIT_COLUMN])

        return dlt.resource(
            rows, name=table_slug(table.name), primary_key=list(table.primary_key), write_disposition="replace"
        )

    @dlt.source(name=connector.name)
    def source() -> Any:
        return [resource(table) for table in found]

    return source()
