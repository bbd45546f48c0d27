"""Changes of a source's log as complete Bronze rows: what the log leaves out is filled in from what is stored.

Two things are not in a log: the values of large columns that an update did not touch (PostgreSQL leaves them out), and
which rows a truncate removed. Both are found out at the end of the read, from the run's own rows and from Silver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets.bronze import DELETE, UPSERT, BronzeRows
from assets.errors import MismatchError
from assets.lakehouse.interface import OP, POSITION
from assets.scratch_database import ScratchDatabase, quoted

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.sources.interface import ChangeBatch

BATCH_ROWS = 8_192
Stored = Callable[[Sequence[str]], Iterator["pa.RecordBatch"]]


class ChangeStaging(ScratchDatabase):
    """Collects a run's changes; rows that lack something wait in the scratch database.

    Args:
        rows: makes Bronze rows.
        key: source names of the key columns.
        stored: reads source columns of Silver's live rows, as they were before this run.
    """

    def __init__(
        self, rows: BronzeRows, key: Sequence[str], stored: Stored, *, memory_limit: str, scratch: Path, where: str
    ) -> None:
        super().__init__(memory_limit, scratch)
        self._rows, self._key, self._stored, self._where = rows, list(key), stored, where
        self._bronze_key = [rows.names[name] for name in key]
        self._lacking: dict[str, pa.DataType] = {}
        self._waiting = False

    def complete(self, change: ChangeBatch) -> pa.RecordBatch | None:
        """The batch as Bronze rows; None where it has to wait for what it lacks."""
        if not change.missing:
            return self._rows.changes(change.rows, change.op, change.positions)
        import pyarrow as pa

        assert change.before is not None and change.before_positions is not None
        flags = [pa.repeat(name in change.missing, change.rows.num_rows) for name in change.rows.schema.names]
        table = pa.Table.from_arrays(
            [*change.rows.columns, *change.before.columns, change.positions, change.before_positions, *flags],
            names=[
                *(f"v{i}" for i in range(change.rows.num_columns)),
                *(f"b{i}" for i in range(len(self._key))),
                "position",
                "before",
                *(f"m{i}" for i in range(change.rows.num_columns)),
            ],
        )
        for name in change.missing:
            self._lacking[name] = change.rows.schema.field(name).type
        self._db.register("incoming", table)
        verb = "INSERT INTO waiting SELECT * FROM" if self._waiting else "CREATE TABLE waiting AS SELECT * FROM"
        self._db.execute(f"{verb} incoming")
        self._db.unregister("incoming")
        self._waiting = True
        return None

    # at the end of the read

    def filled(self, staged: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
        """The rows that waited, complete.

        A column that an update did not touch holds what the row held before: what this run staged last for that key,
        else what Silver holds.

        Args:
            staged: reads Bronze columns of the rows that this run staged.

        Raises:
            MismatchError: neither knows the row.
        """
        if not self._waiting:
            return
        import pyarrow as pa

        names = self._rows.names
        order = [name for name in names if names[name] in self._rows.schema.names]
        for name in self._lacking:
            self._fill_column(order.index(name), name, staged)
        columns = ", ".join(f"v{i}" for i in range(len(order)))
        result = self._db.execute(f"SELECT {columns}, position FROM waiting ORDER BY position")
        fields = [self._rows.schema.field(names[name]).with_name(name) for name in order]
        for batch in result.to_arrow_reader(BATCH_ROWS):
            arrays = [batch.column(i).cast(field.type) for i, field in enumerate(fields)]
            values = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
            yield self._rows.changes(values, UPSERT, batch.column(len(order)))

    def _fill_column(self, index: int, name: str, staged: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]) -> None:
        keys = range(len(self._key))
        bronze = self._rows.names[name]
        own_key = [list(self._rows.names).index(column) for column in self._key]
        # anchors: rows of this run that hold the value, and rows that wait for it under a key they moved to
        self._collect(
            "anchors",
            staged([*self._bronze_key, bronze, POSITION, OP]),
            ", ".join([*(f"{quoted(k)} AS k{i}" for i, k in enumerate(self._bronze_key)), f"{quoted(bronze)} AS value"])
            + f", {POSITION} AS position, {OP} AS op",
        )
        keyed = ", ".join(f"v{place} AS k{i}" for i, place in enumerate(own_key))
        same = " AND ".join(f"a.k{i} IS NOT DISTINCT FROM w.b{i}" for i in keys)
        while True:
            self._db.execute(
                f"CREATE OR REPLACE TABLE all_anchors AS SELECT *, true AS known FROM anchors WHERE op = '{UPSERT}' "
                f"UNION ALL SELECT {keyed}, v{index}, position, '{UPSERT}', NOT m{index} FROM waiting "
                f"WHERE NOT m{index} OR before <> position"
            )
            # the latest anchor of the key the row had, before the row
            self._db.execute(
                "CREATE OR REPLACE TABLE found AS SELECT w.position AS waiter, max(a.position) AS anchor "
                f"FROM waiting w JOIN all_anchors a ON {same} AND a.position < w.before WHERE w.m{index} GROUP BY 1"
            )
            row = self._db.execute(
                "SELECT count(*) FROM found f JOIN all_anchors a ON a.position = f.anchor WHERE a.known"
            ).fetchone()
            if not row or not row[0]:
                break
            self._db.execute(
                f"UPDATE waiting SET v{index} = f.value, m{index} = false FROM (SELECT f.waiter, a.value FROM found f "
                "JOIN all_anchors a ON a.position = f.anchor WHERE a.known) f WHERE waiting.position = f.waiter"
            )
            if not self._left(index):
                return
        if self._from_silver(index, name):
            self._fill_column(index, name, staged)  # rows that had moved wait for those just filled

    def _left(self, index: int) -> int:
        row = self._db.execute(f"SELECT count(*) FROM waiting WHERE m{index}").fetchone()
        return int(row[0]) if row else 0

    def _from_silver(self, index: int, name: str) -> bool:
        """Fill the rows that this run knows nothing of; true if others still wait.

        Raises:
            MismatchError: Silver has no such row.
        """
        wanted = ", ".join(f"b{i}" for i in range(len(self._key)))
        self._db.execute(
            f"CREATE OR REPLACE TABLE wanted AS SELECT DISTINCT {wanted} FROM waiting w "
            f"WHERE m{index} AND position NOT IN (SELECT waiter FROM found)"
        )
        same = " AND ".join(f"s.k{i} IS NOT DISTINCT FROM w.b{i}" for i in range(len(self._key)))
        keys = ", ".join(f"{quoted(column)} AS k{i}" for i, column in enumerate(self._key))
        created = False
        for batch in self._stored([*self._key, name]):
            self._db.register("incoming", batch)
            verb = "INSERT INTO silver" if created else "CREATE OR REPLACE TABLE silver AS"
            self._db.execute(
                f"{verb} SELECT s.* FROM (SELECT {keys}, {quoted(name)} AS value FROM incoming) s "
                f"SEMI JOIN wanted w ON {same}"
            )
            self._db.unregister("incoming")
            created = True
        before = self._left(index)
        if created:
            self._db.execute(
                f"UPDATE waiting SET v{index} = s.value, m{index} = false FROM silver s WHERE m{index} AND "
                f"position NOT IN (SELECT waiter FROM found) AND {same.replace('w.', 'waiting.')}"
            )
        left = self._left(index)
        if left and left == before:
            raise MismatchError(
                f"{left} updates left the value of column {name} out, and it is stored nowhere",
                where=self._where,
                remedy=f"Run: headrace sync {self._where.replace('/', ' ')} --mode cdc --reset",
            )
        return left > 0

    def _collect(self, table: str, batches: Iterator[pa.RecordBatch], columns: str) -> None:
        created = False
        for batch in batches:
            self._db.register("incoming", batch)
            verb = f"INSERT INTO {table}" if created else f"CREATE OR REPLACE TABLE {table} AS"
            self._db.execute(f"{verb} SELECT {columns} FROM incoming")
            self._db.unregister("incoming")
            created = True
        if not created:
            self._db.register("incoming", self._rows.schema.empty_table())
            self._db.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {columns} FROM incoming")
            self._db.unregister("incoming")

    def truncated(
        self, truncates: Sequence[int], staged: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    ) -> Iterator[pa.RecordBatch]:
        """A delete, at the truncate's position, of every row that was live then."""
        if not truncates:
            return
        import pyarrow as pa

        keys = ", ".join(f"k{i}" for i in range(len(self._key)))
        columns = ", ".join(f"{quoted(k)} AS k{i}" for i, k in enumerate(self._bronze_key))
        self._collect(
            "events", staged([*self._bronze_key, POSITION, OP]), f"{columns}, {POSITION} AS position, {OP} AS op"
        )
        named = ", ".join(f"{quoted(k)} AS k{i}" for i, k in enumerate(self._key))
        for batch in self._stored(self._key):
            self._db.register("incoming", batch)
            self._db.execute(f"INSERT INTO events SELECT {named}, -1, '{UPSERT}' FROM incoming")
            self._db.unregister("incoming")
        source_schema = pa.schema(
            [self._rows.schema.field(self._rows.names[name]).with_name(name) for name in self._key]
        )
        for position in sorted(truncates):
            result = self._db.execute(
                f"SELECT {keys} FROM (SELECT * FROM events WHERE position < {int(position)} QUALIFY row_number() OVER "
                f"(PARTITION BY {keys} ORDER BY position DESC) = 1) WHERE op = '{UPSERT}'"
            ).to_arrow_table()
            self._db.register("gone", result)
            self._db.execute(f"INSERT INTO events SELECT {keys}, {int(position)}, '{DELETE}' FROM gone")
            self._db.unregister("gone")
            for batch in result.to_batches(BATCH_ROWS):
                gone = pa.RecordBatch.from_arrays(
                    [c.cast(f.type) for c, f in zip(batch.columns, source_schema, strict=True)], schema=source_schema
                )
                deletes = self._rows.deletes(gone)
                index = deletes.schema.get_field_index(POSITION)
                positions = pa.repeat(pa.scalar(int(position), pa.int64()), gone.num_rows)
                yield deletes.set_column(index, deletes.schema.field(index), positions)
