"""Runs as objects: wait for one, cancel it, do it again, read what happened."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from assets.catalog.records import TERMINAL, RunRecord
from assets.errors import BridgeError
from assets.sync import Model

if TYPE_CHECKING:
    from orchestration.headrace import Headrace
    from orchestration.reports import SyncReport
    from temporal_bridge.client import TemporalClient

LOOK_SECONDS = 0.5
RECONCILE_SECONDS = 10
CANCEL_SECONDS = 60
CLOSE_SECONDS, CLOSE_LOOK_SECONDS = 45, 0.05
"""Where a worker froze, Temporal gives the last step of the table's and of the run's workflow to it for 10 s each."""
MAX_EVENTS = 10_000


class RunEvent(Model):
    """Something that happened to a table of a run."""

    at: datetime
    table: str
    event: str
    detail: str = ""


class Run:
    """One run of a pipeline, of ``sync`` or of Dagster, as ``Headrace.runs`` finds it.

    Example:
        run = hr.runs(pipeline="nightly", limit=1)[0]
        run.rerun(from_failure=True)
    """

    def __init__(self, headrace: Headrace, record: RunRecord) -> None:
        self._headrace = headrace
        self.record = record

    @property
    def run_group(self) -> str:
        return self.record.run_group

    @property
    def status(self) -> str:
        return self.record.status

    def __repr__(self) -> str:
        return f"Run({self.run_group!r}, {self.record.connector!r}, {self.status!r})"

    def refresh(self) -> Run:
        """Read the run's rows again."""
        self.record = self._headrace.catalog.run(self.run_group)
        return self

    def wait(self, seconds: float | None = None) -> Run:
        """Wait until the run has ended.

        Args:
            seconds: for how long at most, without what its workflow takes to close; default: as long as it takes.

        Raises:
            TimeoutError: it has not ended in time.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        next_reconcile = time.monotonic() + RECONCILE_SECONDS
        while self.refresh().status not in TERMINAL:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"run {self.run_group} is still {self.status} after {seconds:.0f} s")
            if time.monotonic() > next_reconcile:
                next_reconcile = time.monotonic() + RECONCILE_SECONDS
                self._headrace.reconcile()
            time.sleep(LOOK_SECONDS)
        self._wait_until_closed()
        return self

    def _wait_until_closed(self) -> None:
        """The rows are complete a moment before the workflow is; a sync that starts in between would be skipped."""
        from temporal_bridge.workflow_run import WorkflowRun

        if not self.record.workflow_id:
            return
        deadline = time.monotonic() + CLOSE_SECONDS
        try:
            with self._headrace.temporal() as client:
                run = WorkflowRun(self.record.workflow_id, "", "", "", client.namespace)
                while client.describe(run, children=False).status == "running" and time.monotonic() < deadline:
                    time.sleep(CLOSE_LOOK_SECONDS)
        except BridgeError:
            pass  # the run has ended all the same; Temporal may be gone

    def cancel(self) -> Run:
        """Cancel what still runs, and wait for its clean-up. A run that has ended stays as it is.

        Raises:
            BridgeError: Temporal is unreachable.
        """
        self.refresh()
        if self.status in TERMINAL:
            return self
        with self._headrace.temporal() as client:
            for workflow_id in self._workflow_ids():
                client.cancel_latest_and_wait(workflow_id, CANCEL_SECONDS)
        self._headrace.catalog.end_run(self.run_group, "cancelled by the user")
        return self.refresh()

    def rerun(self, from_failure: bool = False, wait: bool = True) -> SyncReport:
        """Sync the run's tables again, as a new run: a pipeline's with its options as they are now, others as then.

        Args:
            from_failure: only the tables that failed.
            wait: as in ``Headrace.sync``.
        """
        self.refresh()
        failed = [row.table for row in self.record.table_runs if row.status == "failed"]
        return self._headrace.run_again(self.record, failed if from_failure else list(self.record.tables), wait)

    def events(self) -> list[RunEvent]:
        """What happened, oldest first: from the run's rows, and from Temporal while it keeps the history."""
        self.refresh()
        found = list(self._row_events())
        try:
            with self._headrace.temporal() as client:
                for row in self.record.table_runs:
                    if row.workflow_id:
                        found += self._step_events(client, row.table, row.workflow_id)
        except BridgeError:
            pass  # the rows alone, then
        return sorted(found, key=lambda event: event.at)[:MAX_EVENTS]

    def _workflow_ids(self) -> list[str]:
        if self.record.workflow_id:
            return [self.record.workflow_id]
        return [row.workflow_id for row in self.record.table_runs if row.workflow_id and row.status == "running"]

    def _row_events(self) -> Iterator[RunEvent]:
        for row in self.record.table_runs:
            yield RunEvent(at=row.started_at, table=row.table, event="started")
            if row.completed_at:
                detail = row.error or (row.result.reason if row.result else "")
                yield RunEvent(at=row.completed_at, table=row.table, event=row.status, detail=detail)

    def _step_events(self, client: TemporalClient, table: str, workflow_id: str) -> Iterator[RunEvent]:
        """The activities of the execution that did this run's work; a later run uses the same workflow id."""
        from temporalio.service import RPCError

        from temporal_bridge.client import WorkflowRun

        try:
            if self.run_group not in json.dumps(client.recorded_input(workflow_id)):
                return
            history = json.loads(client.history_json(WorkflowRun(workflow_id, "", "", "", client.namespace)))
        except RPCError:
            return
        steps: dict[str, str] = {}
        for event in history["events"]:
            kind = event["eventType"].removeprefix("EVENT_TYPE_")
            details: dict[str, Any] = next((v for k, v in event.items() if k.endswith("EventAttributes")), {})
            if kind == "ACTIVITY_TASK_SCHEDULED":
                steps[event["eventId"]] = details["activityType"]["name"]
                continue
            step = steps.get(details.get("scheduledEventId", ""))
            words = kind.removeprefix("ACTIVITY_TASK_").lower().replace("_", " ")
            if step and kind.startswith("ACTIVITY_TASK_"):
                attempt = f"attempt {details['attempt']}" if details.get("attempt", 1) > 1 else ""
                yield RunEvent(at=event["eventTime"], table=table, event=f"{step} {words}", detail=attempt)
