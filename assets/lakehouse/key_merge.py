"""Which rows of a table's files hold given keys: DuckDB reads only the key columns, with bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets.errors import LakehouseError
from assets.scratch_database import ScratchDatabase, quoted

if TYPE_CHECKING:
    import pyarrow as pa


class TouchedKeys(ScratchDatabase):
    """The keys of one change set: upserted or deleted. Keys compare NULL-safe."""

    def __init__(self, key: Sequence[str], schema: pa.Schema, *, memory_limit: str, scratch: Path) -> None:
        import pyarrow as pa

        super().__init__(memory_limit, scratch)
        self._key = list(key)
        self._schema = pa.schema([schema.field(name) for name in key])
        columns = ", ".join(f"{quoted(name)} AS k{i}" for i, name in enumerate(key))
        self._select = f"SELECT {columns}, ?::BOOLEAN AS gone FROM incoming"
        self._db.register("incoming", self._schema.empty_table())
        self._db.execute(f"CREATE TABLE touched AS {self._select}", [False])
        self.count = 0

    def add(self, batch: pa.RecordBatch, *, gone: bool) -> None:
        import pyarrow as pa

        self._db.register("incoming", pa.Table.from_batches([batch.select(self._key)]).cast(self._schema))
        self._db.execute(f"INSERT INTO touched {self._select}", [gone])
        self.count += batch.num_rows

    def require_unique(self, where: str) -> None:
        """Raises LakehouseError naming a few keys that occur twice among the upserts."""
        keys = ", ".join(f"k{i}" for i in range(len(self._key)))
        twice = self._db.execute(
            f"SELECT {keys} FROM touched WHERE NOT gone GROUP BY ALL HAVING count(*) > 1 LIMIT 3"
        ).fetchall()
        if twice:
            raise LakehouseError(
                f"the key ({', '.join(self._key)}) is not unique in the source, for example {twice}",
                where=where,
                remedy="Name columns that identify a row with --key, or sync with --mode full.",
            )

    def rows_in(self, files: Sequence[Path]) -> dict[str, dict[int, bool]]:
        """For each file that holds a touched key: its row numbers in order, and whether each is a delete."""
        if not files or not self.count:
            return {}
        same = " AND ".join(f"f.{quoted(name)} IS NOT DISTINCT FROM t.k{i}" for i, name in enumerate(self._key))
        found: dict[str, dict[int, bool]] = {}
        for path in files:
            rows = self._db.execute(
                "SELECT f.file_row_number, bool_and(t.gone) FROM read_parquet(?, file_row_number = true) f "
                f"JOIN touched t ON {same} GROUP BY ALL ORDER BY 1",
                [str(path)],
            ).fetchall()
            if rows:
                found[str(path)] = dict(rows)
        return found
