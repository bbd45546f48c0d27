"""`PipesTemporalClient`: a Dagster step starts a workflow or attaches to it, shows it, and returns its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg  # noqa: TID253

from assets import tracing
from assets.failpoints import failpoint
from temporal_bridge._compat import (
    DagsterExecutionInterruptedError,
    TreatAsResourceParam,
    find_latest_launch_handle,
    record_external_launch,
    record_external_reattach,
)
from temporal_bridge.client import ChildCompleted, TemporalClient
from temporal_bridge.dagster_identity import dagster_workflow_id, run_group
from temporal_bridge.orphaned_runs import process_tag
from temporal_bridge.resource import TemporalResource
from temporal_bridge.tracing import step_span
from temporal_bridge.workflow_run import WorkflowFailedError, WorkflowProgress, WorkflowRun

__all__ = ["PipesTemporalClient", "TemporalInvocation", "dagster_workflow_id", "run_group"]

Context = dg.AssetExecutionContext | dg.OpExecutionContext
CLIENT_NAME = "PipesTemporalClient"
_STATUS_SECONDS = 3.0
_ROWS_LOG_SECONDS = 10.0
_MAX_ROUNDS = 50


class TemporalInvocation(dg.PipesClientCompletedInvocation):
    """A finished workflow: its result, and metadata that say where it ran."""

    def __init__(self, result: Any, run: WorkflowRun, metadata: dict[str, Any], keys: Sequence[dg.AssetKey]) -> None:
        self.result = result
        self.run = run
        self._keys = tuple(keys)
        self._metadata = dg.MaterializeResult(metadata=metadata).metadata or {}

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self._metadata)

    def get_results(self, *, implicit_materializations: bool = False) -> Sequence[Any]:
        """One materialization of the step's only asset. What several assets got, only ``result`` can tell."""
        return [self.get_materialize_result()] if len(self._keys) == 1 or implicit_materializations else []

    def get_materialize_result(self, *, implicit_materialization: bool = True) -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata=self._metadata)

    def get_custom_messages(self) -> Sequence[Any]:
        return []


