"""``headrace plan``: the steps of a sync, run on an engine that changes nothing, without the catalog and the source.

The source is asked for its catalogue and for an estimate of the window (``EXPLAIN``, a listing), never for rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from assets.change_capture import keeps_every_change
from assets.errors import HeadraceError
from assets.lakehouse.interface import OP, POSITION, TableId
from assets.lakehouse.rehearsal import Rehearsal
from assets.silver import BACKFILL, stored_rows
from assets.sources.interface import OBJECT_COLUMNS, UNFIT_COLUMN
from assets.steps import SyncSteps
from assets.sync import Manifest, Part, TableSync, WindowPlan
from assets.sync_plan import ReadEstimate, TablePlan, planned_watermark

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.catalog.store import Catalog
    from assets.lakehouse.interface import Lakehouse
    from assets.settings import Settings

_PLACEHOLDER_KEY = bytes(32)


class PlanningSteps(SyncSteps):
    """The steps of one table on a rehearsal."""

    lakehouse: Rehearsal

    def __init__(self, settings: Settings, catalog: Catalog, lakehouse: Lakehouse) -> None:
        super().__init__(settings, catalog, lakehouse.rehearsal())

    def hash_key(self) -> bytes:
        """Never made here: a key that is missing stands as zeros, as no value is hashed."""
        return self.catalog.stored_hash_key() or _PLACEHOLDER_KEY


def plan_table(settings: Settings, catalog: Catalog, lakehouse: Lakehouse, work: TableSync) -> TablePlan:
    """What this sync would do. An error of the table stands in the plan, as it would in the sync's report."""
    try:
        return _planned(PlanningSteps(settings, catalog, lakehouse), work)
    except HeadraceError as error:
        return TablePlan(connector=work.connector, table=work.table, error=error.text, error_type=type(error).__name__)


def _planned(steps: PlanningSteps, work: TableSync) -> TablePlan:
    choice = steps.window(work)
    plan = choice.plan
    tag = f"{work.run_group}{BACKFILL}" if work.backfill else work.run_group
    shape = plan.shape.model_copy(update={"epoch": tag}) if choice.decision.anew else plan.shape
    plan = plan.model_copy(update={"tag": tag, "shape": shape})
    source = steps.shaped(work.connector, shape)
    estimate, chunks = ReadEstimate(), 0
    if not plan.skip:
        steps.bring_up(work, choice)
        looks_for_deletes = work.deletes == "keys" and plan.mode == "incremental" and not plan.backfill
        estimate = source.estimate(plan, _loaded(steps, work, plan), keys=looks_for_deletes)
        if steps.lakehouse.stages_notes and source.may_be_cut(plan):
            chunks = len(steps.catalog.connector(work.connector).chunks(plan, steps.settings.chunk_mb << 20))
        _rehearse(steps, work, plan, estimate, looks_for_deletes)
    return TablePlan(
        connector=work.connector,
        table=work.table,
        mode=plan.mode,
        reason=plan.reason or "the table has a watermark, and its changes can be told",
        skip=plan.skip,
        write=shape.write,
        key=plan.key,
        cursor=plan.cursor,
        low=plan.backfill.low if plan.backfill else plan.low,
        high=plan.backfill.high if plan.backfill else None,
        chunks=chunks,
        rows=estimate.rows,
        bytes=estimate.bytes,
        estimate=estimate.detail,
        drift=plan.drift,
        source_statements=estimate.statements,
        lakehouse_statements=tuple(steps.lakehouse.planned),
    )


def _loaded(steps: PlanningSteps, work: TableSync, plan: WindowPlan) -> Callable[[], Iterator[pa.RecordBatch]] | None:
    """What a table of objects holds, read from Bronze itself: only that tells which objects are new."""
    if plan.table.tracks != "objects" or plan.mode == "full":
        return None
    bronze = TableId(layer="bronze", connector=work.connector, table=work.table)

    def loaded() -> Iterator[pa.RecordBatch]:
        columns = [*OBJECT_COLUMNS, OP, POSITION]
        with steps.lakehouse.scan(bronze, columns, live=False):  # written down, then read where it lies
            pass
        with steps.lakehouse.real.scan(bronze, columns, live=False) as rows:
            yield from rows

    return loaded


def _rehearse(
    steps: PlanningSteps, work: TableSync, plan: WindowPlan, estimate: ReadEstimate, looks_for_deletes: bool
) -> None:
    """Steps 2 to 5 as far as they ask the lakehouse, for one part of rows."""
    lakehouse, columns = steps.lakehouse, steps.shaped(work.connector, plan.shape).columns(plan.table)
    silver = steps.stored_silver(work, plan.shape)
    stored = lakehouse.state(silver.silver) if looks_for_deletes or estimate.rereads else None
    if stored and estimate.rereads:
        with stored_rows(silver, [c.name for c in plan.shape.seen]):
            pass
    if stored and looks_for_deletes and plan.table.tracks != "objects":
        with stored_rows(silver, plan.key):
            pass

    def part(stream: str) -> tuple[Part, ...]:
        uri = lakehouse.part_uri(work.connector, work.table, work.run_group, 1, stream)
        return (Part(uri=uri, rows=0, bytes=0),)

    manifest = Manifest(
        connector=work.connector,
        table=work.table,
        run_group=work.run_group,
        tag=plan.tag,
        attempt=1,
        mode=plan.mode,
        key=plan.key,
        columns=columns,
        parts=part("rows"),
        deletes=part("deletes") if looks_for_deletes else (),
        fills=part("fills") if plan.shape.filled else (),
        watermark=steps.watermark_of(plan, planned_watermark(plan.previous, plan.cursor), plan.newest),
        previous=plan.previous,
        shape=plan.shape,
        backfill=plan.backfill,
    )
    lakehouse.staged = steps.bronze_schema(manifest)
    uri = lakehouse.write_manifest(manifest)
    steps.commit_staged(manifest)
    steps.merge_silver(work, uri)
    lakehouse.count_live(silver.silver)
    if keeps_every_change(plan):
        with stored_rows(silver, plan.key):
            pass
    if work.verify != "counts":
        steps.stored_watermark(work.connector, work.table)
        lakehouse.state(silver.silver)
        compared = plan.key if work.verify == "keys" else [*(c.name for c in columns), UNFIT_COLUMN]
        after = steps.silver_table(work.connector, work.table, [c.name for c in columns], plan.shape)
        with stored_rows(after, compared):
            pass
