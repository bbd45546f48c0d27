"""Tables moved from the local lakehouse to Databricks: the same rows, tags and watermarks, so that syncs go on there.

One table of one layer is one commit, tagged by the source table's version: a copy that died goes on with the tables
that are missing, and one that is repeated changes nothing. Each is compared with its source by every value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from assets.errors import ConflictError, MismatchError
from assets.failpoints import failpoint
from assets.lakehouse.data_files import fit
from assets.lakehouse.interface import Lakehouse, TableId, TableState
from assets.sync import Layer, Model

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.lakehouse.databricks import DatabricksLakehouse

COPY = "copy-"
LAYERS: tuple[Layer, ...] = ("bronze", "silver", "quarantine")
"""In this order: a table is whole when its Silver is there."""


class CopiedTable(Model):
    layer: Layer
    connector: str
    table: str
    rows: int
    bytes: int = 0
    repeated: bool = False
    watermark: str | None = None


def copy_tag(source: Lakehouse, table: TableId, version: int) -> str:
    """Names the content that is copied: equal for a repeat, another one when the source has changed."""
    return f"{COPY}{hashlib.sha256(f'{source.uri(table)}@{version}'.encode()).hexdigest()[:24]}"


def copy_tables(
    source: Lakehouse,
    target: DatabricksLakehouse,
    tables: Sequence[tuple[str, str]],
    progress: Callable[[str, int], None] | None = None,
) -> Iterator[CopiedTable]:
    """Copy tables one after the other, yielding each when it is there and compared.

    No sync of a table may run meanwhile.

    Args:
        tables: (connector, table).
        progress: called with the table's name and the rows staged so far.

    Raises:
        ConflictError: the target's table was written by something else than a copy, or Silver lags behind Bronze.
        MismatchError: a copied table differs from its source.
    """
    for connector, name in tables:
        ids = [TableId(layer=layer, connector=connector, table=name) for layer in LAYERS]
        states = {table: source.state(table) for table in ids}
        bronze, silver = states[ids[0]], states[ids[1]]
        if bronze and bronze.tags and (silver is None or bronze.tags[-1] not in silver.tags):
            raise ConflictError(
                "Silver lags behind Bronze",
                where=f"{connector}/{name}",
                remedy=f"Run once more, on the local lakehouse: headrace sync {connector} {name}",
            )
        for table in ids:
            state = states[table]
            if state is not None:
                yield _copied(source, target, table, state, progress)


def _copied(
    source: Lakehouse,
    target: DatabricksLakehouse,
    table: TableId,
    state: TableState,
    progress: Callable[[str, int], None] | None,
) -> CopiedTable:
    tag = copy_tag(source, table, state.version)
    there = target.state(table)
    if there and there.tags and not there.tags[-1].startswith(COPY):
        if tag in there.tags:  # copied, and synced there since
            return _told(table, there, repeated=True)
        raise ConflictError(
            "the table on Databricks was written by a sync, not by a copy",
            where=target.qualified_name(table),
            remedy="Drop it there, or leave this table out.",
        )
    if there and tag in there.tags:
        _compare(source, target, table)
        target.clear_staging(table.connector, table.table, tag)
        return _told(table, there, repeated=True)
    schema, rows, size = source.schema(table), 0, 0
    with (
        target.part_writer(table.connector, table.table, tag, 1, table.layer, schema) as writer,
        source.scan(table, live=False) as batches,
    ):
        for batch in batches:
            writer.write(batch)
            rows += batch.num_rows
            failpoint("during_copy")
            if progress:
                progress(target.qualified_name(table), rows)
    follows = None
    if table.layer == "silver":
        bronze = target.state(table.model_copy(update={"layer": "bronze"}))
        follows = bronze.version if bronze else None
    failpoint("before_copy_commit")
    target.commit(
        table,
        writer.parts,
        schema,
        tag=tag,
        replace=True,
        watermark=state.watermark,
        follows=follows,
        earlier=state.tags,
    )
    failpoint("after_copy_commit")
    _compare(source, target, table)
    target.clear_staging(table.connector, table.table, tag)
    size = sum(part.bytes for part in writer.parts)
    return CopiedTable(
        layer=table.layer,
        connector=table.connector,
        table=table.table,
        rows=rows,
        bytes=size,
        watermark=state.watermark.value if state.watermark else None,
    )


def _told(table: TableId, state: TableState, *, repeated: bool) -> CopiedTable:
    return CopiedTable(
        layer=table.layer,
        connector=table.connector,
        table=table.table,
        rows=state.rows,
        repeated=repeated,
        watermark=state.watermark.value if state.watermark else None,
    )


def _compare(source: Lakehouse, target: Lakehouse, table: TableId) -> None:
    """Compare all rows of both, as sets with repeats, by a hash of every value under the target's types."""
    schema = target.schema(table)
    with source.scan(table, live=False) as rows:
        expected = _digest((fit(batch, schema) for batch in rows), schema)
    with target.scan(table, live=False) as rows:
        found = _digest((fit(batch, schema) for batch in rows), schema)
    if expected != found:
        raise MismatchError(
            f"the copy differs from its source: {found[0]} rows, {expected[0]} expected"
            + (", other values" if found[0] == expected[0] else ""),
            where=target.qualified_name(table),
            remedy="Drop the table on Databricks and copy it again.",
        )


def _digest(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> tuple[int, int, int]:
    """Rows, and the sum and the exclusive or of their hashes: the order of rows does not count."""
    import duckdb
    import pyarrow as pa

    rows = total = mixed = 0
    with duckdb.connect() as database:
        for batch in batches:
            names = [f"c{i}" for i in range(len(schema))]
            database.register("rows", pa.Table.from_arrays(batch.columns, names=names))
            query = f"SELECT count(*), sum(h), bit_xor(h) FROM (SELECT hash({', '.join(names)}) AS h FROM rows)"
            count, added, bits = database.execute(query).fetchall()[0]
            database.unregister("rows")
            rows, total, mixed = rows + count, total + int(added or 0), mixed ^ int(bits or 0)
    return rows, total, mixed
