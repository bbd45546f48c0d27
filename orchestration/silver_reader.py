"""The one helper for assets that build on Silver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assets.lakehouse.interface import TableId, open_lakehouse
from assets.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def silver_rows(
    connector: str, table: str, columns: Sequence[str] | None = None, settings: Settings | None = None
) -> Iterator[pa.RecordBatchReader]:
    """Stream the live rows of a Silver table; DuckDB, Polars and pandas read the stream as it is.

    Args:
        connector: name of the connector.
        table: ``schema.table`` as the source calls it.
        columns: Silver columns; default: all.
        settings: default: those of the environment (``HEADRACE_HOME``).

    Raises:
        LakehouseError: there is no such table.
    """
    lakehouse = open_lakehouse(settings or Settings())
    with lakehouse.scan(TableId(layer="silver", connector=connector, table=table), columns) as rows:
        yield rows
