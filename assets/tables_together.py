"""Many small tables of one connector in one go: those without news are proven so, the others synced one by one.

What is neither small nor plain is left to a workflow of its own, and so is a table with which anything goes wrong:
there its error is classified, tried again and recorded. An open run row is the table's lock here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from assets.errors import HeadraceError, MismatchError
from assets.failpoints import failpoint
from assets.lakehouse.interface import TableId
from assets.part_staging import Progress
from assets.process_memory import release_unused
from assets.steps import SyncSteps
from assets.sync import CommitInfo, Manifest, TableResult, TableSync, Together, WindowPlan
from assets.window_choice import WindowChoice

logger = logging.getLogger(__name__)
SMALL_BYTES, SMALL_ROWS = 16 << 20, 200_000
RECORDED_AT_ONCE = 8


class _OwnWorkflow(Exception):
    """The table is to be synced by a workflow of its own."""


class TablesTogether:
    """The tables of one connector in one run, for a workflow that holds them.

    Args:
        steps: of the installation.
        works: tables of one connector and one run.
        holder: id of the workflow.
        progress: called after every table.
        cancelled: asked before every table; what is left then is recorded as cancelled.
    """

    def __init__(
        self,
        steps: SyncSteps,
        works: Sequence[TableSync],
        holder: str,
        progress: Progress,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._steps, self._holder, self._progress, self._cancelled = steps, holder, progress, cancelled
        self._works = {work.table: work for work in works}
        self._connector = works[0].connector

    def prove_unchanged(self) -> Together:
        """Record the tables without news as synced, in one snapshot of the source; tell the small ones of the rest."""
        plain = [work for work in self._works.values() if _is_plain(work)]
        if not plain or not self._steps.lakehouse.keeps_small_tables:
            return Together(left=tuple(self._works))
        started = datetime.now(UTC)
        names = [work.table for work in plain]
        proven: list[TableResult] = []
        with self._steps.source(self._connector).together(names) as source:
            steps = self._steps.holding(source)
            choices = {work.table: found for work in plain if (found := self._choice(steps, work)) is not None}
            followed = {t: c.plan for t, c in choices.items() if c.plan.mode == "incremental" and self._is_whole(t)}
            counts = source.unchanged(list(followed.values())) if followed else {}
            for table, rows in counts.items():
                result = self._proof(steps, followed[table], rows)
                if result is not None:
                    proven.append(result.model_copy(update={"started_at": started, "workflow_id": self._holder}))
                self._progress(len(proven), 0)
        done = self._record_unchanged(proven)
        ended = {result.table for result in done}
        small = tuple(table for table in choices if table not in ended)
        left = tuple(table for table in self._works if table not in ended and table not in choices)
        return Together(results=tuple(done), small=small, left=left)

    def sync(self, attempt: int) -> Together:
        """Sync the tables one after the other, each with the steps and commits that its own workflow would make.

        A later attempt goes on where the earlier one died: recorded tables are done, a staged one is not read again.
        """
        works = list(self._works.values())
        claimed, results = self._steps.catalog.claim_tables(works, self._holder)
        for result in results:  # recorded by an attempt that died before it cleaned up
            self._steps.lakehouse.clear_staging(self._connector, result.table, works[0].run_group)
        ended = {result.table for result in results}
        left = [work for work in works if work.table not in claimed and work.table not in ended]
        bases = {table: self._newest_tag(table) for table in claimed}  # before the snapshot that is read
        unrecorded: list[tuple[TableResult, TableSync, str]] = []
        with self._steps.source(self._connector).together([w.table for w in works if w.table in claimed]) as source:
            steps = self._steps.holding(source)
            for work in works:
                if work.table not in claimed:
                    continue
                if self._cancelled():
                    break
                claimed.discard(work.table)
                try:
                    unrecorded.append(self._sync_table(steps, work, attempt, bases[work.table]))
                except _OwnWorkflow:
                    left.append(work)
                except Exception as error:
                    # the table's own workflow tries again, and records what goes wrong there
                    logger.info(
                        "%s/%s is left to its own workflow: %s", work.connector, work.table, type(error).__name__
                    )
                    left.append(work)
                if len(unrecorded) >= RECORDED_AT_ONCE:
                    results += self._record(unrecorded)
                    unrecorded = []
                self._progress(len(results) + len(unrecorded), 0)
        results += self._record(unrecorded)
        for table in claimed:
            results.append(self._steps.fail(self._works[table], "Cancelled", "cancelled"))
        self._steps.catalog.release_tables(left)
        release_unused()
        return Together(results=tuple(results), left=tuple(work.table for work in left))

    # without news

    def _choice(self, steps: SyncSteps, work: TableSync) -> WindowChoice | None:
        """What the sync would read; None where the table is not small and plain, or cannot be synced at all."""
        try:
            choice = steps.window(work)
        except HeadraceError:
            return None
        plan, decision = choice.plan, choice.decision
        table = plan.table
        small = (
            table.estimated_bytes is not None
            and table.estimated_bytes <= SMALL_BYTES
            and (table.estimated_rows or 0) <= SMALL_ROWS
        )
        changed = decision.renamed or decision.retype or plan.drift or plan.shape.filled
        special = plan.mode == "cdc" or plan.captures or plan.skip or plan.shape.converts
        return choice if small and not changed and not special else None

    def _is_whole(self, table: str) -> bool:
        """Whether Silver holds what Bronze holds."""
        lakehouse = self._steps.lakehouse
        bronze = lakehouse.state(TableId(layer="bronze", connector=self._connector, table=table))
        silver = lakehouse.state(TableId(layer="silver", connector=self._connector, table=table))
        return bronze is not None and silver is not None and silver.follows == bronze.version

    def _proof(self, steps: SyncSteps, plan: WindowPlan, source_rows: int) -> TableResult | None:
        """The result of a sync that finds nothing to read; None where it would not prove the tables equal."""
        assert plan.previous is not None
        table = plan.table.name
        work = self._works[table]
        manifest = Manifest(
            connector=self._connector,
            table=table,
            run_group=work.run_group,
            tag=work.run_group,
            attempt=1,
            mode="incremental",
            reason=plan.reason,
            key=plan.key,
            columns=steps.shaped(self._connector, plan.shape).columns(plan.table),
            low=plan.low,
            high=plan.previous.value,
            previous=plan.previous,
            watermark=plan.previous,
            source_rows=source_rows,
            shape=plan.shape,
        )
        bronze = steps.lakehouse.state(TableId(layer="bronze", connector=self._connector, table=table))
        assert bronze is not None
        try:
            result = steps.proof(work, manifest, CommitInfo(version=bronze.version, rows_total=bronze.rows))
        except MismatchError:
            return None
        return result if result.equal and bronze.watermark == plan.previous else None

    def _record_unchanged(self, proven: Sequence[TableResult]) -> list[TableResult]:
        """Close the rows of tables that no other run holds; the others are left, to be told so."""
        if not proven:
            return []
        works = [self._works[result.table] for result in proven]
        claimed, done = self._steps.catalog.claim_tables(works, self._holder)
        now = datetime.now(UTC)
        ended = [result.model_copy(update={"completed_at": now}) for result in proven if result.table in claimed]
        self._steps.catalog.end_table_runs([(result, self._works[result.table]) for result in ended])
        return [*done, *ended]

    # with news

    def _newest_tag(self, table: str) -> str:
        state = self._steps.lakehouse.state(TableId(layer="bronze", connector=self._connector, table=table))
        return state.tags[-1] if state and state.tags else ""

    def _sync_table(
        self, steps: SyncSteps, work: TableSync, attempt: int, base_tag: str
    ) -> tuple[TableResult, TableSync, str]:
        """The six steps but the last. Returns the result, the work and the commit tag.

        An attempt that was taken for dead and goes on finds that its table is not its own any more, or, at the latest,
        that Bronze moved on since it began: its snapshot may be older than what others have committed.
        """
        started = datetime.now(UTC)
        if not steps.catalog.holds_table(work, self._holder):
            raise _OwnWorkflow
        staged = steps.lakehouse.latest_manifest(work.connector, work.table, work.run_group) if attempt > 1 else None
        uri = staged
        if uri is None:
            failpoint("before_open_window")
            plan = steps.opened_window(work)
            if plan.chunked or plan.skip or plan.mode == "cdc":
                raise _OwnWorkflow
            uri = steps.extract(work, plan.model_copy(update={"base_tag": base_tag}), attempt)
        bronze = steps.commit_bronze(work, uri)
        if bronze.repeated and staged is None:  # an attempt that was taken for dead went on, and was faster
            raise _OwnWorkflow
        silver = steps.merge_silver(work, uri)
        result = steps.verify(work, uri, bronze, silver)
        failpoint("before_record")
        told = {"started_at": started, "completed_at": datetime.now(UTC), "workflow_id": self._holder}
        return result.model_copy(update=told), work, steps.lakehouse.read_manifest(uri).tag

    def _record(self, ended: Sequence[tuple[TableResult, TableSync, str]]) -> list[TableResult]:
        """Close the run rows, then remove what these tables staged, and only that: others may hold them now."""
        self._steps.catalog.end_table_runs([(result, work) for result, work, _ in ended])
        failpoint("after_record_before_cleanup")
        for _, work, tag in ended:
            for group in dict.fromkeys((work.run_group, tag)):
                self._steps.lakehouse.clear_staging(work.connector, work.table, group)
        return [result for result, _, _ in ended]


def _is_plain(work: TableSync) -> bool:
    return not (work.backfill or work.reset or work.mode == "cdc" or work.verify != "counts" or work.fill_added)
