"""Mode ``cdc``: a table that is followed by its source's log of changes. The same six steps, another step 2.

The watermark of a followed table is a position in the log. It is committed with the changes that it covers, and the
source may forget them only afterwards: the next sync acknowledges what Bronze holds. What dies between is read again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assets.bronze import BronzeRows
from assets.change_staging import ChangeStaging
from assets.errors import HeadraceError, UnsupportedTableError, WatermarkError
from assets.failpoints import failpoint
from assets.key_values import require_told_apart
from assets.lakehouse.interface import TableId, TableState
from assets.newest_versions import NewestVersions
from assets.part_staging import PartStaging, Progress
from assets.silver import SilverTable, stored_rows
from assets.sync import STREAM, Manifest, Part, SourceTable, TableSync, Watermark, WindowPlan

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.sources.interface import ChangeBatch
    from assets.steps import SyncSteps
    from assets.table_shape import ShapeDecision

_log = logging.getLogger(__name__)


def follows(watermark: Watermark | None) -> bool:
    """Whether a watermark is a position in a log of changes."""
    return watermark is not None and STREAM in watermark.position


def wants_changes(work: TableSync, previous: Watermark | None) -> bool:
    """Whether a sync follows the log: asked for, or the table does already and no other mode is asked for."""
    return work.mode == "cdc" or (work.mode == "auto" and follows(previous))


def plan_changes(
    work: TableSync, table: SourceTable, decision: ShapeDecision, bronze: TableState | None, previous: Watermark | None
) -> WindowPlan:
    """A full read whose watermark is a position in the log, or the changes since the last position.

    Raises:
        UnsupportedTableError: an option that mode ``cdc`` does not serve.
        WatermarkError: data without a watermark.
    """
    where = f"{work.connector}/{work.table}"
    shape = decision.shape
    unserved = {
        "--write replace": shape.write == "replace",
        "--drift quarantine": shape.drift == "quarantine" or bool(shape.converts),
        "a backfill": work.backfill is not None,
        "--fill-added": work.fill_added,
    }
    if asked := [name for name, wanted in unserved.items() if wanted]:
        raise UnsupportedTableError(
            f"mode cdc does not go with {asked[0]}", where=where, remedy="Use --mode incremental --deletes keys."
        )
    why = decision.full
    if work.reset:
        why = "the table starts anew"
    elif bronze is None or (previous is None and bronze.rows == 0):
        why = "first load"
    elif previous is None:
        raise WatermarkError(
            "the Bronze table holds rows but no watermark",
            where=where,
            remedy=f"Run: headrace sync {work.connector} {work.table} --mode cdc --reset",
        )
    elif not follows(previous):
        why = why or "the table is followed by the source's log from now on"
    return WindowPlan(
        table=table,
        mode="full" if why else "cdc",
        key=shape.key,
        reason=why,
        previous=previous,
        low=previous.value if previous and not why else None,
        captures=True,
        shape=shape,
        drift=decision.drift,
    )


def acknowledge(steps: SyncSteps, work: TableSync, plan: WindowPlan) -> None:
    """Let the source forget what Bronze holds of every table of the connector."""
    if plan.mode != "cdc" or plan.previous is None:
        return

    def reader(table: str) -> Callable[[], Watermark | None]:
        def read() -> Watermark | None:
            state = steps.lakehouse.state(TableId(layer="bronze", connector=work.connector, table=table))
            return state.watermark if state else None

        return read

    tables = {run.table for run in steps.catalog.latest_table_runs(work.connector)} | {work.table}
    connector = steps.catalog.connector(work.connector)
    connector.acknowledge(plan.previous, {table: reader(table) for table in sorted(tables)})


def stop_following(steps: SyncSteps, manifest: Manifest) -> None:
    """Remove what the source keeps for a table that was followed and is not any more."""
    if not follows(manifest.previous) or follows(manifest.watermark):
        return
    try:
        steps.catalog.connector(manifest.connector).stop_changes([manifest.table])
    except HeadraceError as error:  # the data stands: this is not worth a failed sync
        _log.warning(
            "%s Run: headrace cdc drop %s %s, or the source keeps its log",
            error.text,
            manifest.connector,
            manifest.table,
        )


def extract_changes(steps: SyncSteps, work: TableSync, plan: WindowPlan, attempt: int, progress: Progress) -> Manifest:
    """Stage the table's changes as parts: every change, whole rows, a position each."""
    where = f"{work.connector}/{work.table}"
    source = steps.shaped(work.connector, plan.shape)
    with source.open_changes(plan) as read:
        rows = BronzeRows(source.change_schema(read, plan.table), plan.tag, 0)
        counted = {"u": 0, "d": 0, "bytes": 0}
        scratch = steps.settings.home_path / "scratch"
        with ChangeStaging(
            rows,
            plan.key,
            lambda columns: _stored(steps, work, plan, columns),
            memory_limit=steps.settings.memory_limit,
            scratch=scratch,
            where=where,
        ) as staging:
            writing = PartStaging(steps.lakehouse, work, attempt, progress)
            changes = _complete(source.changes(read, plan.table), staging, plan, where)
            parts = _write(writing, "changes", rows, changes, counted, progress)

            def staged(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
                return steps.lakehouse.read_parts(parts, columns)

            parts += _write(writing, "filled", rows, staging.filled(staged), counted, progress)
            gone = staging.truncated(read.truncates, staged)
            parts += _write(writing, "truncated", rows, gone, counted, progress)
        return Manifest(
            connector=work.connector,
            table=work.table,
            run_group=work.run_group,
            tag=plan.tag,
            attempt=attempt,
            mode="cdc",
            reason=plan.reason,
            key=plan.key,
            columns=source.columns(plan.table),
            parts=parts,
            low=read.low,
            high=read.high,
            previous=plan.previous,
            watermark=steps.watermark_of(plan, read.watermark, max(plan.newest, read.watermark.position["last"])),
            shape=plan.shape,
            drift=plan.drift,
            source_rows=read.source_rows(),
            rows_read=counted["u"],
            rows_deleted=counted["d"],
            unfit_values=read.unfit_values,
            bytes_read=counted["bytes"],
            reader=read.reader,
        )


def _complete(
    changes: Iterator[ChangeBatch], staging: ChangeStaging, plan: WindowPlan, where: str
) -> Iterator[pa.RecordBatch | None]:
    for change in changes:
        require_told_apart(change.rows, plan.key, where)
        yield staging.complete(change)


def _write(
    writing: PartStaging,
    stream: str,
    rows: BronzeRows,
    batches: Iterator[pa.RecordBatch | None],
    counted: dict[str, int],
    progress: Progress,
) -> tuple[Part, ...]:
    from assets.arrow_compute import arrow_compute

    pc = arrow_compute()
    place = len(rows.schema) - 2  # the operation
    with writing.writer(stream, rows.schema) as writer:
        for batch in batches:
            if batch is not None and batch.num_rows:
                writer.write(batch)
                upserts = pc.sum(pc.equal(batch.column(place), "u")).as_py()
                counted["u"] += upserts
                counted["d"] += batch.num_rows - upserts
                counted["bytes"] += batch.nbytes
            progress(counted["u"] + counted["d"], counted["bytes"])
            failpoint("during_extract")
    return writer.parts


def _stored(steps: SyncSteps, work: TableSync, plan: WindowPlan, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Source columns of Silver's live rows, those of the key among them; one that Silver does not have yet is NULL."""
    import pyarrow as pa

    silver = steps.stored_silver(work, plan.shape)
    if steps.lakehouse.state(silver.silver) is None:
        return
    names = {column: silver.names[silver.bronze_of[column]] for column in columns}
    schema = steps.lakehouse.schema(silver.silver)
    there = [column for column in columns if names[column] in schema.names]
    with _live_rows(steps, silver, plan.key, there) as stored:
        for batch in stored:
            arrays = [
                batch.column(column) if column in there else pa.nulls(batch.num_rows, pa.string()) for column in columns
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns))


def keeps_every_change(of: WindowPlan | Manifest) -> bool:
    """Whether Silver gets all changes that the log tells, deletes too, and not the last one of each key."""
    return of.mode == "cdc" and of.shape.write == "append"


def live_keys(steps: SyncSteps, silver: SilverTable, key: Sequence[str]) -> int:
    """How many rows a followed source has by an appended Silver table: the keys whose newest version is no delete."""
    with _newest_versions(steps, silver, key) as newest:
        return newest.count()


@contextmanager
def _live_rows(
    steps: SyncSteps, silver: SilverTable, key: Sequence[str], columns: Sequence[str]
) -> Iterator[Iterator[pa.RecordBatch]]:
    """``columns`` of Silver's live rows, under the source's names; where it appends, of each key's newest version."""
    if silver.shape.write != "append":
        with stored_rows(silver, columns) as rows:
            yield rows
        return
    with _newest_versions(steps, silver, key) as newest, stored_rows(silver, columns) as rows:
        yield newest.live(rows)


@contextmanager
def _newest_versions(steps: SyncSteps, silver: SilverTable, key: Sequence[str]) -> Iterator[NewestVersions]:
    """Which of an appended Silver table's rows are live."""
    settings = steps.settings
    scratch = settings.home_path / "scratch"
    with (
        stored_rows(silver, key) as versions,
        NewestVersions(key, versions, memory_limit=settings.memory_limit, scratch=scratch) as newest,
    ):
        yield newest
