"""One run of several tables through Temporal: start, wait, and close its rows in the catalog."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from assets.errors import ConfigurationError
from assets.naming import path_part
from assets.settings import Settings
from assets.sync import Overlap, TableResult, TableSync
from orchestration.reports import SyncedTable, SyncProgress, SyncReport

if TYPE_CHECKING:
    from assets.catalog.store import Catalog
    from orchestration.stack_record import StackRecord
    from temporal_bridge.client import TemporalClient, WorkflowProgress, WorkflowRun

logger = logging.getLogger(__name__)
CANCEL_SECONDS = 30


def new_run_group() -> str:
    """A fresh identity of a run; later ones sort after earlier ones."""
    return f"{datetime.now(UTC):%Y%m%dt%H%M%S}-{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def temporal_in_use(settings: Settings, *, may_start: bool) -> Iterator[tuple[TemporalClient, StackRecord]]:
    """Yield a client of the running stack, or of one started for the duration of the block, and the stack's record.

    Raises:
        ConfigurationError: no stack runs and none may be started.
    """
    from orchestration.local import running_stack, stack_in_use

    if not may_start and not os.environ.get("TEMPORAL_ADDRESS") and running_stack(settings) is None:
        raise ConfigurationError(
            "no stack runs in this home, so nothing would go on after this command.",
            where=str(settings.home_path),
            remedy="Start one with: headrace up. Or wait for the sync: leave --no-wait out.",
        )
    with stack_in_use(settings) as record, _client(settings, record) as client:
        yield client, record


def _client(settings: Settings, record: StackRecord) -> TemporalClient:
    from temporal_bridge.client import TemporalClient

    return TemporalClient.from_settings(settings, record.temporal_address)


def reconcile(catalog: Catalog, client: TemporalClient) -> int:
    """Close the rows of runs whose workflow is gone."""
    from temporalio.service import RPCError, RPCStatusCode

    from temporal_bridge.client import WorkflowRun

    def alive(workflow_id: str) -> str | None:
        latest = WorkflowRun(
            workflow_id=workflow_id, run_id="", workflow_type="", task_queue="", namespace=client.namespace
        )
        try:
            return client.describe(latest, children=False).status
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return None
            raise

    return catalog.reconcile(alive)


def finish_earlier(catalog: Catalog, client: TemporalClient, connector: str, tables: Sequence[str]) -> None:
    """Wait for what an earlier command left of these tables: its stack died, and Temporal takes the work up again.

    Without this, the new sync would find the tables held, skip them, and end the stack under the work once more.
    """
    from temporal_bridge.client import WorkflowFailedError, WorkflowRun

    wanted = set(tables)
    ids: dict[str, None] = {}
    for run in catalog.runs(connector=connector, open_only=True, limit=1000):
        if not wanted.isdisjoint(run.tables):
            rows = [row for row in run.table_runs if row.table in wanted and row.status == "running"]
            names = [run.workflow_id] if run.workflow_id else [row.workflow_id for row in rows]
            ids.update(dict.fromkeys(name for name in names if name))
    for workflow_id in ids:
        earlier = WorkflowRun(
            workflow_id=workflow_id, run_id="", workflow_type="", task_queue="", namespace=client.namespace
        )
        if client.describe(earlier, children=False).status == "running":
            logger.warning("waiting for %s, which an earlier command left", workflow_id)
            with contextlib.suppress(WorkflowFailedError):  # its rows tell; what counts here is that it has ended
                client.wait(earlier)
    if ids:
        reconcile(catalog, client)


class DatasetRun:
    """The tables of one connector, synced as one run."""

    def __init__(
        self, settings: Settings, catalog: Catalog, works: Sequence[TableSync], overlap: Overlap = "skip"
    ) -> None:
        self._overlap: Overlap = overlap
        self._settings = settings
        self._catalog = catalog
        self._works = {work.table: work for work in works}
        first = works[0]
        self.connector, self.run_group, self.pipeline = first.connector, first.run_group, first.pipeline

    def run(self, client: TemporalClient, progress: Callable[[SyncProgress], None] | None, wait: bool) -> SyncReport:
        """Start the workflows and, unless told otherwise, wait for all tables.

        Raises:
            BridgeError: Temporal or a worker is missing, or the run was ended from outside.
        """
        from assets.errors import BridgeError
        from temporal_bridge.client import WorkflowFailedError
        from temporal_bridge.workflows.dataset_sync import MAX_TABLES

        works = list(self._works.values())
        chunks = [works[start : start + MAX_TABLES] for start in range(0, len(works), MAX_TABLES)]
        base = f"dataset/{path_part(self.connector)}/{self.run_group}"
        ids = [base if number == 0 else f"{base}/{number}" for number in range(len(chunks))]
        self._catalog.begin_run(
            self.run_group,
            self.connector,
            self.pipeline,
            works[0].trigger,
            list(self._works),
            workflow_id=ids[-1],
        )
        report = SyncReport(
            connector=self.connector,
            run_group=self.run_group,
            pipeline=self.pipeline,
            waited=wait,
            workflow_ids=tuple(ids),
        )
        runs: list[WorkflowRun] = []
        try:
            for workflow_id, chunk in zip(ids, chunks, strict=True):
                runs.append(self._start(client, workflow_id, chunk))
                if not wait:
                    continue
                results = client.wait(runs[-1], progress=self._reporter(progress)).results
                self._close_rows(results)
                report = report.model_copy(
                    update={"tables": (*report.tables, *(SyncedTable.of(result) for result in results))}
                )
        except WorkflowFailedError as error:
            self._catalog.end_run(self.run_group, str(error))
            raise
        except BridgeError as error:
            if not runs:  # nothing was started, so nothing else will close the row
                self._catalog.end_run(self.run_group, str(error))
            raise
        except KeyboardInterrupt:
            if runs:
                client.cancel_and_wait(runs[-1], CANCEL_SECONDS)
            self._catalog.end_run(self.run_group, "interrupted by the user")
            raise
        return report

    def _start(self, client: TemporalClient, workflow_id: str, works: Sequence[TableSync]) -> WorkflowRun:
        from temporal_bridge.workflows.dataset_sync import DatasetSync, DatasetSyncWorkflow

        dataset = DatasetSync(
            connector=self.connector,
            tables=tuple(works),
            run_group=self.run_group,
            max_parallel=self._settings.sync_concurrency,
            overlap=self._overlap,
        )
        return client.start_workflow(
            DatasetSyncWorkflow,
            dataset,
            id=workflow_id,
            task_queue=self._settings.task_queue,
            summary=f"{self.connector}: {len(works)} tables",
        )

    def _close_rows(self, results: Sequence[TableResult]) -> None:
        """Close rows that no worker could close: a table that was skipped, or whose workflow was terminated."""
        closed = {row.table for row in self._catalog.run(self.run_group).table_runs if row.status != "running"}
        for result in results:
            if result.table not in closed:
                self._catalog.end_table_run(result, self._works[result.table])

    def _reporter(self, progress: Callable[[SyncProgress], None] | None) -> Callable[[WorkflowProgress], None] | None:
        if progress is None:
            return None

        def tell(look: WorkflowProgress) -> None:
            lines = []
            for activity in look.activities:
                read = activity.heartbeat.get("rows")
                table = activity.workflow_id.rpartition("/")[2]
                rows_so_far = f" {read:,} rows" if read else ""
                retry = f", attempt {activity.attempt}" if activity.attempt > 1 else ""
                lines.append(f"{table}: {activity.activity_type}{rows_so_far}{retry}")
            done = self._catalog.ended_tables(self.run_group)
            progress(SyncProgress(done=done, total=len(self._works), lines=tuple(lines)))

        return tell
