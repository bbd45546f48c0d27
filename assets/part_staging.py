"""Writing the rows of one attempt as parts of its run's staging."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from assets.bronze import BronzeRows
from assets.failpoints import failpoint
from assets.lakehouse.interface import Lakehouse, PartWriter
from assets.sync import Part, TableSync

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.encoded_rows import EncodedRows

Progress = Callable[[int, int], None]
"""Called after every batch with the rows and bytes so far; may raise to cancel."""


class PartStaging:
    """The parts of one attempt at one table."""

    def __init__(self, lakehouse: Lakehouse, work: TableSync, attempt: int, progress: Progress) -> None:
        self._lakehouse, self._work, self._attempt, self._progress = lakehouse, work, attempt, progress

    def writer(self, stream: str, schema: pa.Schema) -> PartWriter:
        work = self._work
        return self._lakehouse.part_writer(work.connector, work.table, work.run_group, self._attempt, stream, schema)

    def stage(
        self, rows: BronzeRows, batches: Iterator[pa.RecordBatch | EncodedRows], stream: str = "rows"
    ) -> tuple[tuple[Part, ...], int]:
        """Write batches as parts of one stream; returns them and the rows' size in memory."""
        size = read_rows = 0
        inside = "during_extract" if stream == "rows" else "during_chunk"
        with self.writer(stream, rows.schema) as writer, closing(batches):  # type: ignore[type-var]
            for batch in batches:
                writer.write(rows.upserts(batch))
                size += batch.nbytes
                read_rows += batch.num_rows
                self._progress(read_rows, size)
                failpoint(inside)
        return writer.parts, size

    def watched(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches; their rows are progress."""
        rows = 0
        for batch in batches:
            rows += batch.num_rows
            self._progress(rows, 0)
            yield batch
