"""The one-machine stack: one per home, restarted parts, nothing left behind."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from assets.errors import ConflictError
from assets.settings import Settings
from orchestration.child_process import ChildProcess, ServerProcessError, free_port, port_answers
from orchestration.local import LocalStack, running_stack, stack_in_use
from orchestration.supervisor import SupervisedServer, Supervisor
from orchestration.temporal_server import temporal_server_args
from tests.child_processes import children_with
from tests.polling import wait_until


@pytest.fixture(autouse=True)
def usual_port_of_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporal's own port goes to another test's stack as soon as one here lets it go."""
    monkeypatch.setattr("orchestration.local.TEMPORAL_PORT", free_port())


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_a_second_stack_in_the_same_home_is_refused(settings: Settings) -> None:
    with LocalStack(settings) as stack:
        record = stack.start(worker=False).record
        with pytest.raises(ConflictError, match="headrace status"):
            LocalStack(settings).start(worker=False)
        assert running_stack(settings) == record
        document = json.loads((settings.home_path / "stack.json").read_text())
        assert document["temporal_address"] == record.temporal_address
        assert document["ui_url"] == record.temporal_ui_url
    assert running_stack(settings) is None
    assert not port_answers(port_of(record.temporal_address))


def test_two_homes_run_side_by_side(tmp_path: Path) -> None:
    first, second = LocalStack(Settings(home=tmp_path / "a")), LocalStack(Settings(home=tmp_path / "b"))
    with first, second:
        assert first.start(worker=False).temporal_address != second.start(worker=False).temporal_address


@pytest.mark.parametrize("gone", [False, True], ids=["there", "gone"])
def test_a_stack_whose_port_another_server_took_at_the_same_instant_starts_on_another_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        chosen = iter([taken])  # looked free a moment ago
        if gone:  # when it is looked for
            monkeypatch.setattr("orchestration.local.port_answers", lambda port: False)
        monkeypatch.setattr("orchestration.local.free_port", lambda preferred=None: next(chosen, None) or free_port())
        with LocalStack(settings) as stack:
            assert port_of(stack.start(worker=False).temporal_address) != taken


def test_a_temporal_server_that_ends_while_it_starts_is_started_once_more(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [[sys.executable, "-c", "raise SystemExit(1)"]]  # no real one can be made to lose an inner port

    def args(**options: Any) -> list[str]:
        return broken.pop() if broken else temporal_server_args(**options)

    monkeypatch.setattr("orchestration.local.temporal_server_args", args)
    with LocalStack(settings) as stack:
        assert port_answers(port_of(stack.start(worker=False).temporal_address))
    broken += [[sys.executable, "-c", "raise SystemExit(1)"]] * 2
    with LocalStack(settings) as stack, pytest.raises(ServerProcessError, match="ended with status 1"):
        stack.start(worker=False)


def test_a_killed_temporal_server_comes_back_at_its_address(settings: Settings) -> None:
    with LocalStack(settings) as stack:
        port = port_of(stack.start(worker=False).temporal_address)
        (server,) = children_with("start-dev") & children_with(str(port))
        server.kill()
        server.wait(10)
        wait_until(lambda: port_answers(port))


def test_a_worker_polls_when_the_stack_is_up_and_comes_back_after_a_kill(settings: Settings) -> None:
    with LocalStack(settings) as stack:
        stack.start()
        first = stack.worker_pid
        assert first is not None
        psutil.Process(first).kill()
        wait_until(lambda: stack.worker_pid not in (None, first))
        assert stack.failure is None


def test_a_killed_stack_leaves_no_process(settings: Settings) -> None:
    program = textwrap.dedent(f"""
        import time
        from assets.settings import Settings
        from orchestration.local import LocalStack
        LocalStack(Settings(home={str(settings.home_path)!r})).start()
        time.sleep(600)
    """)
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(lambda: running_stack(settings) is not None, 60)
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
    finally:
        parent.kill()
        parent.wait()
    _gone, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    assert running_stack(settings) is None


def test_a_command_that_shares_a_transient_stack_keeps_it_up(settings: Settings) -> None:
    owner = LocalStack(settings)
    port = port_of(owner.start(worker=False, transient=True).temporal_address)
    with stack_in_use(settings) as shared:
        assert port_of(shared.temporal_address) == port
        ending = threading.Thread(target=owner.stop)
        ending.start()
        time.sleep(0.5)
        assert port_answers(port)
    ending.join(30)
    assert not port_answers(port)


def test_a_server_that_keeps_dying_ends_the_stack_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.supervisor._LONGEST_PAUSE_SECONDS", 0.01)
    child = ChildProcess("Flaky", [sys.executable, "-S", "-c", "print('out of luck')"], tmp_path / "flaky.log")
    supervisor = Supervisor([SupervisedServer(child, lambda: True)])
    supervisor.start()
    wait_until(lambda: supervisor.failure is not None, 60)
    assert "Flaky: died 20 times in ten minutes: out of luck" in (supervisor.failure or "")
    supervisor.stop()


def test_a_server_that_does_not_come_up_stops_the_others(tmp_path: Path) -> None:
    sleeper = ChildProcess("Sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "s.log")
    broken = ChildProcess("Broken", [sys.executable, "-c", "raise SystemExit('bad config')"], tmp_path / "b.log")
    supervisor = Supervisor([SupervisedServer(sleeper, lambda: True), SupervisedServer(broken, lambda: False)])
    with pytest.raises(ServerProcessError, match="bad config"):
        supervisor.start()
    assert not sleeper.running
