"""The six steps of one table sync, as plain blocking calls. The Temporal activities call them one to one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from assets.bronze import BronzeRows, bronze_names, commit_bronze
from assets.change_capture import acknowledge, extract_changes, keeps_every_change, live_keys, stop_following
from assets.chunked_extraction import ChunkedExtraction
from assets.count_proof import compare_counts, proven
from assets.failpoints import failpoint
from assets.lakehouse.interface import Lakehouse, TableId, TableState, open_lakehouse
from assets.part_staging import Progress
from assets.process_memory import release_unused
from assets.quarantine import commit_quarantine, quarantine_uri
from assets.settings import Settings
from assets.shaped_read import ShapedSource, chosen_columns
from assets.silver import BACKFILL, SilverTable
from assets.sources.interface import UNFIT_COLUMN, TableRead
from assets.sync import (
    ChunkedRead,
    Column,
    ColumnChoice,
    CommitInfo,
    Manifest,
    SourceTable,
    TableResult,
    TableShape,
    TableSync,
    Together,
    Watermark,
    WindowPlan,
)
from assets.table_reshape import follow_source
from assets.window_choice import WindowChoice, choose_window, refuse_what_cannot_be_done
from assets.window_extraction import WindowExtraction

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.catalog.store import Catalog
    from assets.sources.interface import Connector


def _no_progress(rows: int, size: int) -> None: ...


class SyncSteps:
    """The steps, bound to one installation. Every step may be repeated: its effect happens once."""

    def __init__(self, settings: Settings, catalog: Catalog, lakehouse: Lakehouse) -> None:
        self.settings = settings
        self.catalog = catalog
        self.lakehouse = lakehouse
        self._held: Connector | None = None

    def holding(self, source: Connector) -> SyncSteps:
        """The same steps, with this connector, open maybe, in place of a new one at each step."""
        steps = copy.copy(self)
        steps._held = source
        return steps

    def source(self, name: str) -> Connector:
        """The connector, ready to read."""
        if self._held is not None and self._held.name == name:
            return self._held
        return self.catalog.connector(name)

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
        return self.opened_window(work)

    def opened_window(self, work: TableSync) -> WindowPlan:
        """`open_window` of a table whose run row is open."""
        choice = self.window(work)
        decision, plan = choice.decision, choice.plan
        self.lakehouse.clear_staging(work.connector, work.table)
        bronze = self.bring_up(work, choice)
        earlier = sum(1 for tag in (bronze.tags if bronze else ()) if tag.split("~")[0] == work.run_group)
        tag = f"{work.run_group}~{earlier + 1}" if earlier else work.run_group
        tag = f"{tag}{BACKFILL}" if work.backfill else tag
        shape = plan.shape.model_copy(update={"epoch": tag}) if decision.anew else plan.shape
        acknowledge(self, work, plan)
        failpoint("after_open_window")
        chunked = (
            self.lakehouse.stages_notes
            and self.shaped(work.connector, shape).may_be_cut(plan)
            and bool(self.source(work.connector).chunks(plan, self.settings.chunk_mb << 20))
        )
        return plan.model_copy(update={"tag": tag, "shape": shape, "chunked": chunked})

    def window(self, work: TableSync, exact: Progress | None = None) -> WindowChoice:
        """What the sync would read, and why. Asks the source and the Bronze table, changes nothing.

        ``exact``: told of each file while all are asked for their columns, also where a first load asks a sample.
        """
        source = self.source(work.connector)
        if exact is not None:
            source.progress = exact
        refuse_what_cannot_be_done(work, source)
        bronze, silver = (TableId(layer=x, connector=work.connector, table=work.table) for x in ("bronze", "silver"))
        self.lakehouse.refresh([bronze, silver])
        stored = self.lakehouse.known_state(bronze)
        # columns that have to be known
        named = work.row_filter or work.key or (work.columns and work.columns != ColumnChoice())
        if exact is not None or stored is not None or named:
            (found,) = source.discover([work.table])
        else:
            found = source.first_look(work.table)
        return choose_window(work, source, found, stored, self.hash_key)

    def planned_exactly(self, work: TableSync, plan: WindowPlan, progress: Progress) -> WindowPlan:
        """The plan of a first load whose sample did not show all columns, by all files."""
        exact = self.window(work, exact=progress).plan
        shape = exact.shape.model_copy(update={"epoch": plan.shape.epoch})
        told = "columns came that a sample of the files did not show"
        reason = "; ".join(filter(None, [exact.reason, told]))
        return exact.model_copy(update={"tag": plan.tag, "shape": shape, "base_tag": plan.base_tag, "reason": reason})

    def bring_up(self, work: TableSync, choice: WindowChoice) -> TableState | None:
        """Let the stored tables catch up with earlier runs and with the source's new names. Returns Bronze's state."""
        decision, plan = choice.decision, choice.plan
        bronze = self.lakehouse.known_state(TableId(layer="bronze", connector=work.connector, table=work.table))
        stored = bronze.watermark.shape if bronze and bronze.watermark else None
        if work.reset:
            return bronze
        before = stored or plan.shape
        self._silver(work, self._stored_columns(before), before).catch_up(before.key or plan.key)
        if decision.mended and (decision.renamed or decision.retype) and stored:
            names = [c.name for c in (*self._stored_columns(stored), *stored.kept)]
            follow_source(
                self.lakehouse,
                work.connector,
                work.table,
                names,
                {old: new for old, new in decision.renamed.items() if old in names},
                decision.retype,
                decision.mended,
            )
        return bronze

    def hash_key(self) -> bytes:
        """The installation's key of hashed columns."""
        return self.catalog.hash_key()

    def shaped(self, connector: str, shape: TableShape) -> ShapedSource:
        """The connector, read in a table's shape."""
        key = self.hash_key() if shape.columns.hash else None
        return ShapedSource(self.source(connector), shape, key)

    def stored_watermark(self, connector: str, table: str) -> Watermark | None:
        """How far the stored table was read."""
        state = self.lakehouse.state(TableId(layer="bronze", connector=connector, table=table))
        return state.watermark if state else None

    @staticmethod
    def _stored_columns(shape: TableShape) -> tuple[Column, ...]:
        """The columns that a stored table of this shape has, those that left the source aside."""
        return chosen_columns(shape, shape.seen)

    def key_of(self, connector: str, table: SourceTable) -> tuple[str, ...]:
        """The key that the table's last sync used, else the source's own."""
        last = self.catalog.last_table_run(connector, table.name)
        key = last.result.key if last and last.result else None
        return tuple(key) if key else table.primary_key

    def stored_silver(self, work: TableSync, shape: TableShape) -> SilverTable:
        """The Silver table as it is stored."""
        return self._silver(work, self._stored_columns(shape), shape)

    def _silver(self, work: TableSync, columns: Sequence[Column], shape: TableShape) -> SilverTable:
        return self.silver_table(work.connector, work.table, [c.name for c in columns], shape)

    def silver_table(self, connector: str, table: str, columns: Sequence[str], shape: TableShape) -> SilverTable:
        return SilverTable(
            self.lakehouse,
            connector,
            table,
            [*columns, UNFIT_COLUMN],
            shape,
            memory_limit=self.settings.memory_limit,
            scratch=self.settings.home_path / "scratch",
        )

    # step 2

    def extract(self, work: TableSync, plan: WindowPlan, attempt: int, progress: Progress = _no_progress) -> str:
        """Stage exactly the window's rows as Parquet parts, the manifest last. Returns the manifest's URI.

        ``progress(rows, bytes)`` is called after every batch and may raise to cancel.
        """
        if plan.mode == "cdc":
            return self._written(extract_changes(self, work, plan, attempt, progress))
        return WindowExtraction(self, work, attempt, progress).run(plan)

    def write_manifest(
        self, work: TableSync, plan: WindowPlan, read: TableRead, attempt: int, found: dict[str, Any]
    ) -> str:
        """Write down what was found in the snapshot that was read."""
        if read.columns:
            plan = plan.model_copy(update={"shape": plan.shape.model_copy(update={"seen": tuple(read.columns)})})
        staged = found["parts"] or found.get("deletes") or found.get("fills")
        newest = self.position_of(plan, read) if staged else plan.newest
        manifest = Manifest(
            connector=work.connector,
            table=work.table,
            run_group=work.run_group,
            tag=plan.tag,
            attempt=attempt,
            mode=plan.mode,
            reason=plan.reason or (f"all rows compared: {read.reread_reason}" if read.reread_reason else ""),
            key=plan.key,
            columns=self.shaped(work.connector, plan.shape).columns(plan.table, read.columns),
            low=plan.backfill.low if plan.backfill else read.low,
            high=plan.backfill.high if plan.backfill else read.high,
            previous=plan.previous,
            watermark=self.watermark_of(plan, read.watermark, newest),
            shape=plan.shape,
            backfill=plan.backfill,
            drift=plan.drift,
            base_tag=plan.base_tag,
            **found,
        )
        return self._written(manifest)

    def _written(self, manifest: Manifest) -> str:
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

    @staticmethod
    def position_of(plan: WindowPlan, read: TableRead) -> int:
        """The position of what was read: the source's own, but after every earlier one, as clocks step back."""
        return max(read.position, plan.newest + 1)

    @staticmethod
    def watermark_of(plan: WindowPlan, read: Watermark | None, newest: int) -> Watermark | None:
        """The watermark to commit: what was read, the table's shape, and the full load it builds on.

        Args:
            newest: the greatest position of the rows that were staged.
        """
        before = plan.previous
        if plan.backfill:
            return before and before.model_copy(update={"newest": newest})
        base = plan.tag if plan.mode == "full" or not before else before.base_run
        return (read or Watermark()).model_copy(update={"base_run": base, "newest": newest, "shape": plan.shape})

    # step 3

    def commit_bronze(self, work: TableSync, manifest_uri: str) -> CommitInfo:
        """One atomic commit of the staged parts, tagged, the watermark in it. A repeat finds the tag."""
        manifest = self.lakehouse.read_manifest(manifest_uri)
        failpoint("before_bronze_commit")
        commit = self.commit_staged(manifest)
        failpoint("after_bronze_commit")
        stop_following(self, manifest)
        return commit

    def commit_staged(self, manifest: Manifest) -> CommitInfo:
        """The lakehouse's part of the commit."""
        staged = manifest.parts or manifest.deletes or manifest.fills
        nothing_new = not staged and manifest.mode != "full"
        if manifest.quarantined:
            commit_quarantine(self.lakehouse, manifest)
        if nothing_new:
            state = self.lakehouse.state(TableId(layer="bronze", connector=manifest.connector, table=manifest.table))
            if state and state.watermark == manifest.watermark:
                return CommitInfo(version=state.version, rows_total=state.rows)
        return commit_bronze(self.lakehouse, manifest, self.bronze_schema(manifest))

    @staticmethod
    def bronze_schema(manifest: Manifest) -> pa.Schema:
        import pyarrow as pa

        from assets.types import arrow_type

        fields = [pa.field(column.name, arrow_type(column.arrow_type)) for column in manifest.columns]
        schema = BronzeRows(pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())]), manifest.tag, 0).schema
        kept = {c.name: arrow_type(c.arrow_type) for c in manifest.shape.kept}
        names = bronze_names([*(c.name for c in manifest.columns), UNFIT_COLUMN, *kept])
        return pa.schema([*schema, *(pa.field(names[name], kind) for name, kind in kept.items())])

    # step 4

    def merge_silver(self, work: TableSync, manifest_uri: str, progress: Progress | None = None) -> CommitInfo:
        """Bring what this run added to Bronze into Silver, in one tagged commit."""
        manifest = self.lakehouse.read_manifest(manifest_uri)
        failpoint("before_silver_commit")
        silver = self._silver(work, manifest.columns, manifest.shape)
        bronze_state = self.lakehouse.known_state(silver.bronze)
        if bronze_state is None or manifest.tag not in bronze_state.tags:
            bronze_state = self.lakehouse.state(silver.bronze)
            silver_state = self.lakehouse.state(silver.silver)
            assert bronze_state is not None
            if manifest.tag not in bronze_state.tags and silver_state:
                return CommitInfo(version=silver_state.version, rows_total=silver_state.rows)  # nothing was committed
        commit = silver.load(manifest, self.bronze_schema(manifest), bronze_state.version)
        failpoint("after_silver_commit")
        increments = work.mode != "full" and manifest.watermark is not None
        if manifest.mode == "full" and increments and manifest.key and manifest.shape.write == "merge":
            self.lakehouse.index_keys(silver.silver, silver.key(manifest.key))
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
        return self.proof(work, self.lakehouse.read_manifest(manifest_uri), bronze)

    def proof(self, work: TableSync, manifest: Manifest, bronze: CommitInfo) -> TableResult:
        """`verify` of a manifest at hand."""
        from assets.verify import verify_table

        stored = self._silver(work, manifest.columns, manifest.shape)
        live = self.lakehouse.count_live(stored.silver)
        compare_counts(work, manifest, bronze, live)
        keys = live_keys(self, stored, manifest.key) if keeps_every_change(manifest) else live
        equal, reason = proven(work, manifest, keys)
        if equal is not False and work.verify != "counts":
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
            write=manifest.shape.write,
            drift=manifest.drift,
            rows_quarantined=manifest.rows_quarantined,
            quarantine_uri=quarantine_uri(self.lakehouse, work.connector, work.table)
            if manifest.shape.converts
            else None,
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

    # many tables in one step

    def prove_unchanged(self, works: Sequence[TableSync], holder: str, progress: Progress = _no_progress) -> Together:
        """Record those tables without news as synced; tell which of the others are small."""
        from assets.tables_together import TablesTogether

        return TablesTogether(self, works, holder, progress).prove_unchanged()

    def sync_together(
        self,
        works: Sequence[TableSync],
        holder: str,
        attempt: int,
        progress: Progress = _no_progress,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Together:
        """All six steps of each of these small tables."""
        from assets.tables_together import TablesTogether

        return TablesTogether(self, works, holder, progress, cancelled).sync(attempt)
