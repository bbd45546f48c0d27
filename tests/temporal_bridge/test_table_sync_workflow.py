"""One table's workflow on a real server with real worker processes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from assets.errors import BridgeError
from assets.naming import workflow_id
from assets.sync import TableSync
from temporal_bridge.client import TemporalClient, WorkflowFailedError, WorkflowProgress, WorkflowRun
from temporal_bridge.workflows.data_source_sync import DataSourceSyncWorkflow
from tests.temporal_bridge.conftest import WorkerProcess, table_work
from tests.temporal_bridge.recorded_steps import BATCHES, ROWS_A_BATCH, RecordedSteps


def start(client: TemporalClient, work: TableSync, task_queue: str) -> WorkflowRun:
    return client.start_workflow(
        DataSourceSyncWorkflow, work, id=workflow_id(work.connector, work.table), task_queue=task_queue
    )


def test_the_six_steps_run_in_order_and_the_result_names_its_workflow(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    work = table_work()
    result = client.wait(start(client, work, task_queue))
    assert steps.steps() == ["open_window", "extract", "commit_bronze", "merge_silver", "verify", "record"]
    assert steps.calls("open_window")[0]["workflow_id"] == workflow_id(work.connector, work.table)
    assert (result.status, result.rows_read, result.equal) == ("succeeded", BATCHES * ROWS_A_BATCH, True)
    assert result.workflow_id == workflow_id(work.connector, work.table)
    assert result.started_at is not None
    assert steps.run_row(work.table) == result


def test_a_window_with_nothing_to_do_is_recorded_as_skipped(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    result = client.wait(start(client, table_work("public.unchanged"), task_queue))
    assert steps.steps() == ["open_window", "skip", "record"]
    assert (result.status, result.reason) == ("skipped", "nothing changed")


def test_an_error_that_no_retry_helps_ends_the_workflow_at_once_and_closes_the_run(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    with pytest.raises(WorkflowFailedError, match="permission denied") as caught:
        client.wait(start(client, table_work("public.forbidden"), task_queue))
    assert (caught.value.status, caught.value.error_type) == ("failed", "SourceAccessError")
    assert caught.value.non_retryable
    assert steps.steps() == ["open_window", "fail", "record"]
    row = steps.run_row("public.forbidden")
    assert (row.status, row.error_type) == ("failed", "SourceAccessError")
    assert row.error == "shop/public.forbidden: permission denied for table forbidden."


def test_a_passing_fault_is_retried(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    assert client.wait(start(client, table_work("public.flaky"), task_queue)).status == "succeeded"
    assert [call["attempt"] for call in steps.calls("extract")] == [1, 2]


def test_an_unknown_error_is_tried_five_times_and_no_secret_of_it_reaches_the_history(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    run = start(client, table_work("public.leaky"), task_queue)
    with pytest.raises(WorkflowFailedError, match="ValueError: cannot open postgresql://me:") as caught:
        client.wait(run)
    assert "canary-secret" not in str(caught.value)
    assert len(steps.calls("open_window")) == 5
    assert "canary-secret" not in (steps.run_row("public.leaky").error or "")
    assert "canary-secret" not in client.history_json(run)


def test_a_worker_killed_in_extract_is_replaced_and_the_second_attempt_finishes(
    client: TemporalClient, start_worker: Callable[..., WorkerProcess], steps: RecordedSteps, task_queue: str
) -> None:
    first = start_worker()
    run = start(client, table_work("public.waiting"), task_queue)
    steps.wait_for("extract")
    first.kill()
    second = start_worker()
    steps.wait_for("extract", 2)
    steps.release()
    assert client.wait(run).status == "succeeded"
    assert [(call["attempt"], call["pid"]) for call in steps.calls("extract")] == [
        (1, first.process.pid),
        (2, second.process.pid),
    ]
    assert len(steps.calls("open_window")) == len(steps.calls("commit_bronze")) == 1


def test_a_reader_that_reports_nothing_any_more_is_given_up_though_its_worker_lives(
    client: TemporalClient, start_worker: Callable[..., WorkerProcess], steps: RecordedSteps, task_queue: str
) -> None:
    start_worker(HEADRACE_READ_SILENCE_SECONDS="1")
    assert client.wait(start(client, table_work("public.stuck"), task_queue)).status == "succeeded"
    assert [call["attempt"] for call in steps.calls("extract")] == [1, 2]


def test_progress_shows_rows_while_the_extract_runs(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    run = start(client, table_work("public.waiting"), task_queue)
    looks: list[WorkflowProgress] = []

    def progress(look: WorkflowProgress) -> None:
        looks.append(look)
        if any(activity.heartbeat.get("rows") for activity in look.activities):
            steps.release()

    client.wait(run, progress=progress, poll_seconds=0.2)
    (seen,) = [a for look in looks for a in look.activities if a.heartbeat.get("rows")][:1]
    assert (seen.activity_type, seen.state, seen.attempt) == ("extract", "started", 1)
    assert f"{ROWS_A_BATCH} rows" in seen.text


def test_a_cancel_stops_the_extract_and_closes_the_run_as_cancelled(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    run = start(client, table_work("public.waiting"), task_queue)
    steps.wait_for("extract")
    assert client.cancel_and_wait(run) == "cancelled"
    row = steps.run_row("public.waiting")
    assert (row.status, row.error) == ("failed", "cancelled")
    assert "commit_bronze" not in steps.steps()
    with pytest.raises(WorkflowFailedError) as caught:
        client.wait(run)
    assert caught.value.status == "cancelled"


def test_a_cancel_at_any_moment_of_the_start_ends_the_sync(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    for moment in range(8):
        run = start(client, table_work("public.waiting"), task_queue)
        time.sleep(0.03 * moment)
        assert client.cancel_and_wait(run, 15) == "cancelled"


def test_a_sync_that_is_cancelled_as_its_worker_dies_ends_as_cancelled(
    client: TemporalClient, start_worker: Callable[..., WorkerProcess], steps: RecordedSteps, task_queue: str
) -> None:
    slow = {"HEADRACE_HEARTBEAT_TIMEOUT_SECONDS": "15"}
    first = start_worker(**slow)
    run = start(client, table_work("public.waiting"), task_queue)
    steps.wait_for("extract")
    first.process.kill()
    start_worker(**slow)
    assert client.cancel_and_wait(run) == "cancelled"  # though what the server sees is a heartbeat that ran out
    row = steps.run_row("public.waiting")
    assert (row.status, row.error, row.error_type) == ("failed", "cancelled", "Cancelled")


def test_a_result_that_no_payload_holds_is_refused_at_once(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    with pytest.raises(WorkflowFailedError, match="the result of extract has 1,7") as caught:
        client.wait(start(client, table_work("public.enormous"), task_queue))
    assert caught.value.error_type == "BridgeError"
    assert len(steps.calls("extract")) == 1
    assert steps.run_row("public.enormous").status == "failed"


def test_a_worker_told_to_stop_finishes_the_step_it_is_in(
    client: TemporalClient, start_worker: Callable[..., WorkerProcess], steps: RecordedSteps, task_queue: str
) -> None:
    first = start_worker()
    run = start(client, table_work("public.waiting"), task_queue)
    steps.wait_for("extract")
    first.process.terminate()
    time.sleep(0.5)
    steps.release()
    assert first.process.wait(20) == 0
    start_worker()
    assert client.wait(run).status == "succeeded"
    assert len(steps.calls("extract")) == 1


def test_the_query_answers_with_the_step_under_way(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    run = start(client, table_work("public.waiting"), task_queue)
    steps.wait_for("extract")
    assert client.query(run, "progress") == "extract"
    steps.release()
    client.wait(run)
    assert client.query(run, "progress") == "record"


def test_a_closed_client_says_so(temporal_address: str) -> None:
    client = TemporalClient(temporal_address)
    client.close()
    with pytest.raises(BridgeError, match="closed"):
        client.worker_age("any")
