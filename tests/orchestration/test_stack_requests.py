"""Commands that have the running stack do their sync."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assets.errors import NotFoundError
from orchestration import Headrace
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.local import LocalStack
from orchestration.stack_requests import address, fingerprint, sync_by_stack
from tests.polling import wait_until


@pytest.fixture
def shop(
    postgres: EmbeddedPostgres, database: Callable[[], str], headrace_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Headrace]:
    monkeypatch.delenv("TEMPORAL_ADDRESS", raising=False)
    monkeypatch.setenv("HEADRACE_HEARTBEAT_THROTTLE_SECONDS", "0.3")
    name = database()
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders AS SELECT i AS id, now() AS updated_at FROM generate_series(1, 100) i")
        connection.execute("ALTER TABLE orders ADD PRIMARY KEY (id)")
    hr = Headrace(home=headrace_home)
    hr.connectors.add("shop", "postgres", postgres.config(name))
    with LocalStack(hr.settings).start():
        yield hr
    assert not (hr.settings.home_path / "stack.sock").exists()
    hr.catalog.close()


LIGHT = """
import sys
from orchestration.cli import app
try:
    app(["sync", "shop", "public.orders", "--json"])
except SystemExit as end:
    assert end.code == 0
assert not {"sqlalchemy", "temporalio", "dagster", "dlt", "pyarrow", "psycopg"} & sys.modules.keys()
"""


def test_a_command_has_the_running_stack_sync_and_needs_neither_client_nor_catalog(shop: Headrace) -> None:
    path = address(shop.settings)
    assert path is not None and stat.S_IMODE(path.stat().st_mode) == 0o600
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = shop.catalog.table_runs("shop", "public.orders")
    assert (run.status, run.equal, run.rows_silver) == ("succeeded", True, 100)

    seen = []
    report = sync_by_stack(shop.settings, {"connector": "shop", "tables": ["public.orders"]}, seen.append)
    assert report is not None and report["tables"][0]["equal"] is True
    with pytest.raises(NotFoundError, match="nowhere"):
        sync_by_stack(shop.settings, {"connector": "nowhere"}, None)
    others = shop.settings.model_copy(update={"sync_concurrency": shop.settings.sync_concurrency + 1})
    assert sync_by_stack(others, {"connector": "shop"}, None) is None
    assert len(shop.catalog.runs()) == 2
    with socket.socket(socket.AF_UNIX) as gave_up:  # after the stack accepted: it must not begin
        gave_up.connect(str(path))
        gave_up.sendall(json.dumps({"fingerprint": fingerprint(shop.settings)}).encode() + b"\n")
        assert json.loads(gave_up.recv(100)) == {"accepted": True}
    assert sync_by_stack(shop.settings, {"connector": "shop", "tables": ["public.orders"]}, None)
    assert len(shop.catalog.runs()) == 3


def test_an_interrupted_command_has_its_sync_cancelled_and_a_killed_one_leaves_it(
    shop: Headrace, postgres: EmbeddedPostgres
) -> None:
    command = [sys.executable, "-m", "orchestration.cli", "sync", "shop", "public.orders"]
    holder = postgres.connect(str(shop.catalog.connector("shop").config.database), autocommit=True)
    holder.execute("BEGIN")
    holder.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")  # the read waits for it

    def started() -> tuple[subprocess.Popen[bytes], str]:
        before = {run.run_group for run in shop.catalog.runs()}
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(lambda: any(run.table_runs for run in shop.catalog.runs() if run.run_group not in before))
        return process, next(run.run_group for run in shop.catalog.runs() if run.run_group not in before)

    killed, first = started()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(30)
    assert shop.catalog.run(first).status == "running"
    shop.run(first).cancel()
    wait_until(lambda: shop.catalog.run(first).status == "failed")

    interrupted, second = started()
    os.kill(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(60) == 130
    run = shop.catalog.run(second)
    assert (run.status, run.error) == ("failed", "interrupted by the user")
    assert [(row.status, row.error) for row in run.table_runs] == [("failed", "cancelled")]
    holder.close()
