"""Of rows of which every version is kept, the live ones: of each key the newest version, if that is no delete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION
from assets.scratch_database import ScratchDatabase

if TYPE_CHECKING:
    import pyarrow as pa


class NewestVersions(ScratchDatabase):
    """Collects keys and what orders their versions; then tells which rows are live.

    Args:
        key: key columns.
        versions: batches with the key columns, ``_headrace_position``, ``_headrace_loaded_at`` and
            ``_headrace_deleted_at``.
        memory_limit, scratch: what the keys need beyond the memory limit spills into the folder.
    """

    def __init__(
        self, key: Sequence[str], versions: Iterable[pa.RecordBatch], *, memory_limit: str, scratch: Path
    ) -> None:
        super().__init__(memory_limit, scratch)
        keys = [f"k{i}" for i in range(len(key))]
        self._order = [*key, POSITION, LOADED_AT, DELETED_AT]
        self._names = [*keys, "p", "l", "d"]  # DuckDB tells no two names apart that differ by case only
        self._columns = f"{', '.join(self._names[:-1])}, d IS NOT NULL AS g"
        self._same = " AND ".join(f"v.{k} IS NOT DISTINCT FROM n.{k}" for k in [*keys, "p", "l"])
        created = False
        for batch in versions:
            self._db.register("incoming", batch.select(self._order).rename_columns(self._names))
            verb = "INSERT INTO versions" if created else "CREATE TABLE versions AS"
            self._db.execute(f"{verb} SELECT {self._columns} FROM incoming")
            self._db.unregister("incoming")
            created = True
        if not created:
            self._db.execute("CREATE TABLE newest (none INTEGER)")
            return
        grouped = ", ".join(keys)
        self._db.execute(
            f"CREATE TABLE newest AS SELECT {grouped}, n.p, n.l FROM "
            f"(SELECT {grouped}, max({{'p': p, 'l': l, 'g': g}}) AS n FROM versions GROUP BY {grouped}) WHERE NOT n.g"
        )
        self._db.execute("DROP TABLE versions")

    def count(self) -> int:
        """How many keys are live."""
        (rows,) = self._db.execute("SELECT count(*) FROM newest").fetchone() or (0,)
        return int(rows)

    def live(self, versions: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Of the same rows, read again, those that are live."""
        import pyarrow as pa

        for batch in versions:
            numbered = pa.Table.from_batches([batch.select(self._order).rename_columns(self._names)])
            numbered = numbered.append_column("row", pa.array(range(batch.num_rows), pa.int64()))
            self._db.register("incoming", numbered)
            rows = self._db.execute(
                f"SELECT row FROM (SELECT {self._columns}, row FROM incoming) v "
                f"SEMI JOIN newest n ON {self._same} WHERE NOT g ORDER BY row"
            ).to_arrow_table()
            self._db.unregister("incoming")
            if rows.num_rows:
                yield batch.take(rows.column(0).combine_chunks())
