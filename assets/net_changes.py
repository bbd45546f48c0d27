"""Of many changes of one key, the last: what a run's changes come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets.bronze import UPSERT
from assets.lakehouse.interface import LOADED_AT, OP, POSITION, RUN
from assets.scratch_database import ScratchDatabase, quoted

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 65_536


class NetChanges(ScratchDatabase):
    """The last change of each key among the rows that one run brought to Bronze, by their positions.

    Args:
        changes: reads the rows, as often as it is called.
        key: Bronze's key columns.
        memory_limit, scratch: what the keys need beyond the memory limit spills into the folder.
    """

    def __init__(
        self, changes: Callable[[], Iterator[pa.RecordBatch]], key: Sequence[str], *, memory_limit: str, scratch: Path
    ) -> None:
        super().__init__(memory_limit, scratch)
        self._changes = changes
        self._keys = ", ".join(quoted(name) for name in key)
        self._names = [*key, RUN, LOADED_AT, POSITION]
        self._known = False

    def _fold(self) -> bool:
        """Note the last change of each key; false if there is no change at all."""
        if self._known:
            return True
        for batch in self._changes():
            self._db.register("incoming", batch.select([*self._names, OP]))
            verb = "INSERT INTO changes" if self._known else "CREATE TABLE changes AS"
            # one batch holds many changes of a hot key
            self._db.execute(
                f"{verb} SELECT {self._keys}, {RUN}, {LOADED_AT}, {POSITION}, {OP} FROM incoming "
                f"QUALIFY row_number() OVER (PARTITION BY {self._keys} ORDER BY {POSITION} DESC) = 1"
            )
            self._db.unregister("incoming")
            self._known = True
        if self._known:
            self._db.execute(
                "CREATE TABLE last AS SELECT * FROM changes "
                f"QUALIFY row_number() OVER (PARTITION BY {self._keys} ORDER BY {POSITION} DESC) = 1"
            )
            self._db.execute("DROP TABLE changes")
        return self._known

    def upserts(self) -> Iterator[pa.RecordBatch]:
        """Full rows, as Bronze holds them, of the keys that are there in the end."""
        import pyarrow as pa

        if not self._fold():
            return
        for batch in self._changes():
            numbered = [pa.arange(0, batch.num_rows), batch.column(POSITION), batch.column(OP)]
            self._db.register("incoming", pa.table(numbered, names=["row", POSITION, OP]))
            query = (
                f"SELECT i.row FROM incoming i SEMI JOIN last l ON i.{POSITION} = l.{POSITION} "
                f"WHERE i.{OP} = '{UPSERT}' ORDER BY 1"
            )
            rows = self._db.execute(query).to_arrow_table()
            self._db.unregister("incoming")
            if rows.num_rows:
                yield pa.Table.from_batches([batch]).take(rows.column(0)).combine_chunks().to_batches()[0]

    def deletes(self) -> Iterator[pa.RecordBatch]:
        """The keys that are gone in the end, with the run's metadata columns."""
        if self._fold():
            columns = f"{self._keys}, {RUN}, {LOADED_AT}, {POSITION}"
            result = self._db.execute(f"SELECT {columns} FROM last WHERE {OP} <> '{UPSERT}'")
            yield from result.to_arrow_reader(BATCH_ROWS)
