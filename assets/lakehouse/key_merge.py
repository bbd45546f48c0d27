"""Which rows of a table's files hold given keys: DuckDB reads only the key columns, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets.errors import LakehouseError
from assets.lakehouse.data_files import file_batches
from assets.lakehouse.storage import Storage
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

    def rows_in(self, storage: Storage, files: Sequence[str]) -> dict[str, dict[int, bool]]:
        """For each file that holds a touched key: its row numbers in order, and whether each is a delete."""
        import pyarrow as pa

        if not self.count:
            return {}
        schema = pa.schema([pa.field("row", pa.int64()), *(f.with_name(f"k{i}") for i, f in enumerate(self._schema))])
        same = " AND ".join(f"f.k{i} IS NOT DISTINCT FROM t.k{i}" for i in range(len(self._key)))
        found: dict[str, dict[int, bool]] = {}
        for address in files:
            numbered = pa.RecordBatchReader.from_batches(schema, self._numbered(storage, address, schema))
            self._db.register("stored", numbered)
            rows = self._db.execute(
                f"SELECT f.row, bool_and(t.gone) FROM stored f JOIN touched t ON {same} GROUP BY ALL ORDER BY 1"
            ).fetchall()
            if rows:
                found[address] = dict(rows)
        return found

    def _numbered(self, storage: Storage, address: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        start = 0
        for batch in file_batches(storage, address, self._schema):
            numbers = pa.arange(start, start + batch.num_rows)
            yield pa.RecordBatch.from_arrays([numbers, *batch.columns], schema=schema)
            start += batch.num_rows
