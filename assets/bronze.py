"""Bronze: every change as it came, plus where and when it was read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from assets.arrow_compute import arrow_compute
from assets.encoded_rows import EncodedRows
from assets.lakehouse.interface import LOADED_AT, OP, POSITION, RUN, Lakehouse, TableId
from assets.naming import snake_case
from assets.sync import CommitInfo, Manifest

if TYPE_CHECKING:
    import pyarrow as pa

UPSERT, DELETE, FILLED = "u", "d", "f"
_PARQUET_UNSAFE = frozenset(" ,;{}()\n\t=")  # Delta without column mapping forbids these in a column name


def bronze_names(names: Sequence[str]) -> dict[str, str]:
    """Map source columns to Bronze columns: the source's own name wherever Delta can hold it.

    A name with a character that Delta forbids, or that differs from another only by case, becomes snake_case with eight
    hash digits of the exact source name.
    """
    lowered = [name.lower() for name in names]
    mapping = {}
    for name in names:
        legal = name and not _PARQUET_UNSAFE & set(name) and lowered.count(name.lower()) == 1
        mapping[name] = name if legal else f"{snake_case(name)}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return mapping


def metadata_fields() -> list[pa.Field]:
    import pyarrow as pa

    return [
        pa.field(RUN, pa.string()),
        pa.field(LOADED_AT, pa.timestamp("us", tz="UTC")),
        pa.field(OP, pa.string()),
        pa.field(POSITION, pa.int64()),
    ]


class BronzeRows:
    """Turns the batches of one read into Bronze batches: Bronze names, and the four metadata columns at the end."""

    def __init__(self, source_schema: pa.Schema, tag: str, position: int, loaded_at: datetime | None = None) -> None:
        import pyarrow as pa

        names = bronze_names(source_schema.names)
        self.names = names
        fields = [pa.field(names[f.name], f.type, nullable=True) for f in source_schema]
        self.schema = pa.schema(fields + metadata_fields())
        self.loaded_at = loaded_at or datetime.now(UTC)
        self._constants = (tag, self.loaded_at, position)
        self._cached: dict[tuple[str, int], list[pa.Array]] = {}

    def _metadata(self, op: str, rows: int) -> list[pa.Array]:
        import pyarrow as pa

        cached = self._cached.get((op, rows))
        if cached is None:
            tag, loaded_at, position = self._constants
            values = (tag, loaded_at, op, position)
            cached = [
                pa.repeat(pa.scalar(value, field.type), rows)
                for value, field in zip(values, metadata_fields(), strict=True)
            ]
            self._cached = {(op, rows): cached}  # batches mostly share one length
        return cached

    def upserts(self, batch: pa.RecordBatch | EncodedRows) -> pa.RecordBatch | EncodedRows:
        import pyarrow as pa

        if isinstance(batch, EncodedRows):
            tag, loaded_at, position = self._constants
            told = {RUN: tag, LOADED_AT: loaded_at, OP: UPSERT, POSITION: position}
            return batch.renamed(self.names).with_constants(told)
        return pa.RecordBatch.from_arrays(batch.columns + self._metadata(UPSERT, batch.num_rows), schema=self.schema)

    def changes(self, batch: pa.RecordBatch, op: str, positions: pa.Array) -> pa.RecordBatch:
        """Rows of one operation, each with a position of its own."""
        import pyarrow as pa

        metadata = self._metadata(op, batch.num_rows)[:-1]
        return pa.RecordBatch.from_arrays([*batch.columns, *metadata, positions], schema=self.schema)

    def deletes(self, keys: pa.RecordBatch) -> pa.RecordBatch:
        """Rows that say "this key left the source": key columns (source names), everything else NULL."""
        return self._partial(keys, DELETE)

    def fills(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows that say "this key has these values in columns that were added", everything else NULL."""
        return self._partial(rows, FILLED)

    def _partial(self, rows: pa.RecordBatch, operation: str) -> pa.RecordBatch:
        import pyarrow as pa

        by_name = {self.names[name]: rows.column(i) for i, name in enumerate(rows.schema.names)}
        data = self.schema.names[: len(self.schema) - 4]
        arrays = [
            by_name[name].cast(self.schema.field(name).type)
            if name in by_name
            else pa.nulls(rows.num_rows, self.schema.field(name).type)
            for name in data
        ]
        return pa.RecordBatch.from_arrays(arrays + self._metadata(operation, rows.num_rows), schema=self.schema)


def commit_bronze(lakehouse: Lakehouse, manifest: Manifest, schema: pa.Schema) -> CommitInfo:
    """Commit one manifest: a full read replaces the table's content, an incremental one appends, watermark included."""
    table = TableId(layer="bronze", connector=manifest.connector, table=manifest.table)
    return lakehouse.commit(
        table,
        manifest.parts + manifest.deletes + manifest.fills,
        schema,
        tag=manifest.tag,
        replace=manifest.mode == "full",
        watermark=manifest.watermark,
        base_tag=manifest.base_tag,
    )


def split_operations(batches: Iterator[pa.RecordBatch], op: str) -> Iterator[pa.RecordBatch]:
    """Only the rows of one operation (``u``, ``d`` or ``f``)."""
    pc = arrow_compute()
    for batch in batches:
        rows = batch.filter(pc.equal(batch.column(OP), op))
        if rows.num_rows:
            yield rows
