"""Automatic retries that Dagster's daemon passed over are launched after all, and once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.auto_run_reexecution import event_log_consumer
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon

from temporal_bridge._compat import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG, daemon_cursor_key
from temporal_bridge.missed_retries import recall_missed_retries


@dg.op
def nothing() -> None: ...


@dg.job
def nightly() -> None:
    nothing()


class Dagster:
    """An instance whose daemon acts when it is told to."""

    def __init__(self, instance: dg.DagsterInstance, workspace: WorkspaceProcessContext) -> None:
        self.instance = instance
        self._workspace = workspace
        self._daemon = EventLogConsumerDaemon()

    def daemon_acts(self) -> None:
        for _ in self._daemon.run_iteration(self._workspace):
            pass

    def started_run(self, tags: dict[str, str] | None = None) -> dg.DagsterRun:
        (entry,) = self._workspace.create_request_context().get_code_location_entries().values()
        assert entry.code_location, entry.load_error
        job = entry.code_location.get_repository("__repository__nightly").get_full_job("nightly")
        return self.instance.create_run_for_job(
            nightly,
            status=dg.DagsterRunStatus.STARTED,
            tags=tags,
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
        )

    def fail(self, run: dg.DagsterRun) -> None:
        self.instance.report_run_failed(run, message="its process is gone")

    def fail_while_the_daemon_reads(self, run: dg.DagsterRun) -> None:
        """The daemon's whole iteration falls between the two writes of a failing run: the event, then the status."""
        storage = self.instance.run_storage
        written = storage.handle_run_event

        def after_the_daemon(*args: Any, **kwargs: Any) -> None:
            storage.handle_run_event = written
            self.daemon_acts()
            written(*args, **kwargs)

        storage.handle_run_event = after_the_daemon
        self.fail(run)

    def retries_of(self, run: dg.DagsterRun) -> list[dg.DagsterRun]:
        return [other for other in self.instance.get_runs() if other.parent_run_id == run.run_id]

    def tags(self, run: dg.DagsterRun) -> dict[str, str]:
        stored = self.instance.get_run_by_id(run.run_id)
        assert stored is not None
        return dict(stored.tags)


@pytest.fixture
def dagster(tmp_path: Path) -> Iterator[Dagster]:
    location = PythonFileTarget(__file__, "nightly", None, None)
    overrides = {
        "run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False},
        "run_launcher": {"module": "dagster._core.test_utils", "class": "MockedRunLauncher"},
    }
    with (
        dg.instance_for_test(overrides=overrides, temp_dir=str(tmp_path)) as instance,
        create_test_daemon_workspace_context(location, instance) as workspace,
    ):
        dagster = Dagster(instance, workspace)
        dagster.daemon_acts()  # its first iteration ignores what was before
        yield dagster


def test_dagster_passes_over_a_failure_whose_status_is_not_written_yet(dagster: Dagster) -> None:
    run = dagster.started_run()
    dagster.fail_while_the_daemon_reads(run)
    dagster.daemon_acts()
    assert dagster.tags(run)[WILL_RETRY_TAG] == "true"
    assert dagster.retries_of(run) == [], "Dagster has mended its race: remove temporal_bridge/missed_retries.py"


def test_a_retry_that_the_daemon_passed_over_is_launched_once(dagster: Dagster) -> None:
    other = dagster.started_run()
    dagster.fail(other)
    dagster.daemon_acts()
    run = dagster.started_run()
    dagster.fail_while_the_daemon_reads(run)

    assert recall_missed_retries(dagster.instance) == [run.run_id]
    dagster.daemon_acts()
    (retry,) = dagster.retries_of(run)
    assert dagster.tags(run)[AUTO_RETRY_RUN_ID_TAG] == retry.run_id
    assert recall_missed_retries(dagster.instance) == []
    dagster.daemon_acts()
    assert dagster.retries_of(run) == [retry]
    assert len(dagster.retries_of(other)) == 1


def test_a_failure_that_the_daemon_has_yet_to_read_is_left_to_it(dagster: Dagster) -> None:
    run = dagster.started_run()
    dagster.fail(run)
    assert recall_missed_retries(dagster.instance) == []
    dagster.daemon_acts()
    assert len(dagster.retries_of(run)) == 1


def test_a_retry_is_recalled_three_times_at_most_not_counting_its_parents_recalls(dagster: Dagster) -> None:
    run = dagster.started_run()
    dagster.fail_while_the_daemon_reads(run)
    daemon_is_at = dagster.instance.daemon_cursor_storage.get_cursor_values
    key = daemon_cursor_key(dg.DagsterEventType.RUN_FAILURE)
    reached = daemon_is_at({key})
    recalled = []
    for _ in range(4):  # an iteration of the daemon that is under way writes its own cursor over the recalled one
        recalled.append(recall_missed_retries(dagster.instance))
        dagster.instance.daemon_cursor_storage.set_cursor_values(reached)
    assert recalled == [[run.run_id]] * 3 + [[]]

    again = dagster.started_run(tags=dagster.tags(run))
    dagster.fail_while_the_daemon_reads(again)
    assert recall_missed_retries(dagster.instance) == [again.run_id]


def test_the_daemons_cursor_is_kept_where_the_bridge_looks_for_it() -> None:
    failure = dg.DagsterEventType.RUN_FAILURE
    assert event_log_consumer._create_cursor_key(failure) == daemon_cursor_key(failure)
