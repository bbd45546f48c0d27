"""Many tables of one connector: each alone, each once at a time."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from assets.naming import workflow_id
from assets.sync import Overlap
from temporal_bridge.client import ChildCompleted, TemporalClient, WorkflowFailedError, WorkflowRun
from temporal_bridge.workflows.dataset_sync import MAX_TABLES, DatasetSync, DatasetSyncWorkflow
from tests.temporal_bridge.conftest import WorkerProcess, table_work
from tests.temporal_bridge.recorded_steps import RecordedSteps


def dataset(*tables: str, connector: str | None = None, max_parallel: int = 4) -> DatasetSync:
    connector = connector or f"shop_{uuid.uuid4().hex[:8]}"
    group = f"run-{uuid.uuid4().hex[:8]}"
    work = tuple(table_work(t, connector).model_copy(update={"run_group": group}) for t in tables)
    return DatasetSync(connector=connector, tables=work, run_group=group, max_parallel=max_parallel)


def start(client: TemporalClient, work: DatasetSync, task_queue: str) -> WorkflowRun:
    return client.start_workflow(
        DatasetSyncWorkflow,
        work,
        id=f"dataset/{work.connector}/{work.run_group}",
        task_queue=task_queue,
        selection="tables",
    )


def test_one_of_five_tables_fails_alone_and_says_why(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    work = dataset("public.a", "public.b", "public.forbidden", "public.c", "public.d")
    result = client.wait(start(client, work, task_queue))
    assert [r.table for r in result.results] == [t.table for t in work.tables]
    assert [r.status for r in result.results] == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    failed = result.results[2]
    assert failed.error_type == "SourceAccessError"
    assert failed.error == "shop/public.forbidden: permission denied for table forbidden."
    assert failed.run_group == work.run_group


def test_finished_tables_are_told_while_others_are_still_read(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    from assets.sync import TableResult

    work = dataset("public.waiting", "public.a")
    seen: list[str] = []
    following = client.follow(start(client, work, task_queue), child_type=TableResult, poll_seconds=0.2)
    while True:
        try:
            event = next(following)
        except StopIteration as end:
            final = end.value
            break
        if isinstance(event, ChildCompleted):
            seen.append(event.result.table)
            steps.release()
    assert seen == ["public.a", "public.waiting"]
    assert [r.table for r in final.results] == ["public.waiting", "public.a"]


def test_a_table_that_another_sync_holds_is_skipped_and_the_others_go_on(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    first = dataset("public.waiting")
    holding = start(client, first, task_queue)
    steps.wait_for("extract")
    second = dataset("public.waiting", "public.a", connector=first.connector)
    skipped, done = client.wait(start(client, second, task_queue)).results
    assert (skipped.status, skipped.reason) == ("skipped", "another sync of this table is running")
    assert done.status == "succeeded"
    steps.release()
    assert client.wait(holding).results[0].status == "succeeded"
    assert len([c for c in steps.calls("extract") if c["table"] == "public.waiting"]) == 1


def test_no_more_tables_run_at_once_than_allowed(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    work = dataset("public.waiting", "public.waiting_too", "public.a", max_parallel=2)
    run = start(client, work, task_queue)
    steps.wait_for("extract", 2)
    assert len(client.describe(run).children) == 2
    assert {c["table"] for c in steps.calls("open_window")} == {"public.waiting", "public.waiting_too"}
    steps.release()
    assert [r.status for r in client.wait(run).results] == ["succeeded"] * 3


def test_cancelling_the_dataset_cancels_its_tables_and_closes_their_runs(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    run = start(client, dataset("public.waiting", "public.waiting_longer"), task_queue)
    steps.wait_for("extract", 2)
    assert client.cancel_and_wait(run) == "cancelled"
    for table in ("public.waiting", "public.waiting_longer"):
        assert (steps.run_row(table).status, steps.run_row(table).error) == ("failed", "cancelled")
    with pytest.raises(WorkflowFailedError, match="cancelled"):
        client.wait(run)


def test_a_finished_dataset_is_read_not_repeated_also_by_a_smaller_selection(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    work = dataset("public.a", "public.b")
    first = client.wait(start(client, work, task_queue))
    fewer = work.model_copy(
        update={"tables": (work.tables[1].model_copy(update={"dagster_run_id": "another", "trigger": "retry"}),)}
    )
    again = start(client, fewer, task_queue)
    assert (again.attached, again.finished) == (True, True)
    assert client.wait(again) == first
    assert len(steps.calls("extract")) == 2


def test_a_dataset_of_too_many_tables_is_refused_before_it_starts() -> None:
    with pytest.raises(ValidationError, match="at most 1500"):
        dataset(*(f"public.t{number}" for number in range(MAX_TABLES + 1)))


def overlapping(first: DatasetSync, overlap: Overlap) -> DatasetSync:
    again = dataset(*(work.table for work in first.tables), connector=first.connector)
    return again.model_copy(update={"overlap": overlap})


def status(client: TemporalClient, run: WorkflowRun) -> tuple[str, str]:
    (result,) = client.wait(run).results
    return result.status, result.error_type or result.reason


def wait_for_waiting(client: TemporalClient, holder: DatasetSync) -> None:
    """Until somebody stands behind the table's running sync."""
    held = WorkflowRun(workflow_id(holder.connector, holder.tables[0].table), "", "", "", "default")
    deadline = time.monotonic() + 20
    while '"wait_for_turn"' not in client.history_json(held):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_queue_one_follows_the_running_sync_and_a_third_one_is_skipped(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    first = dataset("public.waiting")
    holding = start(client, first, task_queue)
    steps.wait_for("extract")
    second = start(client, overlapping(first, "queue_one"), task_queue)
    wait_for_waiting(client, first)
    third = start(client, overlapping(first, "queue_one"), task_queue)
    reason = client.wait(third).results[0].reason
    assert reason == "another sync of this table is running, and the next one waits already"
    assert len(steps.calls("extract")) == 1
    steps.release()
    assert status(client, holding)[0] == "succeeded"
    assert status(client, second)[0] == "succeeded"
    assert len(steps.calls("extract")) == 2


def test_one_that_is_cancelled_while_it_waits_leaves_its_place_to_the_next(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    first = dataset("public.waiting")
    holding = start(client, first, task_queue)
    steps.wait_for("extract")
    for step in range(12):  # from before it asks for the place until it has long been given
        second = start(client, overlapping(first, "queue_one"), task_queue)
        time.sleep(0.04 * step)
        assert client.cancel_and_wait(second, 10) == "cancelled"
    third = start(client, overlapping(first, "queue_one"), task_queue)
    time.sleep(1)
    steps.release()
    assert [status(client, run)[0] for run in (holding, third)] == ["succeeded", "succeeded"]


def test_cancel_other_takes_the_place_of_the_running_sync(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    first = dataset("public.waiting")
    holding = start(client, first, task_queue)
    steps.wait_for("extract")
    second = start(client, overlapping(first, "cancel_other"), task_queue)
    assert status(client, holding) == ("failed", "Cancelled")
    steps.wait_for("extract", 2)
    steps.release()
    assert status(client, second)[0] == "succeeded"
    assert steps.run_row("public.waiting").status == "succeeded"


STARTERS = 5


def race(address: str, work: DatasetSync, task_queue: str, overlap: Overlap) -> list[WorkflowRun]:
    """Start the same table's sync from several clients at the same instant, each as a run of its own."""
    barrier = threading.Barrier(STARTERS)

    def one(_: int) -> WorkflowRun:
        with TemporalClient(address) as own:
            mine = overlapping(work, overlap)
            barrier.wait(20)
            return start(own, mine, task_queue)

    with ThreadPoolExecutor(STARTERS) as threads:
        return list(threads.map(one, range(STARTERS)))


def ended(client: TemporalClient, runs: list[WorkflowRun]) -> list[WorkflowRun]:
    return [run for run in runs if client.describe(run, children=False).status != "running"]


def until_ended(client: TemporalClient, runs: list[WorkflowRun], number: int) -> list[WorkflowRun]:
    deadline = time.monotonic() + 60
    while len(found := ended(client, runs)) < number:
        assert time.monotonic() < deadline, [client.describe(run).status for run in runs]
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_of_syncs_that_start_at_the_same_instant_one_runs_and_the_others_are_skipped(
    client: TemporalClient,
    worker: WorkerProcess,
    steps: RecordedSteps,
    task_queue: str,
    temporal_address: str,
    rounds: int,
) -> None:
    for number in range(rounds):
        (steps.folder / "release").unlink(missing_ok=True)
        runs = race(temporal_address, dataset("public.waiting"), task_queue, "skip")
        skipped = until_ended(client, runs, STARTERS - 1)
        assert {status(client, run) for run in skipped} == {("skipped", "AlreadyRunning")}
        steps.release()
        statuses = sorted(status(client, run)[0] for run in runs)
        assert statuses == [*["skipped"] * (STARTERS - 1), "succeeded"]
        assert len(steps.calls("record")) == number + 1


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("queue_one", [*["skipped"] * (STARTERS - 2), "succeeded", "succeeded"]),
        # each start cancels the one before it and waits for its clean-up: too long for the default run
        pytest.param("cancel_other", [*["failed"] * (STARTERS - 1), "succeeded"], marks=pytest.mark.slow),
    ],
)
def test_syncs_that_start_at_the_same_instant_follow_their_policy(
    client: TemporalClient,
    worker: WorkerProcess,
    steps: RecordedSteps,
    task_queue: str,
    temporal_address: str,
    overlap: Overlap,
    expected: list[str],
) -> None:
    for _ in range(3):
        (steps.folder / "release").unlink(missing_ok=True)
        runs = race(temporal_address, dataset("public.waiting"), task_queue, overlap)
        until_ended(client, runs, STARTERS - expected.count("succeeded"))
        steps.release()
        assert sorted(status(client, run)[0] for run in runs) == expected
