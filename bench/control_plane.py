"""1,000 connectors with 10,000 tables: pages, lists of the API, the load of the code location.

    python -m bench.control_plane [--connectors 1000] [--tables 10] [--runs 10] [--rounds 5]

Pages are asked of the real server in this process, each as a person and a program see it. The code location is loaded
in a process of its own, as Dagster does it: definitions, repository and the snapshot that the webserver gets. Wall time
and CPU time are told: on a busy machine only the second says something.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert
from starlette.testclient import TestClient

from assets.catalog.models import PipelineRow, RunRow, TableRunRow, now
from assets.catalog.table_states import TableStateRow
from assets.settings import Settings
from assets.sync import Column
from orchestration.headrace import Headrace
from orchestration.registry_state import RegisteredConnector, RegisteredPipeline, RegisteredTable, RegistryState
from orchestration.web.webserver import HeadraceWebserver

CONFIG = {"host": "127.0.0.1", "database": "shop", "user": "reader", "password": "secret"}
PAGES = {
    "page: status": "/headrace/",
    "page: status, needs attention": "/headrace/?health=attention&order=synced_from",
    "page: status, search": "/headrace/?search=table_7",
    "page: connectors": "/headrace/connectors",
    "page: pipelines": "/headrace/pipelines",
    "page: runs": "/headrace/runs",
    "page: runs that failed": "/headrace/runs?status=failed",
    "page: one run": "/headrace/runs/run-1-1",
    "page: data": "/headrace/data",
    "api: connectors": "/api/v1/connectors",
    "api: pipelines": "/api/v1/pipelines",
    "api: tables, last page": "/api/v1/tables?limit=500&offset=9500",
    "api: runs": "/api/v1/runs",
    "api: status": "/api/v1/status",
}
LOAD = """
import json, sys, time
from pathlib import Path
from orchestration.registry_state import RegistryState
from orchestration.components.connector_registry import registry_definitions
state = RegistryState.model_validate_json(Path(sys.argv[1]).read_text())
began = time.process_time(), time.perf_counter()
repository = registry_definitions(state).get_repository_def()
repository.load_all_definitions()
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value
snapshot = serialize_value(RepositorySnap.from_def(repository))
print(json.dumps([time.process_time() - began[0], time.perf_counter() - began[1], len(snapshot)]))
"""


def fill(
    hr: Headrace, connectors: int, tables: int, runs: int, config: dict[str, Any] = CONFIG, active: bool = True
) -> None:
    """Rows as syncs leave them; ``active``: the pipelines follow their schedules."""
    base = now() - timedelta(hours=runs)
    first = hr.connectors.add("connector_0", "postgres", config)
    with hr.catalog._writing() as session:
        stored = hr.catalog.stored_config(first.name)
        from assets.catalog.models import ConnectorRow

        others = [
            {
                "name": f"connector_{number}",
                "type": "postgres",
                "config": stored,
                "status": "active",
                "created_at": base,
                "updated_at": base,
            }
            for number in range(1, connectors)
        ]
        session.execute(insert(ConnectorRow), others)
    pipeline = {
        "tables": [{"name": f"public.table_{t}"} for t in range(tables)],
        "all_tables": False,
        "mode": "auto",
        "deletes": "none",
        "verify": "counts",
        "options": {},
        "schedule_kind": "cron",
        "timezone": "UTC",
        "active": active,
        "overlap": "skip",
        "deferred": False,
        "created_at": base,
        "updated_at": base,
    }
    with hr.catalog._writing() as session:
        made = [
            pipeline | {"name": f"p{n}", "connector": f"connector_{n}", "schedule_expression": f"{n % 60} * * * *"}
            for n in range(connectors)
        ]
        session.execute(insert(PipelineRow), made)
        for number in range(connectors):
            session.execute(insert(RunRow), list(_runs(number, tables, runs, base)))
            rows = list(_table_runs(number, tables, runs, base))
            session.execute(insert(TableRunRow), rows)
            session.execute(insert(TableStateRow), [_state(row, f"p{number}") for row in rows[-tables:]])


def _runs(number: int, tables: int, runs: int, base: Any) -> Iterator[dict[str, Any]]:
    for run in range(runs):
        at = base + timedelta(hours=run, seconds=number)
        yield {
            "run_group": f"run-{number}-{run}",
            "connector": f"connector_{number}",
            "pipeline": f"p{number}",
            "trigger": "schedule",
            "status": "failed" if (number + run) % 10 == 0 else "succeeded",
            "deferred": False,
            "started_at": at,
            "completed_at": at + timedelta(seconds=20),
            "tables": [f"public.table_{t}" for t in range(tables)],
        }


def _table_runs(number: int, tables: int, runs: int, base: Any) -> Iterator[dict[str, Any]]:
    for run in range(runs):
        at = base + timedelta(hours=run, seconds=number)
        for table in range(tables):
            failed = (number + run) % 10 == 0 and table == 0
            yield {
                "run_group": f"run-{number}-{run}",
                "connector": f"connector_{number}",
                "table_name": f"public.table_{table}",
                "mode": "incremental",
                "status": "failed" if failed else "succeeded",
                "rows_read": run,
                "rows_bronze": run,
                "rows_silver": 1000 + run,
                "rows_deleted": 0,
                "bytes": 1000,
                "equal": None if failed else True,
                "error": "permission denied" if failed else None,
                "started_at": at,
                "completed_at": at + timedelta(seconds=table + 1),
                "result": {"connector": "c", "table": "t", "status": "succeeded"},
            }


def _state(row: dict[str, Any], pipeline: str) -> dict[str, Any]:
    same = (
        "connector",
        "table_name",
        "status",
        "run_group",
        "mode",
        "rows_read",
        "error",
        "started_at",
        "completed_at",
        "bytes",
        "equal",
    )
    return {name: row[name] for name in same} | {
        "rows": row["rows_silver"],
        "succeeded_at": row["completed_at"],
        "synced_from": row["started_at"],
        "changed_at": row["completed_at"],
        "pipeline": pipeline,
    }


def measured(call: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median of wall and of CPU seconds."""
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def registry(connectors: int, tables: int) -> RegistryState:
    columns = tuple(Column(name=f"c{n}", source_type="integer", arrow_type="int32") for n in range(8))
    made = []
    for number in range(connectors):
        of = [
            RegisteredTable(
                name=f"public.table_{t}",
                part=f"public.table_{t}",
                columns=columns,
                key=("c0",),
                bronze_uri="b",
                silver_uri="s",
                bronze_name="b",
                silver_name="s",
            )
            for t in range(tables)
        ]
        made.append(RegisteredConnector(name=f"connector_{number}", type="postgres", tables=tuple(of)))
    pipelines = [
        RegisteredPipeline(
            name=f"p{n}",
            connector=f"connector_{n}",
            tables=tuple(f"public.table_{t}" for t in range(tables)),
            cron="0 * * * *",
        )
        for n in range(connectors)
    ]
    return RegistryState(version="1", connectors=tuple(made), pipelines=tuple(pipelines))


