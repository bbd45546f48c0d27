"""``headrace up --databricks-standin``, as a person starts it to try things out."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestration.child_process import port_answers
from orchestration.embedded_postgres import EmbeddedPostgres

SECONDS = 180
HEADRACE = [sys.executable, "-m", "orchestration"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_stack_starts_with_the_standin_syncs_into_it_and_stops_with_it(
    postgres: EmbeddedPostgres, database: Callable[[], str], tmp_path: Path
) -> None:
    name = database()
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
        connection.execute("INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 50) n")
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("HEADRACE_", "DAGSTER_"))}
    environment["HEADRACE_HOME"] = str(tmp_path / "home")
    stack = subprocess.Popen(
        [*HEADRACE, "up", "--no-auth", "--databricks-standin"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines: queue.Queue[str] = queue.Queue()
    for stream in (stack.stdout, stack.stderr):
        assert stream is not None
        threading.Thread(target=lambda s=stream: [lines.put(line) for line in s], daemon=True).start()
    try:
        said = ""
        while not re.search(r"^http://", said, re.M):  # the stack's own address: all of it is up
            said += lines.get(timeout=SECONDS)
        assert "STAND-IN: this is no Databricks" in said
        given = dict(re.findall(r"^export (\w+)=(.*)$", said, re.M))
        port = int(given["HEADRACE_DATABRICKS_HOST"].rpartition(":")[2])
        children = psutil.Process(stack.pid).children(recursive=True)

        def headrace(*arguments: str, text: str = "") -> str:
            done = subprocess.run(
                [*HEADRACE, *arguments], env=environment | given, input=text, capture_output=True, text=True,
                timeout=SECONDS, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-2000:]
            return done.stdout

        config = json.dumps(postgres.config(name))
        headrace("connectors", "add", "shop", "--type", "postgres", "--config", "-", text=config)
        (table,) = json.loads(headrace("sync", "shop", "public.t", "--json"))["tables"]
        assert (table["status"], table["equal"], table["rows_silver"]) == ("succeeded", True, 50)
        assert table["silver_uri"].startswith(given["HEADRACE_DATABRICKS_HOST"])
    finally:
        stack.terminate()
        code = stack.wait(60)
    assert code == 0
    assert not port_answers(port)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
