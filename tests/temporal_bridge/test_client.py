"""The blocking client: attach, refuse, wait through outages."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from assets.errors import BridgeError
from temporal_bridge.client import TemporalClient, WorkflowFailedError, WorkflowRun
from tests.servers.tcp_proxy import TcpProxy
from tests.servers.temporal_server import TemporalServer
from tests.temporal_bridge.conftest import REPOSITORY, WorkerProcess, table_work
from tests.temporal_bridge.greeting_workflow import GreetingWorkflow
from tests.temporal_bridge.recorded_steps import RecordedSteps
from tests.temporal_bridge.test_table_sync_workflow import start as start_table


def greet(client: TemporalClient, name: str, task_queue: str, id: str) -> WorkflowRun:
    return client.start_workflow(GreetingWorkflow, name, id=id, task_queue=task_queue)


@pytest.fixture
def id() -> str:
    return f"greeting/{uuid.uuid4().hex[:8]}"


def test_a_running_workflow_is_attached_to_by_the_same_work(
    client: TemporalClient, worker: WorkerProcess, task_queue: str, id: str
) -> None:
    first = greet(client, "waiting", task_queue, id)
    second = greet(client, "waiting", task_queue, id)
    assert (first.attached, second.attached, second.finished) == (False, True, False)
    assert second.run_id == first.run_id
    client.cancel(first)


def test_a_finished_result_is_read_and_the_work_not_repeated(
    client: TemporalClient, worker: WorkerProcess, task_queue: str, id: str
) -> None:
    first = greet(client, "Ada", task_queue, id)
    assert client.wait(first) == "Hello, Ada!"
    second = greet(client, "Ada", task_queue, id)
    assert (second.attached, second.finished, second.run_id) == (True, True, first.run_id)
    assert client.wait(second) == "Hello, Ada!"


def test_a_failed_workflow_starts_again(
    client: TemporalClient, worker: WorkerProcess, task_queue: str, id: str
) -> None:
    first = greet(client, "nobody", task_queue, id)
    with pytest.raises(WorkflowFailedError, match="nobody is there") as caught:
        client.wait(first)
    assert (caught.value.error_type, caught.value.status) == ("NobodyError", "failed")
    second = greet(client, "nobody", task_queue, id)
    assert not second.attached
    assert second.run_id != first.run_id


def test_changed_work_is_refused_and_the_message_says_what_differs(
    client: TemporalClient, worker: WorkerProcess, steps: RecordedSteps, task_queue: str
) -> None:
    work = table_work()
    client.wait(start_table(client, work, task_queue))
    with pytest.raises(BridgeError, match='mode: recorded "auto", now "full"') as caught:
        start_table(client, work.model_copy(update={"mode": "full"}), task_queue)
    assert not caught.value.retryable
    assert len(steps.calls("extract")) == 1


def test_another_workflow_type_under_the_same_id_is_refused(
    client: TemporalClient, worker: WorkerProcess, task_queue: str, id: str
) -> None:
    client.wait(greet(client, "Ada", task_queue, id))
    with pytest.raises(BridgeError, match="recorded GreetingWorkflow, now DatasetSyncWorkflow"):
        client.start_workflow("DatasetSyncWorkflow", "Ada", id=id, task_queue=task_queue)


def test_an_input_that_no_payload_holds_is_refused_before_the_start(
    client: TemporalClient, task_queue: str, id: str
) -> None:
    work = {"connector": "shop", "filters": [{"rows": "x" * 1_600_000}]}
    with pytest.raises(BridgeError, match=r"the largest part is `filters\[0\]\.rows` with 1,600,002 bytes"):
        client.start_workflow("GreetingWorkflow", work, id=id, task_queue=task_queue)
    with pytest.raises(BridgeError, match="does not know this workflow"):
        client.wait(WorkflowRun(id, "", "GreetingWorkflow", task_queue, "default"))


def test_an_unreachable_server_is_named_in_bounded_time(task_queue: str, id: str) -> None:
    with (
        TemporalClient("127.0.0.1:1", connect_seconds=1) as client,
        pytest.raises(BridgeError, match=r"Temporal unreachable at 127\.0\.0\.1:1 for 1 s") as caught,
    ):
        greet(client, "Ada", task_queue, id)
    assert caught.value.retryable
    assert "TEMPORAL_ADDRESS" in str(caught.value)


def test_a_queue_without_a_worker_is_said_with_the_command_and_the_work_cancelled(
    temporal_address: str, task_queue: str, id: str
) -> None:
    warnings: list[str] = []
    with TemporalClient(temporal_address, worker_wait_seconds=2) as client:
        run = greet(client, "Ada", task_queue, id)
        with pytest.raises(BridgeError, match=f"no worker polls the task queue `{task_queue}`") as caught:
            client.wait(run, warn=warnings.append, poll_seconds=0.2)
    command = f"headrace worker --task-queue {task_queue}"
    assert command in str(caught.value)
    assert len(warnings) == 1
    assert command in warnings[0]


def test_work_that_a_worker_killed_a_moment_ago_would_have_taken_is_told_at_once(
    client: TemporalClient, start_worker: Callable[..., WorkerProcess], task_queue: str, id: str
) -> None:
    first = start_worker()
    assert client.wait(greet(client, "Ada", task_queue, id)) == "Hello, Ada!"
    first.kill()  # Temporal lists it as a poller for minutes
    warnings: list[str] = []

    def told(text: str) -> None:
        warnings.append(text)
        start_worker()

    run = greet(client, "Grace", task_queue, f"{id}-again")
    assert client.wait(run, warn=told, poll_seconds=0.2) == "Hello, Grace!"
    assert len(warnings) == 1
    assert f"headrace worker --task-queue {task_queue}" in warnings[0]


def test_a_worker_that_comes_late_just_proceeds(
    client: TemporalClient, start_worker: Callable[..., WorkerProcess], task_queue: str, id: str
) -> None:
    run = greet(client, "Ada", task_queue, id)
    warnings: list[str] = []
    comes = threading.Timer(4, start_worker)
    comes.start()
    assert client.wait(run, warn=warnings.append, poll_seconds=0.2) == "Hello, Ada!"
    comes.join()
    assert "No worker polls" in warnings[0]


def test_a_server_that_goes_and_comes_back_interrupts_no_wait(
    tmp_path: Path, start_worker: Callable[..., WorkerProcess], steps: RecordedSteps, task_queue: str
) -> None:
    warnings: list[str] = []
    with (
        TemporalServer(tmp_path, db_file=tmp_path / "temporal.db") as server,
        TemporalClient(server.address, outage_seconds=60) as client,
    ):
        worker = start_worker(server.address)
        run = start_table(client, table_work("public.waiting"), task_queue)
        steps.wait_for("extract")
        # The server has to be started from this thread: it ends with the one that started it.
        with ThreadPoolExecutor(1) as waiting:
            result = waiting.submit(client.wait, run, warn=warnings.append, poll_seconds=0.2)
            server.kill()
            while not warnings:
                assert not result.done()
                time.sleep(0.1)
            server.start()
            steps.release()
            assert result.result(timeout=90).status == "succeeded"
        worker.stop()


def test_connections_that_break_again_and_again_interrupt_no_wait(
    temporal_address: str, start_worker: Callable[..., WorkerProcess], steps: RecordedSteps, task_queue: str
) -> None:
    host, _, port = temporal_address.rpartition(":")
    warnings: list[str] = []
    start_worker()
    with TcpProxy(host, int(port)) as proxy, TemporalClient(f"{proxy.host}:{proxy.port}", outage_seconds=60) as client:
        run = start_table(client, table_work("public.waiting"), task_queue)
        steps.wait_for("extract")
        with ThreadPoolExecutor(1) as waiting:
            result = waiting.submit(client.wait, run, warn=warnings.append, poll_seconds=0.2)
            for canned in (b"", b"HTTP/1.1 500 x\r\n\r\n") * 10:
                proxy.answer(canned, 3)
                proxy.cut()
                time.sleep(0.2)
                assert not result.done()
            proxy.answer(b"", 0)
            steps.release()
            assert result.result(timeout=60).status == "succeeded"
    assert "does not answer" in warnings[0]


def test_a_server_that_stays_away_ends_the_wait_and_says_that_the_work_goes_on(
    tmp_path: Path, task_queue: str, id: str
) -> None:
    warnings: list[str] = []
    with (
        TemporalServer(tmp_path) as server,
        TemporalClient(server.address, outage_seconds=2, worker_wait_seconds=300) as client,
    ):
        run = greet(client, "waiting", task_queue, id)
        server.kill()
        with pytest.raises(BridgeError, match="for 2 s while this was waited for"):
            client.wait(run, warn=warnings.append, poll_seconds=0.2)
    assert any("does not answer" in warning for warning in warnings)


def test_a_server_that_lost_its_state_fails_the_wait_and_restarts_nothing(
    tmp_path: Path, task_queue: str, id: str
) -> None:
    with (
        TemporalServer(tmp_path) as server,
        TemporalClient(server.address, outage_seconds=60) as client,
    ):
        run = greet(client, "waiting", task_queue, id)
        server.restart()
        with pytest.raises(BridgeError, match="does not know this workflow any more"):
            client.wait(run, poll_seconds=0.2)


def test_a_process_that_forgets_to_close_its_client_ends_cleanly(temporal_address: str) -> None:
    code = (
        "from temporal_bridge import TemporalClient\n"
        f"client = TemporalClient({temporal_address!r})\n"
        "print(client.worker_age('nobody-polls-this'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")