def run(arguments: argparse.Namespace, folder: Path, console: Console) -> None:
    hr = Headrace(settings=Settings(home=folder / "home"))
    fill(hr, arguments.connectors, arguments.tables, arguments.runs)
    shown = Table(title=f"{arguments.connectors} connectors, {arguments.connectors * arguments.tables} tables")
    for heading in ("what", "wall s", "CPU s", "kB"):
        shown.add_column(heading, justify="left" if heading == "what" else "right")
    with (
        dg.instance_for_test() as instance,
        WorkspaceProcessContext(
            instance, version=dg.__version__, workspace_load_target=EmptyWorkspaceTarget()
        ) as workspace,
        TestClient(
            HeadraceWebserver(workspace, hr, login=False).create_asgi_app(), base_url="http://127.0.0.1:3000"
        ) as client,
    ):
        for name, path in PAGES.items():
            answer = client.get(path)
            if answer.status_code == 404:
                continue
            assert answer.status_code == 200, (path, answer.status_code)
            wall, cpu = measured(lambda path=path: client.get(path), arguments.rounds)
            shown.add_row(name, f"{wall:.3f}", f"{cpu:.3f}", f"{len(answer.content) / 1000:.0f}")
    state = folder / "state.json"
    state.write_text(registry(arguments.connectors, arguments.tables).model_dump_json())
    loads = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", LOAD, str(state)], check=True, capture_output=True
            ).stdout.splitlines()[-1]
        )
        for _ in range(min(arguments.rounds, 3))
    ]
    cpu, wall, size = (statistics.median(values) for values in zip(*loads, strict=True))
    shown.add_row("code location: build, load, snapshot", f"{wall:.2f}", f"{cpu:.2f}", f"{size / 1000:.0f}")
    console.print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connectors", type=int, default=1000)
    parser.add_argument("--tables", type=int, default=10, help="of each connector")
    parser.add_argument("--runs", type=int, default=10, help="of each pipeline")
    parser.add_argument("--rounds", type=int, default=5)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", ignore_cleanup_errors=True) as folder:
        run(parser.parse_args(), Path(folder), Console(width=110))


if __name__ == "__main__":
    main()
