"""Which rows of a stream are the last of their key: keys go into a scratch database, then the rows pass by again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.scratch_database import ScratchDatabase

if TYPE_CHECKING:
    import pyarrow as pa


class NewestRows(ScratchDatabase):
    """Keys compare NULL-safe. Memory is bounded: what does not fit spills."""

    def __init__(self, key: Sequence[str], scratch: Path | None, memory_limit: str = "256MB") -> None:
        super().__init__(memory_limit, scratch or Path(tempfile.gettempdir()) / "headrace-scratch")
        self._places = [f"k{i}" for i in range(len(key))]  # names may differ by case only
        self._columns = ", ".join(self._places)
        self._names = list(key)
        self._rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the keys of the next rows, in the order in which later ones win."""
        import pyarrow as pa

        numbers = pa.arange(self._rows, self._rows + batch.num_rows)
        arrays = [batch.column(batch.schema.get_field_index(name)) for name in self._names]
        numbered = pa.Table.from_arrays([*arrays, numbers], names=[*self._places, "_headrace_row"])
        self._db.register("incoming", numbered)
        verb = "INSERT INTO keys" if self._rows else "CREATE OR REPLACE TABLE keys AS"
        self._db.execute(f"{verb} SELECT {self._columns}, _headrace_row FROM incoming")
        self._db.unregister("incoming")
        self._rows += batch.num_rows

    def winners(self) -> int:
        """How many keys there are."""
        if not self._rows:
            return 0
        self._db.execute(
            f"CREATE TABLE IF NOT EXISTS winners AS SELECT max(_headrace_row) AS n FROM keys GROUP BY {self._columns}"
        )
        row = self._db.execute("SELECT count(*) FROM winners").fetchone()
        return int(row[0]) if row else 0

    def filtered(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Of the same rows again, in the same order, those that are the last of their key."""
        import pyarrow as pa

        winners: Iterator[int] = iter(())
        if self.winners():
            winners = self._numbers(self._db.execute("SELECT n FROM winners ORDER BY n"))
        start, winner = 0, next(winners, -1)
        for batch in batches:
            kept = []
            while start <= winner < start + batch.num_rows:
                kept.append(winner - start)
                winner = next(winners, -1)
            start += batch.num_rows
            if kept:
                yield batch.take(pa.array(kept, pa.int64())) if len(kept) < batch.num_rows else batch

    @staticmethod
    def _numbers(result: Any) -> Iterator[int]:
        for batch in result.to_arrow_reader(65_536):
            yield from batch.column(0).to_pylist()
