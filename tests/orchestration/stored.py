"""Tables in the lakehouse and in the catalog of a test's installation, as a sync would leave them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from assets.bronze import bronze_names
from assets.lakehouse.interface import DELETED_AT, TableId, open_lakehouse
from assets.naming import column_names
from assets.quarantine import quarantine_schema, quarantine_table
from assets.sync import Column, TableResult, TableShape, TableSync, Watermark
from orchestration.headrace import Headrace

HOSTILE = "<img src=x onerror=alert(1)>'\"`${7*7}{{7*7}}</script><script>alert(2)</script>"
"""A name or value that would run or break out, were it not escaped."""


def store(hr: Headrace, rows: pa.Table, connector: str = "shop", table: str = "public.orders", **result: Any) -> None:
    """Write rows to Bronze and Silver, and the run that did it."""
    lakehouse, group = open_lakehouse(hr.settings), result.pop("run_group", "one")
    names = column_names(rows.schema.names)
    bronze = rows.rename_columns([bronze_names(rows.schema.names)[name] for name in rows.schema.names])
    silver = rows.rename_columns([names[name] for name in rows.schema.names])
    silver = silver.append_column(DELETED_AT, pa.nulls(len(rows), pa.timestamp("us", "UTC")))
    for layer, content in (("bronze", bronze), ("silver", silver)):
        with lakehouse.part_writer(connector, table, group, 1, layer, content.schema) as writer:
            for batch in content.to_batches():
                writer.write(batch)
        of = TableId(layer=layer, connector=connector, table=table)  # type: ignore[arg-type]
        mark = Watermark(shape=TableShape()) if layer == "bronze" else None
        lakehouse.commit(of, writer.parts, content.schema, tag=group, replace=True, watermark=mark)
    columns = tuple(Column(name=f.name, source_type="any", arrow_type=str(f.type)) for f in rows.schema)
    fields = {
        "status": "succeeded",
        "mode": "full",
        "columns": columns,
        "column_names": names,
        "rows_read": len(rows),
        "rows_silver": len(rows),
        "rows_bronze": len(rows),
        "equal": True,
    }
    end(hr, connector, table, group, **(fields | result))


def end(hr: Headrace, connector: str, table: str, run_group: str, pipeline: str | None = None, **result: Any) -> None:
    """Begin and end a run of a table in the catalog."""
    work = TableSync(connector=connector, table=table, run_group=run_group, pipeline=pipeline)
    hr.catalog.begin_table_run(work)
    fields = {"connector": connector, "table": table, "status": "succeeded", "run_group": run_group} | result
    hr.catalog.end_table_run(TableResult.model_validate(fields), work)


def set_aside(hr: Headrace, connector: str, table: str, *values: dict[str, Any]) -> None:
    """Put values into a table's quarantine."""
    lakehouse, schema = open_lakehouse(hr.settings), quarantine_schema()
    with lakehouse.part_writer(connector, table, "q", 1, "quarantine", schema) as writer:
        writer.write(pa.RecordBatch.from_pylist([{"table_name": table} | value for value in values], schema=schema))
    lakehouse.commit(quarantine_table(connector, table), writer.parts, schema, tag="q", replace=False)
