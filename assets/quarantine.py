"""Rows whose values do not fit the stored column any more: set aside in a quarantine table, one row a value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from assets.arrow_compute import arrow_compute
from assets.lakehouse.interface import LOADED_AT, RUN, Lakehouse, TableId
from assets.sync import CommitInfo, Manifest

if TYPE_CHECKING:
    import pyarrow as pa

MAX_VALUE = 4_000
"""Characters of a value's text that the quarantine table keeps."""


def quarantine_schema() -> pa.Schema:
    """``table_name``, ``key`` (JSON), ``column_name``, ``reason``, ``value`` (text), and the run."""
    import pyarrow as pa

    fields = [pa.field(n, pa.string()) for n in ("table_name", "key", "column_name", "reason", "value", RUN)]
    return pa.schema([*fields, pa.field(LOADED_AT, pa.timestamp("us", tz="UTC"))])


class Misfits(Protocol):
    """Takes the values that do not fit; ``rows`` counts the source's rows that hold any."""

    rows: int

    def add(self, key: str, column: str, reason: str, value: str) -> None: ...


class QuarantineRows:
    """Collects misfits into batches for a part writer."""

    def __init__(self, writer: Any, table: str, tag: str, loaded_at: datetime) -> None:
        self._writer, self._table, self._tag, self._loaded_at = writer, table, tag, loaded_at
        self._held: list[dict[str, Any]] = []
        self.rows = 0

    def add(self, key: str, column: str, reason: str, value: str) -> None:
        self._held.append(
            {
                "table_name": self._table,
                "key": key,
                "column_name": column,
                "reason": reason,
                "value": value[:MAX_VALUE],
                RUN: self._tag,
                LOADED_AT: self._loaded_at,
            }
        )
        if len(self._held) >= 10_000:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if self._held:
            self._writer.write(pa.RecordBatch.from_pylist(self._held, schema=quarantine_schema()))
            self._held = []


def quarantine_table(connector: str, table: str) -> TableId:
    """``<catalog>.quarantine.<connector>__<table>``, a Delta table like the others; made when there is a first row."""
    return TableId(layer="quarantine", connector=connector, table=table)


def commit_quarantine(lakehouse: Lakehouse, manifest: Manifest) -> CommitInfo:
    """Append the run's misfits, tagged, before Bronze gets its rows."""
    table = quarantine_table(manifest.connector, manifest.table)
    return lakehouse.commit(table, manifest.quarantined, quarantine_schema(), tag=manifest.tag, replace=False)


def quarantine_uri(lakehouse: Lakehouse, connector: str, table: str) -> str | None:
    """Where the quarantine table is, if there is one."""
    quarantine = quarantine_table(connector, table)
    return lakehouse.uri(quarantine) if lakehouse.state(quarantine) else None


def convert(
    batch: pa.RecordBatch, kinds: dict[str, pa.DataType], key: Sequence[str], misfits: Misfits | None
) -> pa.RecordBatch:
    """The batch with columns under their stored types, without the rows that hold a value that has none there.

    A value fits if it comes back unchanged when it is cast to the stored type and back.
    """
    import pyarrow as pa

    pc = arrow_compute()
    columns, fields, bad = list(batch.columns), list(batch.schema), pa.repeat(False, batch.num_rows)
    for index, field in enumerate(batch.schema):
        kind = kinds.get(field.name)
        if kind is None or kind == field.type:
            continue
        columns[index], misfit = _cast(batch.column(index), kind)
        fields[index] = field.with_type(kind)
        bad = pc.or_(bad, misfit)
        if misfits is not None:
            for row in pc.indices_nonzero(misfit).to_pylist():
                reason = f"{field.type} does not fit the stored {kind}"
                misfits.add(_key_text(batch, key, row), field.name, reason, _text(batch.column(index)[row]))
    converted = pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
    left = pc.sum(bad).as_py() or 0
    if misfits is not None:
        misfits.rows += left
    return converted.filter(pc.invert(bad)) if left else converted


def _cast(values: pa.Array, kind: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """The values under the type, NULL where they do not fit, and which those are."""
    import pyarrow as pa

    pc = arrow_compute()
    try:
        cast = values.cast(kind)
        same = pc.fill_null(pc.equal(cast.cast(values.type), values), True)
        if pc.all(same).as_py() in (True, None):
            return cast, pc.invert(same)
        return pc.if_else(same, cast, pa.scalar(None, kind)), pc.invert(same)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(values) == 1:
            return pa.nulls(1, kind), pc.is_valid(values)
    half = len(values) // 2
    (left, left_bad), (right, right_bad) = _cast(values.slice(0, half), kind), _cast(values.slice(half), kind)
    return pa.concat_arrays([left, right]), pa.concat_arrays([left_bad, right_bad])


def _key_text(batch: pa.RecordBatch, key: Sequence[str], row: int) -> str:
    return json.dumps([_text(batch.column(name)[row]) for name in key if name in batch.schema.names])


def _text(value: Any) -> str:
    plain = value.as_py()
    if isinstance(plain, bytes):
        return plain.hex()
    return plain.isoformat() if hasattr(plain, "isoformat") else str(plain)