class PipesTemporalClient(dg.PipesClient, TreatAsResourceParam):
    """Runs Temporal workflows from Dagster steps. The work outlives the step's process; a retry attaches to it.

    Args:
        temporal: where Temporal is; default: Temporal's own environment.
        poll_interval_seconds: how often progress is looked at.
        forward_termination: whether "Terminate" in Dagster cancels the workflow. A process that merely dies or is
            evicted never does.
        cancel_seconds: how long a cancelled workflow may clean up before it is terminated.
    """

    def __init__(
        self,
        temporal: TemporalResource | None = None,
        *,
        poll_interval_seconds: float = 1.0,
        forward_termination: bool = True,
        cancel_seconds: float = 60,
    ) -> None:
        self.temporal = temporal or TemporalResource()
        self._poll_seconds = poll_interval_seconds
        self._forward_termination = forward_termination
        self._cancel_seconds = cancel_seconds

    def run(
        self,
        *,
        context: Context,
        workflow: Any,
        input: Any,
        task_queue: str,
        workflow_id: str | None = None,
        result_type: Any = None,
        extras: Any = None,
        **_: Any,
    ) -> TemporalInvocation:
        """Run a workflow to its end, or read the result of the one that this work has already had.

        Args:
            context: of the step.
            workflow: run method, class, or type name.
            input: its one argument.
            task_queue: queue that its workers poll.
            workflow_id: identity of the work; default: `dagster_workflow_id`.
            result_type: type of the result where ``workflow`` is a name.
            extras: facts for the workflow's memo.

        Raises:
            dagster.Failure: the workflow failed, was cancelled or terminated, or timed out.
            BridgeError: Temporal is unreachable, no worker came, or the work was refused.
        """
        id = workflow_id or dagster_workflow_id(context)
        with (
            step_span(context) as trace,
            self.temporal.client() as client,
            self._obeying_interrupts(context, client, id),
        ):
            options = {"result_type": result_type, "memo": extras}
            run = self._start(context, client, workflow, input, id, task_queue, trace, **options)
            result = _to_end(self._attend(context, client, run, None))
            metadata = self._metadata(client, run)
            failpoint("dagster_before_end")
        keys = list(context.selected_asset_keys) if context.has_assets_def else []
        return TemporalInvocation(result, run, metadata, keys)

    def stream(
        self,
        *,
        context: Context,
        workflow: Any,
        input: Any,
        task_queue: str,
        workflow_id: str | None = None,
        on_result: Callable[[Any], Iterable[Any]] | None = None,
        item_type: Any = None,
        selection: str = "tables",
        raise_on_failed: bool = True,
    ) -> Iterator[Any]:
        """Run a dataset's workflow, and yield for each item the moment its child workflow ends.

        The input lists the items in the field ``selection``; the result lists theirs in ``results``. An item and its
        result carry the same ``table``; a result has ``status`` (``succeeded``, ``failed``, ``skipped``) and ``error``.
        `DatasetSyncWorkflow` is such a workflow. A retry that finds a finished workflow takes the items that
        succeeded from its record, and does the others again, alone.

        Args:
            context: of the step.
            workflow: run method or class.
            input: a pydantic model with the field ``selection``.
            task_queue: queue that its workers poll.
            workflow_id: identity of the work; default: `dagster_workflow_id`.
            on_result: turns an item's result into what Dagster takes (``MaterializeResult``, ``AssetCheckResult``); is
                called for failed and skipped items too. Default: the result itself is yielded.
            item_type: type of a child's result; default: ``assets.sync.TableResult``.
            selection: the field that lists the items.
            raise_on_failed: raise when all is done and some items failed.

        Raises:
            dagster.Failure: after the last item, if any failed; or the workflow itself failed.
            BridgeError: as in `run`.
        """
        if item_type is None:
            from assets.sync import TableResult as item_type
        emit = on_result or (lambda result: (result,))
        base_id = workflow_id or dagster_workflow_id(context)
        wanted = {item.table for item in getattr(input, selection)}
        failed: dict[str, Any] = {}
        with step_span(context) as trace, self.temporal.client() as client:
            for round_number in range(1, _MAX_ROUNDS + 1):
                id = base_id if round_number == 1 else f"{base_id}/{round_number}"
                with self._obeying_interrupts(context, client, id):
                    run = self._start(context, client, workflow, input, id, task_queue, trace, selection=selection)
                    failed, emitted = {}, set()
                    for result in self._items(context, client, run, item_type):
                        if result.table not in wanted:
                            continue
                        undone = result.status == "failed" or getattr(result, "error_type", None) == "AlreadyRunning"
                        if undone:
                            failed[result.table] = result
                        if undone and run.finished:
                            continue  # recorded by an earlier execution: done again below
                        yield from emit(result)
                        emitted.add(result.table)
                        failpoint("dagster_after_first_table")
                wanted -= emitted
                if not (run.finished and failed):
                    break
                context.log.info(f"Doing again what failed before: {', '.join(sorted(failed))}")
                again = tuple(item for item in getattr(input, selection) if item.table in failed)
                input = input.model_copy(update={selection: again})
            failpoint("dagster_before_end")
        really_failed = {table: result for table, result in failed.items() if result.status == "failed"}
        if raise_on_failed and really_failed:
            raise dg.Failure(
                "; ".join(f"{table}: {result.error}" for table, result in sorted(really_failed.items())),
                metadata={"failed": sorted(really_failed)},
                allow_retries=False,
            )

    def start(
        self,
        *,
        context: Context,
        workflow: Any,
        input: Any,
        task_queue: str,
        workflow_id: str | None = None,
        selection: str | None = None,
    ) -> WorkflowRun:
        """Start a workflow, or attach to the one of this work, and do not wait: something else reports its end.

        Args:
            context, workflow, input, task_queue, workflow_id: as in `run`.
            selection: field of ``input`` that lists the selected items.

        Raises:
            BridgeError: Temporal is unreachable, or the work was refused.
        """
        with step_span(context) as trace, self.temporal.client() as client:
            id = workflow_id or dagster_workflow_id(context)
            return self._start(context, client, workflow, input, id, task_queue, trace, selection=selection)

    def _start(
        self,
        context: Context,
        client: TemporalClient,
        workflow: Any,
        input: Any,
        id: str,
        task_queue: str,
        trace: str | None,
        **options: Any,
    ) -> WorkflowRun:
        """Start or attach, and write it into the event log before the first wait."""
        context.instance.add_run_tags(context.run.run_id, process_tag(context.run.run_id))
        failpoint("dagster_before_start")
        options |= {"id": id, "task_queue": task_queue, "summary": _origin(context)}
        with tracing.attached(trace):
            run = client.start_workflow(workflow, input, **options)
        self._record(context, run)
        failpoint("dagster_after_start")
        return run

    def _items(self, context: Context, client: TemporalClient, run: WorkflowRun, item_type: Any) -> Iterator[Any]:
        """Each item's result once: as its child ends, and at the end those that have no result of a child."""
        streamed: set[str] = set()
        attending = self._attend(context, client, run, item_type)
        while True:
            try:
                child = next(attending)
            except StopIteration as end:
                yield from (result for result in end.value.results if result.table not in streamed)
                return
            streamed.add(child.result.table)
            yield child.result

    def _attend(
        self, context: Context, client: TemporalClient, run: WorkflowRun, child_type: Any
    ) -> Generator[ChildCompleted, None, Any]:
        """Wait for the workflow in the main thread, log what changes, and obey an interrupt."""
        told = _StateLog(context)
        next_status_look = time.monotonic() + _STATUS_SECONDS
        following = client.follow(run, child_type=child_type, warn=context.log.warning, poll_seconds=self._poll_seconds)
        try:
            while True:
                try:
                    event = next(following)
                except StopIteration as end:
                    return end.value
                if isinstance(event, ChildCompleted):
                    yield event
                    continue
                told.look(event)
                # Executors that start steps elsewhere may not forward a cancel as an interrupt.
                if time.monotonic() >= next_status_look:
                    next_status_look = time.monotonic() + _STATUS_SECONDS
                    if self._canceling(context):
                        raise DagsterExecutionInterruptedError("the run is being cancelled")
        except WorkflowFailedError as error:
            raise dg.Failure(
                f"{run.workflow_type} {error.status}: {error.what}",
                metadata={"error type": error.error_type, **self._metadata(client, run)},
                allow_retries=not error.non_retryable,
            ) from None

    def _canceling(self, context: Context) -> bool:
        run = context.instance.get_run_by_id(context.run.run_id)
        return run is not None and run.status == dg.DagsterRunStatus.CANCELING

    @contextmanager
    def _obeying_interrupts(self, context: Context, client: TemporalClient, workflow_id: str) -> Iterator[None]:
        """From before the start on: an interrupt between start and wait must not leave a terminated run's work.

        A person's "Terminate" ends the work; an eviction or Ctrl-C leaves it, to be attached to.
        """
        try:
            yield
        # GeneratorExit: the interrupt was raised in Dagster's own code, while it stored what `stream` had yielded.
        except (DagsterExecutionInterruptedError, KeyboardInterrupt, GeneratorExit):
            if self._forward_termination and self._canceling(context):
                status = client.cancel_latest_and_wait(workflow_id, self._cancel_seconds)
                context.log.info(f"The run was terminated: workflow {workflow_id} is {status}.")
            else:
                context.log.info(
                    f"This process was interrupted; workflow {workflow_id} goes on, if it was started. "
                    "Re-execute the run from failure to attach to it."
                )
            raise

    def _record(self, context: Context, run: WorkflowRun) -> None:
        """Write the launch into the event log, with its link, before the first wait."""
        url = self.temporal.workflow_url(run.namespace, run.workflow_id, run.run_id)
        earlier = find_latest_launch_handle(context, client_name=CLIENT_NAME) if run.attached else None
        if earlier is not None and earlier.external_run_id == run.workflow_id:
            record_external_reattach(context, earlier)
        else:
            record_external_launch(
                context,
                client_name=CLIENT_NAME,
                external_run_id=run.workflow_id,
                external_run_url=url,
                extras={"run_id": run.run_id, "namespace": run.namespace, "task_queue": run.task_queue},
            )
        how = "Started" if not run.attached else "Read the recorded result of" if run.finished else "Attached to"
        link = f" {url}" if url else ""
        context.log.info(f"{how} workflow {run.workflow_id} (run {run.run_id}) on queue {run.task_queue}.{link}")

    def _metadata(self, client: TemporalClient, run: WorkflowRun) -> dict[str, Any]:
        look = client.describe(run, children=False)
        metadata: dict[str, Any] = {
            "dagster-temporal/workflow_id": run.workflow_id,
            "dagster-temporal/run_id": run.run_id,
            "dagster-temporal/workflow_type": run.workflow_type,
            "dagster-temporal/task_queue": run.task_queue,
            "dagster-temporal/namespace": run.namespace,
            "dagster-temporal/history_length": look.history_length,
        }
        url = self.temporal.workflow_url(run.namespace, run.workflow_id, run.run_id)
        if url:
            metadata["dagster-temporal/workflow_url"] = dg.MetadataValue.url(url)
        return metadata


class _StateLog:
    """Logs what changed: states at once, rows so far every ten seconds."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._states: dict[tuple[str, str], tuple[str, int]] = {}
        self._next_rows = time.monotonic() + _ROWS_LOG_SECONDS

    def look(self, look: WorkflowProgress) -> None:
        rows_due = time.monotonic() >= self._next_rows
        if rows_due:
            self._next_rows = time.monotonic() + _ROWS_LOG_SECONDS
        states = {}
        for activity in look.activities:
            key = (activity.workflow_id, activity.activity_type)
            states[key] = (activity.state, activity.attempt)
            if self._states.get(key) != states[key] or (rows_due and activity.heartbeat.get("rows")):
                self._context.log.info(f"{activity.workflow_id}: {activity.text}")
        self._states = states


def _origin(context: Context) -> str:
    return f"Dagster run {context.run.run_id}, job {context.run.job_name}"


def _to_end(attending: Generator[Any, None, Any]) -> Any:
    """Run a generator to its end for its return value."""
    while True:
        try:
            next(attending)
        except StopIteration as end:
            return end.value
