"""Values of added columns, joined to stored rows by key: DuckDB holds them, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets.lakehouse.data_files import fit
from assets.scratch_database import ScratchDatabase, quoted

if TYPE_CHECKING:
    import pyarrow as pa


class ColumnFill(ScratchDatabase):
    """Collects keys with the values of some columns, then gives stored rows those values.

    Args:
        key: key columns of the stored table.
        columns: the columns to fill, and their types.
        schema: the stored table's schema with them.
    """

    def __init__(
        self, key: Sequence[str], columns: pa.Schema, schema: pa.Schema, *, memory_limit: str, scratch: Path
    ) -> None:
        import pyarrow as pa

        super().__init__(memory_limit, scratch)
        self._key, self._schema, self._columns = list(key), schema, columns
        self._wanted = pa.schema([*(schema.field(name) for name in key), *columns])
        keys = [f"{quoted(name)} AS k{i}" for i, name in enumerate(key)]
        values = [f"{quoted(name)} AS v{i}" for i, name in enumerate(columns.names)]
        self._select = f"SELECT {', '.join([*keys, *values])} FROM incoming"
        self._keys = f"SELECT _headrace_row AS row, {', '.join(keys)} FROM incoming"
        self._db.register("incoming", self._wanted.empty_table())
        self._db.execute(f"CREATE TABLE fills AS {self._select}")

    def add(self, batch: pa.RecordBatch) -> None:
        import pyarrow as pa

        self._db.register("incoming", pa.Table.from_batches([fit(batch, self._wanted)]))
        self._db.execute(f"INSERT INTO fills {self._select}")
        self._db.unregister("incoming")

    def applied(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The stored rows with the columns filled; a row whose key was not collected keeps its values."""
        import pyarrow as pa

        same = " AND ".join(f"i.k{i} IS NOT DISTINCT FROM f.k{i}" for i in range(len(self._key)))
        values = ", ".join(f"f.v{i} AS v{i}" for i in range(len(self._columns)))
        for batch in batches:
            keys = pa.Table.from_batches([batch.select(self._key)])
            keys = keys.append_column("_headrace_row", pa.array(range(batch.num_rows), pa.int64()))
            self._db.register("incoming", keys)
            query = f"SELECT {values} FROM ({self._keys}) i LEFT JOIN fills f ON {same} ORDER BY i.row"
            found = self._db.execute(query).to_arrow_table()
            self._db.unregister("incoming")
            for number, field in enumerate(self._columns):
                value = found.column(number).cast(field.type).combine_chunks()
                array = value.chunk(0) if isinstance(value, pa.ChunkedArray) else value
                batch = batch.set_column(self._schema.get_field_index(field.name), field, array)
            yield batch
