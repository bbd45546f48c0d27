"""The servers of the demo and the tests: real logins, real addresses, nothing left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from orchestration.child_process import ChildProcess, ServerProcessError, free_port, port_answers
from orchestration.embedded_postgres import EmbeddedPostgres
from tests.polling import wait_until
from tests.servers.temporal_server import TemporalServer


def test_postgres_asks_for_the_password(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        postgres.connect(password="wrong").close()
    with postgres.connect() as connection:
        row = connection.execute("SELECT current_setting('wal_level'), current_setting('port')").fetchone()
    assert row == ("logical", str(postgres.port))


def test_each_database_is_fresh(postgres: EmbeddedPostgres, database: Callable[[], str]) -> None:
    first, second = database(), database()
    with postgres.connect(first) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
    with postgres.connect(second) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_temporal_answers_on_loopback_only(temporal: TemporalServer) -> None:
    listening = [c.laddr.ip for c in psutil.Process(temporal.pid).net_connections() if c.status == "LISTEN"]
    assert port_answers(temporal.port)
    assert set(listening) == {"127.0.0.1"}


def test_a_server_that_ends_says_its_last_lines(tmp_path: Path) -> None:
    child = ChildProcess("Broken", [sys.executable, "-c", "print('no disk'); raise SystemExit(3)"], tmp_path / "b.log")
    child.start()
    with pytest.raises(ServerProcessError, match=r"Broken: ended with status 3: no disk"):
        child.wait_until(lambda: False, 20)


def test_a_taken_port_is_replaced() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert free_port(taken.getsockname()[1]) != taken.getsockname()[1]


def left_by_killed(parent: str, pid_file: Path) -> psutil.Process:
    """The child that a Python program started and wrote the number of to ``pid_file``; the program was killed."""
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=os.getcwd())
    wait_until(lambda: pid_file.exists() and bool(pid_file.read_text()), 30)
    child = psutil.Process(int(pid_file.read_text()))
    process.kill()
    process.wait()
    return child


def test_children_die_with_a_killed_parent_whatever_signals_it_ignored(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    parent = textwrap.dedent(f"""
        import signal, sys, time
        from pathlib import Path
        from orchestration.child_process import ChildProcess
        for ends in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(ends, signal.SIG_IGN)
        log = Path({str(tmp_path)!r}) / "c.log"
        child = ChildProcess("Sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], log)
        child.start()
        Path({str(pid_file)!r}).write_text(str(child.pid))
        time.sleep(600)
    """)
    child = left_by_killed(parent, pid_file)
    child.wait(timeout=20)
    assert not child.is_running()


def test_a_child_that_outlives_its_killed_parent_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    log, pid_file = tmp_path / "c.log", tmp_path / "pid"
    ending = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.5), exit())); time.sleep(600)"
    parent = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from orchestration.child_process import ChildProcess
        lock = Path({str(tmp_path)!r}) / "lock"
        child = ChildProcess("Slow", [sys.executable, "-c", {ending!r}], lock.with_name("c.log"), lock=lock)
        child.start()
        time.sleep(1)  # until it handles the signal
        Path({str(pid_file)!r}).write_text(str(child.pid))
        time.sleep(600)
    """)
    first = left_by_killed(parent, pid_file)
    assert first.is_running()
    second = ChildProcess("Next", [sys.executable, "-c", "import time; time.sleep(600)"], log, lock=tmp_path / "lock")
    second.start()
    assert not first.is_running() or first.status() == psutil.STATUS_ZOMBIE
    third = ChildProcess("Third", [sys.executable, "-c", "pass"], log, lock=tmp_path / "lock")
    second.stop()
    third.start()
    assert third.process is not None and third.process.wait(20) == 0
