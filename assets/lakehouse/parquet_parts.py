"""Parquet parts: written in the background with bounded memory, described by the statistics in their footers."""

from __future__ import annotations

import decimal
import json
import queue
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.lakehouse.interface import PartWriter
from assets.sync import Part

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS = 4_000_000
ROW_GROUP_ROWS = 262_144
ROW_GROUP_BYTES = 48 << 20
STATISTICS_COLUMNS = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BackgroundPartWriter(PartWriter):
    """Encodes on a thread of its own, so that reading and encoding overlap. At most two batches wait."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder = folder
        self._schema = schema
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._parts: list[Part] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="part-writer", daemon=True)
        self._thread.start()

    def write(self, batch: pa.RecordBatch) -> None:
        if self._error:
            raise self._error
        self._queue.put(batch)

    def close(self) -> tuple[Part, ...]:
        self._queue.put(None)
        self._thread.join()
        if self._error:
            raise self._error
        return tuple(self._parts)

    def abort(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        for path in self._folder.glob("part-*"):
            path.unlink(missing_ok=True)

    def _run(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        writer: Any = None
        part_rows = held_rows = held_bytes = 0
        held: list[Any] = []
        path = self._folder

        def flush() -> None:
            nonlocal held_rows, held_bytes
            if held:
                writer.write_table(pa.Table.from_batches(held, self._schema), row_group_size=ROW_GROUP_ROWS)
                held.clear()
                held_rows = held_bytes = 0

        def finish() -> None:
            nonlocal writer, part_rows
            flush()
            writer.close()
            writer = None
            final = path.with_suffix("")
            path.rename(final)
            self._parts.append(Part(uri=str(final), rows=part_rows, bytes=final.stat().st_size))
            part_rows = 0

        try:
            while (batch := self._queue.get()) is not None:
                if batch.num_rows == 0:
                    continue
                if writer is None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    path = self._folder / f"part-{len(self._parts)}.parquet.tmp"
                    writer = pq.ParquetWriter(
                        path, self._schema, compression="snappy", store_schema=False, write_statistics=True
                    )
                held.append(batch)
                held_rows += batch.num_rows
                held_bytes += batch.nbytes
                part_rows += batch.num_rows
                if held_rows >= ROW_GROUP_ROWS or held_bytes >= ROW_GROUP_BYTES:
                    flush()
                if part_rows >= PART_ROWS:
                    finish()
            if writer is not None:
                finish()
        except BaseException as error:  # handed to the caller by write() or close()
            self._error = error
            while self._queue.get() is not None:
                pass


def delta_statistics(path: Path, schema: pa.Schema) -> tuple[int, str]:
    """Rows, and Delta's statistics JSON (numRecords, minValues, maxValues, nullCount), from the Parquet footer.

    NULL counts cover every metadata column, the rest the first ``STATISTICS_COLUMNS`` columns, as Delta does.
    """
    import pyarrow.parquet as pq

    footer = pq.read_metadata(path)
    lows: dict[str, Any] = {}
    highs: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    names = footer.schema.to_arrow_schema().names
    for index, name in enumerate(names):
        if index >= STATISTICS_COLUMNS and not name.startswith("_headrace_"):
            continue
        kind = schema.field(name).type if name in schema.names else None
        if kind is None:
            continue
        groups = [footer.row_group(g).column(index).statistics for g in range(footer.num_row_groups)]
        if any(s is None for s in groups):
            continue
        nulls[name] = sum(s.null_count or 0 for s in groups)
        bounds = [(_bound(kind, s, "min"), _bound(kind, s, "max")) for s in groups if s.has_min_max]
        if bounds and all(lo is not None and hi is not None for lo, hi in bounds):
            lows[name] = min(lo for lo, _ in bounds)
            highs[name] = max(hi for _, hi in bounds)
    text = json.dumps(
        {
            "numRecords": footer.num_rows,
            "minValues": {name: _json(value) for name, value in lows.items()},
            "maxValues": {name: _json(value) for name, value in highs.items()},
            "nullCount": nulls,
        }
    )
    return footer.num_rows, text


def _bound(kind: pa.DataType, statistics: Any, side: str) -> Any:
    import pyarrow.types as types

    if types.is_integer(kind):
        return getattr(statistics, side)
    if types.is_date(kind) or types.is_timestamp(kind):
        # the typed accessors import pandas, which takes over a second
        raw = getattr(statistics, f"{side}_raw")
        try:
            moment = _EPOCH + (timedelta(days=raw) if types.is_date(kind) else timedelta(microseconds=raw))
        except OverflowError:
            return None
        if types.is_date(kind):
            return moment.date()
        return moment if kind.tz else moment.replace(tzinfo=None)
    return None


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(timespec="microseconds") + ("Z" if value.tzinfo else "")
    if isinstance(value, date):
        return value.isoformat()
    return float(value) if isinstance(value, decimal.Decimal) else value
