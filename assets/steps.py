"""The six steps of one table sync, as plain blocking calls. The Temporal activities call them one to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from assets.bronze import BronzeRows, commit_bronze
from assets.chunked_extraction import ChunkedExtraction
from assets.errors import MismatchError, UnsupportedTableError, WatermarkError
from assets.failpoints import failpoint
from assets.lakehouse.interface import OP, POSITION, Lakehouse, PartWriter, TableId, TableState, open_lakehouse
from assets.process_memory import release_unused
from assets.row_comparison import RowComparison
from assets.settings import Settings
from assets.silver import SilverTable
from assets.sources.interface import (
    BATCH_ROWS,
    OBJECT_COLUMNS,
    UNFIT_COLUMN,
    CarefulReadNeeded,
    Connector,
    TableRead,
)
from assets.sync import (
    ChunkedRead,
    ColumnChoice,
    CommitInfo,
    Manifest,
    Part,
    SourceTable,
    TableResult,
    TableSync,
    WindowPlan,
)
from assets.unchanged_rows import changes_only

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.catalog.store import Catalog

Progress = Callable[[int, int], None]
SERVED: frozenset[str] = frozenset()
"""Options of `TableSync` that are built; the rest is refused, never ignored."""


def _no_progress(rows: int, size: int) -> None: ...


def refuse_what_cannot_be_done(work: TableSync, source: Connector) -> None:
    """Refuse options that the source or this program does not serve.

    Raises:
        UnsupportedTableError: says which, and what to ask for instead.
    """
    where = f"{work.connector}/{work.table}"
    if work.mode == "cdc" and not source.supports_cdc:
        raise UnsupportedTableError(
            f"a source of type {source.type_name} has no change data capture",
            where=where,
            remedy="Use --mode auto, with --deletes keys to find deleted rows.",
        )
    asked = {
        "write": work.write not in (None, "merge"),
        "drift": work.drift != "evolve",
        "columns": work.columns not in (None, ColumnChoice()),
        "row_filter": bool(work.row_filter),
        "fill_added": work.fill_added,
        "backfill": work.backfill is not None,
        "reset": work.reset,
    }
    unserved = [name for name, wanted in asked.items() if wanted and name not in SERVED]
    if unserved:
        raise UnsupportedTableError(f"not built yet: {', '.join(unserved)}", where=where, remedy="Leave it out.")


class SyncSteps:
    """The steps, bound to one installation. Every step may be repeated: its effect happens once."""

    def __init__(self, settings: Settings, catalog: Catalog, lakehouse: Lakehouse) -> None:
        self.settings = settings
        self.catalog = catalog
        self.lakehouse = lakehouse

    @classmethod
    def from_settings(cls, settings: Settings) -> SyncSteps:
        from assets.catalog.store import Catalog

        return cls(settings, Catalog.from_settings(settings), open_lakehouse(settings))

    # step 1

    def open_window(self, work: TableSync, workflow_id: str | None = None) -> WindowPlan:
        """Check the source, read the watermark committed in Bronze, choose the mode.

        Raises:
            UnsupportedTableError: the table cannot be synced; the message says why.
            WatermarkError: data without a watermark.
            SourceUnreachableError, SourceAccessError, NotFoundError.
        """
        failpoint("before_open_window")
        self.catalog.begin_table_run(work, workflow_id)
        source = self.catalog.connector(work.connector)
        refuse_what_cannot_be_done(work, source)
        (table,) = source.discover([work.table])
        if table.refusal:
            raise UnsupportedTableError(table.refusal, where=f"{work.connector}/{work.table}")
        self.lakehouse.clear_staging(work.connector, work.table)
        bronze = self.lakehouse.state(TableId(layer="bronze", connector=work.connector, table=work.table))
        key = work.key or table.primary_key
        unknown = [column for column in key if column not in {c.name for c in table.columns}]
        if unknown:
            raise UnsupportedTableError(
                f"the key names columns that are not there: {', '.join(unknown)}",
                where=f"{work.connector}/{work.table}",
                remedy="Correct --key.",
            )
        self._silver(work, table).catch_up(key)
        plan = self._choose_mode(work, table, tuple(key), bronze)
        earlier = sum(1 for tag in (bronze.tags if bronze else ()) if tag.split("~")[0] == work.run_group)
        failpoint("after_open_window")
        chunked = self.lakehouse.stages_notes and bool(
            self.catalog.connector(work.connector).chunks(plan, self.settings.chunk_mb << 20)
        )
        tag = f"{work.run_group}~{earlier + 1}" if earlier else work.run_group
        return plan.model_copy(update={"tag": tag, "chunked": chunked})

    def _choose_mode(
        self, work: TableSync, table: SourceTable, key: tuple[str, ...], bronze: TableState | None
    ) -> WindowPlan:
        cursor = work.cursor or (table.cursor_candidates[0] if len(table.cursor_candidates) == 1 else None)
        if table.tracks == "objects":
            cursor = None
        why = self._changes_unknown(work, table, key, cursor) or self._nothing_to_follow(work, cursor, bronze)
        previous = bronze.watermark if bronze else None
        plan = WindowPlan(table=table, mode="full", key=key, cursor=cursor, reason=why, previous=previous)
        if why:
            return plan
        return plan.model_copy(update={"mode": "incremental", "low": previous.value if previous else None})

    @staticmethod
    def _changes_unknown(work: TableSync, table: SourceTable, key: tuple[str, ...], cursor: str | None) -> str:
        """Why the source's changes cannot be asked for, if they cannot."""
        if work.mode == "full":
            return "full refresh was asked for"
        if table.tracks == "none":
            return f"a {table.kind.replace('_', ' ')} has no row versions, so changes cannot be told"
        if not key:
            return "the table has no key (name one with --key)"
        if table.tracks == "objects" or cursor:
            return ""
        if len(table.cursor_candidates) > 1:
            several = ", ".join(table.cursor_candidates[:5])
            return f"several columns could be the cursor ({several}): name one with --cursor"
        return "no column tells when a row changed (name one with --cursor)"

    @staticmethod
    def _nothing_to_follow(work: TableSync, cursor: str | None, bronze: TableState | None) -> str:
        """Why there is no watermark to go on from, if there is none.

        Raises:
            WatermarkError: there are rows without one.
        """
        if bronze is None:
            return "first load"
        if bronze.watermark is None and bronze.rows == 0:
            return "nothing was loaded yet"
        if bronze.watermark is None:
            raise WatermarkError(
                "the Bronze table holds rows but no watermark",
                where=f"{work.connector}/{work.table}",
                remedy=f"Run: headrace sync {work.connector} {work.table} --mode full",
            )
        if bronze.watermark.cursor != cursor:
            return f"the cursor is now {cursor}, the last load used {bronze.watermark.cursor or 'none'}"
        return ""

    def key_of(self, connector: str, table: SourceTable) -> tuple[str, ...]:
        """The key that the table's last sync used, else the source's own."""
        last = self.catalog.last_table_run(connector, table.name)
        key = last.result.key if last and last.result else None
        return tuple(key) if key else table.primary_key

    def _silver(self, work: TableSync, table: SourceTable) -> SilverTable:
        columns = [*(column.name for column in table.columns), UNFIT_COLUMN]
        return SilverTable(self.lakehouse, work.connector, work.table, columns)

    # step 2

    def extract(self, work: TableSync, plan: WindowPlan, attempt: int, progress: Progress = _no_progress) -> str:
        """Stage exactly the window's rows as Parquet parts, the manifest last. Returns the manifest's URI.

        ``progress(rows, bytes)`` is called after every batch and may raise to cancel.
        """
        with self._open_read(work, plan, progress) as read:
            rows = BronzeRows(read.schema, plan.tag, read.position)
            with changes_only(self.lakehouse, self._silver(work, plan.table), plan, read, self.settings) as changes:
                try:
                    parts, size = self.stage(work, rows, changes(read.batches()), attempt, progress)
                except CarefulReadNeeded:
                    parts, size = self.stage(work, rows, changes(read.careful_batches()), attempt, progress)
            deleted: tuple[Part, ...] = ()
            if plan.mode == "incremental":
                known = read.deleted_keys(work.deletes == "keys")
                if known is not None:
                    deleted = self._stage_known_deletes(work, known, rows, attempt, progress)
                elif work.deletes == "keys":
                    deleted = self._stage_deletes(work, plan, read, rows, attempt, progress)
            found = {
                "parts": parts,
                "deletes": deleted,
                "rows_read": sum(part.rows for part in parts),
                "rows_deleted": sum(part.rows for part in deleted),
                "future_rows": read.future_rows,
                "unfit_values": read.unfit_values,
                "bytes_read": size,
                "reader": read.reader,
            }
            return self.write_manifest(work, plan, read, attempt, found)

    def write_manifest(
        self, work: TableSync, plan: WindowPlan, read: TableRead, attempt: int, found: dict[str, Any]
    ) -> str:
        """Count the source in the snapshot that was read, and write what was ``found`` in it down."""
        watermark = read.watermark
        if watermark:
            base = plan.tag if plan.mode == "full" or not plan.previous else plan.previous.base_run
            watermark = watermark.model_copy(update={"base_run": base})
        manifest = Manifest(
            connector=work.connector,
            table=work.table,
            run_group=work.run_group,
            tag=plan.tag,
            attempt=attempt,
            mode=plan.mode,
            reason=plan.reason or (f"all rows compared: {read.reread_reason}" if read.reread_reason else ""),
            key=plan.key,
            columns=read.columns or plan.table.columns,
            low=read.low,
            high=read.high,
            previous=plan.previous,
            watermark=watermark,
            source_rows=read.source_rows(),
            **found,
        )
        failpoint("after_parts_before_manifest")
        uri = self.lakehouse.write_manifest(manifest)
        failpoint("after_manifest")
        return uri

    def begin_chunks(
        self, work: TableSync, plan: WindowPlan, attempt: int, progress: Progress = _no_progress
    ) -> ChunkedRead:
        """Step 2 of a large table, its beginning: fix the snapshot and the chunks."""
        return ChunkedExtraction(self, work).begin(plan, attempt, progress)

    def extract_chunk(
        self, work: TableSync, uri: str, number: int, attempt: int, progress: Progress = _no_progress
    ) -> int:
        """Stage one chunk, once. Returns its rows."""
        return ChunkedExtraction(self, work).extract(uri, number, attempt, progress)

    def finish_chunks(self, work: TableSync, uri: str, attempt: int, progress: Progress = _no_progress) -> str:
        """Make one consistent snapshot of the chunks. Returns the manifest's URI."""
        return ChunkedExtraction(self, work).finish(uri, attempt, progress)

    def stage(
        self,
        work: TableSync,
        rows: BronzeRows,
        batches: Iterator[pa.RecordBatch],
        attempt: int,
        progress: Progress,
        stream: str = "rows",
    ) -> tuple[tuple[Part, ...], int]:
        """Write batches as parts of one stream; returns them and the rows' size in memory."""
        size = read_rows = 0
        inside = "during_extract" if stream == "rows" else "during_chunk"
        with self._writer(work, attempt, stream, rows.schema) as writer, closing(batches):  # type: ignore[type-var]
            for batch in batches:
                writer.write(rows.upserts(batch))
                size += batch.nbytes
                read_rows += batch.num_rows
                progress(read_rows, size)
                failpoint(inside)
        return writer.parts, size

    def _writer(self, work: TableSync, attempt: int, stream: str, schema: pa.Schema) -> PartWriter:
        return self.lakehouse.part_writer(work.connector, work.table, work.run_group, attempt, stream, schema)

    def _open_read(self, work: TableSync, plan: WindowPlan, progress: Progress) -> AbstractContextManager[TableRead]:
        """What a table of objects holds already is told by its Bronze table: each row names its object and version."""
        connector = self.catalog.connector(work.connector)
        connector.progress = progress
        if plan.table.tracks != "objects" or plan.mode == "full":
            return connector.open_read(plan)
        bronze = TableId(layer="bronze", connector=work.connector, table=work.table)

        def loaded() -> Iterator[pa.RecordBatch]:
            with self.lakehouse.scan(bronze, [*OBJECT_COLUMNS, OP, POSITION], live=False) as rows:
                yield from rows

        return connector.open_objects_read(plan, loaded)

    def _stage_known_deletes(
        self, work: TableSync, keys: Iterator[pa.RecordBatch], rows: BronzeRows, attempt: int, progress: Progress
    ) -> tuple[Part, ...]:
        with self._writer(work, attempt, "deletes", rows.schema) as writer:
            for batch in self._watched(keys, progress):
                writer.write(rows.deletes(batch))
        return writer.parts

    def _stage_deletes(
        self, work: TableSync, plan: WindowPlan, read: TableRead, rows: BronzeRows, attempt: int, progress: Progress
    ) -> tuple[Part, ...]:
        """Keys that Silver holds and the snapshot does not: rows that were deleted, or whose key changed."""
        import pyarrow as pa

        silver = self._silver(work, plan.table)
        if self.lakehouse.state(silver.silver) is None:
            return ()
        stored_names = dict(zip(silver.key(plan.key), plan.key, strict=True))
        schema = pa.schema([read.schema.field(name) for name in plan.key])
        scratch = self.settings.home_path / "scratch"
        with (
            self._writer(work, attempt, "deletes", rows.schema) as writer,
            RowComparison(plan.key, schema, memory_limit=self.settings.memory_limit, scratch=scratch) as comparison,
        ):
            comparison.add("source", self._watched(read.keys(), progress))
            with self.lakehouse.scan(silver.silver, list(stored_names)) as stored:
                renamed = (b.rename_columns([stored_names[n] for n in b.schema.names]) for b in stored)
                comparison.add("stored", self._watched(renamed, progress))
            for batch in comparison.extra_keys(BATCH_ROWS):
                writer.write(rows.deletes(pa.RecordBatch.from_arrays(batch.columns, schema=schema)))
        return writer.parts

    @staticmethod
    def _watched(batches: Iterator[pa.RecordBatch], progress: Progress) -> Iterator[pa.RecordBatch]:
        rows = 0
        for batch in batches:
            rows += batch.num_rows
            progress(rows, 0)
            yield batch

    # step 3

    def commit_bronze(self, work: TableSync, manifest_uri: str) -> CommitInfo:
        """One atomic commit of the staged parts, tagged, the watermark in it. A repeat finds the tag."""
        manifest = self.lakehouse.read_manifest(manifest_uri)
        failpoint("before_bronze_commit")
        nothing_new = not manifest.parts and not manifest.deletes and manifest.mode == "incremental"
        bronze = TableId(layer="bronze", connector=work.connector, table=work.table)
        state = self.lakehouse.state(bronze)
        if nothing_new and state and state.watermark == manifest.watermark:
            return CommitInfo(version=state.version, rows_total=state.rows)
        schema = self._bronze_schema(manifest)
        commit = commit_bronze(self.lakehouse, manifest, schema)
        failpoint("after_bronze_commit")
        return commit

    @staticmethod
    def _bronze_schema(manifest: Manifest) -> pa.Schema:
        import pyarrow as pa

        from assets.types import arrow_type

        fields = [pa.field(column.name, arrow_type(column.arrow_type)) for column in manifest.columns]
        return BronzeRows(pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())]), manifest.tag, 0).schema

    # step 4

    def merge_silver(self, work: TableSync, manifest_uri: str, progress: Progress | None = None) -> CommitInfo:
        """Bring what this run added to Bronze into Silver, in one tagged commit."""
        manifest = self.lakehouse.read_manifest(manifest_uri)
        failpoint("before_silver_commit")
        silver = SilverTable(
            self.lakehouse, work.connector, work.table, [*(c.name for c in manifest.columns), UNFIT_COLUMN]
        )
        bronze_state, silver_state = self.lakehouse.state(silver.bronze), self.lakehouse.state(silver.silver)
        assert bronze_state is not None
        if manifest.tag not in bronze_state.tags and silver_state:
            return CommitInfo(version=silver_state.version, rows_total=silver_state.rows)  # nothing was committed
        commit = silver.load(manifest, self._bronze_schema(manifest), bronze_state.version)
        failpoint("after_silver_commit")
        return commit

    # step 5

    def verify(
        self,
        work: TableSync,
        manifest_uri: str,
        bronze: CommitInfo,
        silver: CommitInfo,
        progress: Progress | None = None,
    ) -> TableResult:
        """Compare source, staged, Bronze and Silver, and say what the sync proved.

        ``equal`` is true when Silver's live rows are as many as the source had in the snapshot that was read (and their
        keys or values agree, where asked); false when deletes that this run did not look for make them differ.

        Raises:
            MismatchError: rows were lost or doubled on the way.
        """
        from assets.verify import verify_table

        manifest = self.lakehouse.read_manifest(manifest_uri)
        table = SourceTable(
            name=work.table, schema_name="", table_name="", columns=manifest.columns, primary_key=manifest.key
        )
        stored = self._silver(work, table)
        live = self.lakehouse.count_live(stored.silver)
        where = f"{work.connector}/{work.table}"
        if manifest.mode == "full":
            counts = {
                "source": manifest.source_rows if manifest.source_rows is not None else manifest.rows_read,
                "staged": manifest.rows_read,
                "Bronze": bronze.rows_total,
                "Silver": live,
            }
        else:
            added = bronze.rows_added if not bronze.repeated else manifest.rows_read + manifest.rows_deleted
            counts = {"staged": manifest.rows_read + manifest.rows_deleted, "Bronze": added}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise MismatchError(
                f"row counts differ: {told}", where=where, remedy="Sync the table again with --mode full."
            )
        known = manifest.source_rows if manifest.mode != "full" else live  # a full read was compared above
        equal = None if known is None else live == known
        reason = manifest.reason
        if equal is False and work.deletes == "keys":
            raise MismatchError(
                f"row counts differ: source {manifest.source_rows}, Silver {live}",
                where=where,
                remedy="Sync the table again with --mode full.",
            )
        if equal is False:
            reason = (
                f"Silver has {live} live rows, the source {manifest.source_rows}: "
                "rows were deleted or changed their key; sync with --deletes keys"
            )
        elif work.verify != "counts":
            compared = verify_table(self, work.connector, work.table, work.verify, key=manifest.key)
            equal = bool(compared.equal)
            if not equal:
                reason = (
                    compared.detail
                    or f"missing {compared.missing}, extra {compared.extra}, differing {compared.differing}"
                )
        failpoint("after_verify")
        mapping = {c.name: stored.names[stored.bronze_of[c.name]] for c in manifest.columns}
        return TableResult(
            connector=work.connector,
            table=work.table,
            status="succeeded",
            mode=manifest.mode,
            reason=reason,
            key=manifest.key,
            rows_read=manifest.rows_read,
            rows_bronze=bronze.rows_total,
            rows_silver=live,
            rows_deleted=manifest.rows_deleted,
            window_low=manifest.low,
            window_high=manifest.high,
            watermark_before=manifest.previous.value if manifest.previous else None,
            watermark_after=manifest.watermark.value if manifest.watermark else None,
            bytes=sum(part.bytes for part in manifest.parts),
            equal=equal,
            run_group=work.run_group,
            bronze_uri=self.lakehouse.uri(stored.bronze),
            silver_uri=self.lakehouse.uri(stored.silver),
            columns=manifest.columns,
            column_names=mapping,
            unfit_values=manifest.unfit_values,
            future_rows=manifest.future_rows,
        )

    # step 6

    def record(self, work: TableSync, result: TableResult) -> TableResult:
        """Close the run row, then remove the staging."""
        failpoint("before_record")
        closed = result.model_copy(update={"completed_at": datetime.now(UTC), "run_group": work.run_group})
        self.catalog.end_table_run(closed, work)
        failpoint("after_record_before_cleanup")
        self.lakehouse.clear_staging(work.connector, work.table)  # the workflow id is the lock: nobody else stages here
        failpoint("after_cleanup")
        release_unused()
        return closed

    def fail(self, work: TableSync, error_type: str, error: str) -> TableResult:
        """Close the run row as failed, and remove the staging."""
        result = TableResult(
            connector=work.connector, table=work.table, status="failed", error=error, error_type=error_type
        )
        return self.record(work, result)

    def close_row(self, work: TableSync, result: TableResult) -> None:
        """Close the run row of a table that this run never held: its staging belongs to another run."""
        self.catalog.end_table_run(result.model_copy(update={"completed_at": datetime.now(UTC)}), work)

    def skip(self, work: TableSync, plan: WindowPlan) -> TableResult:
        result = TableResult(
            connector=work.connector, table=work.table, status="skipped", mode=plan.mode, reason=plan.skip or ""
        )
        return self.record(work, result)
