"""Step 2 of a table that is read in one go: the window's rows, deletes and fills as staged parts, then the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assets.bronze import BronzeRows
from assets.key_values import told_apart
from assets.lakehouse.interface import OP, POSITION, TableId
from assets.part_staging import PartStaging, Progress
from assets.quarantine import QuarantineRows, quarantine_schema
from assets.row_comparison import RowComparison
from assets.shaped_read import ShapedRead, ShapedSource
from assets.silver import stored_rows
from assets.sources.interface import BATCH_ROWS, OBJECT_COLUMNS, CarefulReadNeeded
from assets.sync import Part, TableSync, WindowPlan
from assets.table_shape import drift_of_reading
from assets.unchanged_rows import changes_only

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.encoded_rows import EncodedRows
    from assets.steps import SyncSteps


@dataclass(frozen=True)
class _Staged:
    """What one pass over the window's rows wrote."""

    parts: tuple[Part, ...]
    size: int
    quarantined: tuple[Part, ...] = ()
    rows_quarantined: int = 0


class WindowExtraction:
    """One attempt at one window."""

    def __init__(self, steps: SyncSteps, work: TableSync, attempt: int, progress: Progress) -> None:
        self._steps, self._work, self._attempt, self._progress = steps, work, attempt, progress
        self._lakehouse = steps.lakehouse
        self._staging = PartStaging(steps.lakehouse, work, attempt, progress)

    def run(self, plan: WindowPlan) -> str:
        """Stage the rows and write the manifest. Returns its URI."""
        work = self._work
        source = self._steps.shaped(work.connector, plan.shape)
        with source.open_read(plan, self._loaded_objects(plan), self._progress) as shaped:
            told = drift_of_reading(work, plan, shaped.read.columns) if shaped.read.columns else plan
            if told is not plan and told.mode == plan.mode:
                source = self._steps.shaped(work.connector, told.shape)
                shaped = source.of(shaped.read, told)
            if told.mode == plan.mode:
                uri = self._extracted(told, source, shaped)
                if uri is not None:
                    return uri
                told = self._steps.planned_exactly(work, plan, self._progress)
        return self._steps.extract(work, told, self._attempt, self._progress)

    def _extracted(self, plan: WindowPlan, source: ShapedSource, shaped: ShapedRead) -> str | None:
        """The manifest's URI; None: the plan lacks columns that came."""
        read, work = shaped.read, self._work
        rows = BronzeRows(shaped.schema, plan.tag, self._steps.position_of(plan, read))
        silver = self._steps.silver_table(work.connector, work.table, [c.name for c in shaped.columns], plan.shape)
        merged = plan.key if plan.mode == "incremental" and plan.shape.write != "append" else ()
        where = f"{work.connector}/{work.table}"
        with changes_only(self._lakehouse, silver, plan, shaped, self._steps.settings) as changes:
            try:
                # a re-read is compared value by value
                unseen = self._lakehouse.stores_encoded_rows and not read.rereads
                read_rows = shaped.encoded_batches() if unseen else shaped.batches()
                staged = self._staged(plan, rows, shaped, changes(told_apart(read_rows, merged, where)))
            except CarefulReadNeeded:
                careful = changes(told_apart(shaped.careful_batches(), merged, where))
                staged = self._staged(plan, rows, shaped, careful)
        if read.unforeseen:
            return None
        deleted: tuple[Part, ...] = ()
        if plan.mode == "incremental" and not plan.backfill:
            known = shaped.deleted_keys(work.deletes == "keys")
            if known is not None:
                deleted = self._known_deletes(known, rows)
            elif work.deletes == "keys":
                deleted = self._deletes(plan, shaped, rows)
        filled = self._fills(plan, source, rows) if plan.shape.filled else ()
        found = {
            "parts": staged.parts,
            "deletes": deleted,
            "fills": filled,
            "quarantined": staged.quarantined,
            "rows_read": sum(part.rows for part in staged.parts),
            "rows_deleted": sum(part.rows for part in deleted),
            "rows_filled": sum(part.rows for part in filled),
            "rows_quarantined": staged.rows_quarantined,
            "future_rows": read.future_rows,
            "unfit_values": read.unfit_values,
            "bytes_read": staged.size,
            "reader": read.reader,
            "source_rows": None if plan.backfill else shaped.source_rows(),
        }
        return self._steps.write_manifest(work, plan, read, self._attempt, found)

    def _staged(
        self, plan: WindowPlan, rows: BronzeRows, shaped: ShapedRead, batches: Iterator[pa.RecordBatch | EncodedRows]
    ) -> _Staged:
        """Stage the rows, and beside them those that do not fit the stored types."""
        if not plan.shape.converts:
            return _Staged(*self._staging.stage(rows, batches))
        with self._staging.writer("quarantine", quarantine_schema()) as aside:
            shaped.misfits = misfits = QuarantineRows(aside, self._work.table, plan.tag, rows.loaded_at)
            parts, size = self._staging.stage(rows, batches)
            misfits.flush()
        return _Staged(parts, size, aside.parts, misfits.rows)

    def _loaded_objects(self, plan: WindowPlan) -> Callable[[], Iterator[pa.RecordBatch]] | None:
        """What a table of objects holds already is told by its Bronze table: each row names its object and version."""
        if plan.table.tracks != "objects" or plan.mode == "full":
            return None
        bronze = TableId(layer="bronze", connector=self._work.connector, table=self._work.table)
        columns = [*OBJECT_COLUMNS, OP, POSITION]
        if plan.shape.row_filter or plan.shape.converts:  # not every row of an object is stored
            columns += plan.key

        def loaded() -> Iterator[pa.RecordBatch]:
            with self._lakehouse.scan(bronze, list(dict.fromkeys(columns)), live=False) as rows:
                yield from rows

        return loaded

    def _known_deletes(self, keys: Iterator[pa.RecordBatch], rows: BronzeRows) -> tuple[Part, ...]:
        with self._staging.writer("deletes", rows.schema) as writer:
            for batch in self._staging.watched(keys):
                writer.write(rows.deletes(batch))
        return writer.parts

    def _deletes(self, plan: WindowPlan, read: ShapedRead, rows: BronzeRows) -> tuple[Part, ...]:
        """Keys that Silver holds and the snapshot does not: rows that were deleted, or whose key changed."""
        import pyarrow as pa

        silver = self._steps.stored_silver(self._work, plan.shape)
        if not plan.key or self._lakehouse.state(silver.silver) is None:
            return ()
        schema = pa.schema([read.schema.field(name) for name in plan.key])
        settings = self._steps.settings
        scratch = settings.home_path / "scratch"
        watched = self._staging.watched
        with (
            self._staging.writer("deletes", rows.schema) as writer,
            RowComparison(plan.key, schema, memory_limit=settings.memory_limit, scratch=scratch) as comparison,
        ):
            comparison.add("source", watched(read.keys()))
            with stored_rows(silver, plan.key) as stored:
                comparison.add_stored(watched(stored), newest_only=plan.shape.write == "append")
            for batch in comparison.extra_keys(BATCH_ROWS):
                writer.write(rows.deletes(pa.RecordBatch.from_arrays(batch.columns, schema=schema)))
        return writer.parts

    def _fills(self, plan: WindowPlan, source: ShapedSource, rows: BronzeRows) -> tuple[Part, ...]:
        """The keys of all rows with the values of the columns that were added: nothing else is read."""
        wanted = [*plan.key, *plan.shape.filled]
        with source.open_verify(plan.table, wanted) as read, self._staging.writer("fills", rows.schema) as writer:
            for batch in self._staging.watched(read.batches()):
                writer.write(rows.fills(batch.select(wanted)))
        return writer.parts
