"""What a Silver table that keeps versions has to gain: decided in DuckDB by key and row hash, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.lakehouse.data_files import fit
from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION
from assets.scratch_database import ScratchDatabase, quoted

if TYPE_CHECKING:
    import pyarrow as pa

VALID_FROM, VALID_TO, IS_CURRENT = "_headrace_valid_from", "_headrace_valid_to", "_headrace_is_current"


def history_schema(schema: pa.Schema) -> pa.Schema:
    """A Silver schema with the columns of ``scd2``: times in UTC, ``valid_to`` NULL for the current version."""
    import pyarrow as pa

    moment = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [*schema, pa.field(VALID_FROM, moment), pa.field(VALID_TO, moment), pa.field(IS_CURRENT, pa.bool_())]
    )


class VersionChanges(ScratchDatabase):
    """Compares rows that were read with the versions that are stored.

    Args:
        key: key columns; empty compares whole rows as multisets.
        compared: the columns that make a version, key included, and their types.
    """

    def __init__(self, key: Sequence[str], compared: pa.Schema, *, memory_limit: str, scratch: Path) -> None:
        import pyarrow as pa

        super().__init__(memory_limit, scratch)
        self._compared = compared
        self._key = list(key)
        self._keys = [f"k{i}" for i in range(len(key))]
        self._key_schema = pa.schema([compared.field(name) for name in key])
        self._named = ", ".join(f"{quoted(n)} AS {k}" for n, k in zip(key, self._keys, strict=True))
        self._hash = f"hash({', '.join(quoted(name) for name in compared.names)}) AS h"
        columns = ", ".join([*([self._named] if key else []), self._hash])
        self._db.register("incoming", compared.empty_table())
        self._db.execute(f"CREATE TABLE fresh AS SELECT 0::BIGINT AS row, {columns} FROM incoming")
        order = "0::BIGINT AS position, now() AS loaded, false AS gone"
        self._db.execute(f"CREATE TABLE stored AS SELECT {columns}, {order} FROM incoming")
        self._db.register("incoming", self._key_schema.empty_table() if key else compared.empty_table())
        self._db.execute(f"CREATE TABLE left_source AS SELECT {self._named or '1'} FROM incoming")
        self._columns = columns
        self._rows = 0

    def add_fresh(self, batch: pa.RecordBatch) -> None:
        """Rows as they were read, in the order in which ``opened`` will be asked for them."""
        import pyarrow as pa

        table = pa.Table.from_batches([fit(batch.select(self._compared.names), self._compared)])
        table = table.append_column(
            "_headrace_row", pa.array(range(self._rows, self._rows + batch.num_rows), pa.int64())
        )
        self._insert("fresh", f"_headrace_row, {self._columns}", table)
        self._rows += batch.num_rows

    def add_left(self, batch: pa.RecordBatch) -> None:
        """Keys that left the source."""
        import pyarrow as pa

        self._insert("left_source", self._named, pa.Table.from_batches([fit(batch, self._key_schema)]))

    def add_stored(self, batch: pa.RecordBatch) -> None:
        """Stored versions; of several with one key the newest counts (``_headrace_position``, then time)."""
        import pyarrow as pa

        fields = [*self._compared, *(batch.schema.field(n) for n in (POSITION, LOADED_AT, DELETED_AT))]
        order = f"{POSITION}, {LOADED_AT}, {DELETED_AT} IS NOT NULL"
        self._insert("stored", f"{self._columns}, {order}", pa.Table.from_batches([fit(batch, pa.schema(fields))]))

    def _insert(self, table: str, columns: str, rows: Any) -> None:
        self._db.register("incoming", rows)
        self._db.execute(f"INSERT INTO {table} SELECT {columns} FROM incoming")
        self._db.unregister("incoming")

    def decide(self, *, whole: bool) -> None:
        """Work out what is new, and what ended; ``whole``: the rows are all that the source has."""
        if not self._keys:
            self._db.execute(
                "CREATE TABLE opening AS SELECT row FROM "
                "(SELECT row, h, row_number() OVER (PARTITION BY h ORDER BY row) AS n FROM fresh) f "
                "LEFT JOIN (SELECT h AS sh, count(*) AS c FROM stored GROUP BY h) s ON f.h = s.sh"
                " WHERE n > coalesce(c, 0) ORDER BY row"
            )
            return
        keys = ", ".join(self._keys)
        newest = ", ".join(f"arg_max({c}, (position, loaded, gone)) AS {c}" for c in ("h", "gone"))
        self._db.execute(f"CREATE TABLE latest AS SELECT {keys}, {newest} FROM stored GROUP BY {keys}")
        same = " AND ".join(f"a.{k} IS NOT DISTINCT FROM b.{k}" for k in self._keys)
        mine = ", ".join(f"a.{k}" for k in self._keys)
        self._db.execute(
            "CREATE TABLE opening AS SELECT a.row FROM fresh a "
            f"LEFT JOIN (SELECT true AS f, * FROM latest) b ON {same} "
            "WHERE b.f IS NULL OR b.gone OR a.h <> b.h ORDER BY a.row"
        )
        closing = f"SELECT {mine}, false AS ended FROM latest a JOIN fresh b ON {same} "
        closing += "WHERE NOT a.gone AND a.h <> b.h"
        closing += f" UNION SELECT {mine}, true FROM latest a JOIN left_source b ON {same} WHERE NOT a.gone"
        if whole:
            closing += f" UNION SELECT {mine}, true FROM latest a ANTI JOIN fresh b ON {same} WHERE NOT a.gone"
        self._db.execute(f"CREATE TABLE closing AS {closing}")

    def newest(self) -> tuple[int, datetime | None]:
        """The greatest position and time of the stored versions."""
        row = self._db.execute("SELECT coalesce(max(position), 0), max(loaded) FROM stored").fetchone()
        assert row is not None
        return int(row[0]), row[1]

    def opened(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Of the rows that were added as fresh, in the same order, those that are new versions."""
        start = 0
        for batch in batches:
            rows = self._db.execute(
                "SELECT row - ? FROM opening WHERE row >= ? AND row < ? ORDER BY row",
                [start, start, start + batch.num_rows],
            ).fetchnumpy()
            start += batch.num_rows
            (indices,) = rows.values()
            if len(indices):
                yield batch.take(_indices(indices))

    def closed(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Of stored current versions those that ended."""
        import pyarrow as pa

        if not self._keys:
            return
        same = " AND ".join(f"i.{k} IS NOT DISTINCT FROM c.{k}" for k in self._keys)
        (count,) = self._db.execute("SELECT count(*) FROM closing").fetchone() or (0,)
        if not count:
            return
        for batch in batches:
            table = pa.Table.from_batches([fit(batch.select(self._key), self._key_schema)])
            table = table.append_column("_headrace_row", pa.array(range(batch.num_rows), pa.int64()))
            self._db.register("incoming", table)
            keys = f"(SELECT _headrace_row AS row, {self._named} FROM incoming)"
            query = f"SELECT row FROM {keys} i SEMI JOIN closing c ON {same} ORDER BY row"
            (indices,) = self._db.execute(query).fetchnumpy().values()
            self._db.unregister("incoming")
            if len(indices):
                yield batch.take(_indices(indices))

    def ended_keys(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The keys that left the source, under their own names."""
        import pyarrow as pa

        if not self._keys:
            return
        result = self._db.execute(f"SELECT {', '.join(self._keys)} FROM closing WHERE ended")
        for batch in result.to_arrow_reader(batch_rows):
            renamed = batch.rename_columns(self._key)
            yield pa.RecordBatch.from_arrays(fit(renamed, self._key_schema).columns, schema=self._key_schema)


def _indices(numbers: Any) -> pa.Array:
    import pyarrow as pa

    return pa.array(numbers, pa.int64())
