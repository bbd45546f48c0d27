"""200 small tables, full to proven Silver and then with nothing changed, beside dlt and ingestr in one run.

    python -m bench.many_tables [--tables 200] [--rows 1000] [--rounds 3]

ingestr is a process a table: it is measured on a tenth of the tables, and the figure is for all of them. It runs from
an environment of its own, see bench/postgres_full.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from assets.settings import Settings
from bench.postgres_full import INGESTR, script, timed
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.local import LocalStack

DATABASE = "many"
DLT = """
import sys, dlt, os
from dlt.sources.sql_database import sql_database
pipeline = dlt.pipeline("many", pipelines_dir=sys.argv[1] + "/state", dataset_name="many",
    destination=dlt.destinations.filesystem("file://" + sys.argv[1] + "/data"))
source = sql_database(os.environ["SOURCE_URL"], schema="public", backend="pyarrow", reflection_level="full")
pipeline.run(source, table_format="delta", write_disposition="replace")
"""


def load(server: EmbeddedPostgres, tables: int, rows: int) -> None:
    server.create_database(DATABASE)
    with server.connect(DATABASE, autocommit=True) as connection:
        for number in range(tables):
            connection.execute(
                f"CREATE TABLE t{number} AS SELECT i AS id, md5(i::text) AS name, (i / 7.0)::numeric(12, 2) AS price, "
                f"i % 2 = 0 AS flag, now() AS updated_at FROM generate_series(1, {rows}) i".encode()
            )
            connection.execute(f"ALTER TABLE t{number} ADD PRIMARY KEY (id)".encode())
        connection.execute("VACUUM (ANALYZE)")


def check(output: str, tables: int, rows: int) -> None:
    """Stop the bench when a table is not equal: speed without equality says nothing."""
    document = json.loads(output)
    results = document if isinstance(document, list) else document["tables"]
    unequal = [r["table"] for r in results if r["equal"] is not True or r["rows_silver"] != rows]
    if len(results) != tables or unequal:
        raise SystemExit(f"{len(results)} tables, not equal: {unequal[:5]}")


def run(tables: int, rows: int, rounds: int, folder: Path, console: Console) -> None:
    settings = Settings(home=folder / "home")
    environment = {**os.environ, "HEADRACE_HOME": str(settings.home_path), "DO_NOT_TRACK": "1"}
    environment |= {"INGESTR_DISABLE_TELEMETRY": "true", "RUNTIME__DLTHUB_TELEMETRY": "false"}
    with EmbeddedPostgres(folder / "postgres") as server, LocalStack(settings) as stack:
        load(server, tables, rows)
        uri = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{DATABASE}"
        environment["SOURCE_URL"] = uri
        stack.start()
        add = [script("headrace"), "connectors", "add", "bench", "--type", "postgres", "--config", "-"]
        config = json.dumps(server.config(DATABASE))
        subprocess.run(add, input=config, text=True, env=environment, check=True, stdout=subprocess.DEVNULL)
        sync = [script("headrace"), "sync", "bench", "--json"]

        def headrace(*options: str) -> tuple[float, float]:
            took, peak, output = timed([*sync, *options], environment, lambda: stack.worker_pid)
            check(output, tables, rows)
            return took, peak

        def dlt() -> tuple[float, float]:
            target = folder / "dlt"
            try:
                return timed([sys.executable, "-c", DLT, str(target)], environment)[:2]
            finally:
                shutil.rmtree(target, ignore_errors=True)

        def ingestr() -> tuple[float, float]:
            some = max(1, tables // 10)
            peak = 0.0
            started = time.perf_counter()
            for number in range(some):
                target = folder / f"ingestr-{number}.parquet"
                args = [str(INGESTR), "ingest", "--yes", "--progress", "log", "--source-uri", uri]
                args += ["--source-table", f"public.t{number}", "--dest-table", f"main.t{number}"]
                peak = max(peak, timed([*args, "--dest-uri", f"parquet://{target}"], environment)[1])
                target.unlink(missing_ok=True)
            return (time.perf_counter() - started) * tables / some, peak

        contenders: dict[str, Callable[[], tuple[float, float]]] = {
            "headrace, full to proven Silver": lambda: headrace("--mode", "full"),
            "headrace, nothing changed": headrace,
            "dlt pyarrow -> its delta (one layer)": dlt,
        }
        if INGESTR.exists():
            contenders["ingestr -> Parquet, a process a table"] = ingestr
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for number in range(rounds):
            for name, contender in contenders.items():
                measured[name].append(contender())
                took, peak = measured[name][-1]
                console.print(f"  round {number + 1}  {name:40} {took:7.2f} s  {peak:7.0f} MB", highlight=False)
    table = Table(title=f"{tables} tables of {rows:,} rows, median of {rounds}")
    for heading in ("path", "seconds", "x dlt", "peak MB (headrace: worker)"):
        table.add_column(heading, justify="left" if heading == "path" else "right")
    base = statistics.median(took for took, _ in measured["dlt pyarrow -> its delta (one layer)"])
    for name, values in measured.items():
        middle = statistics.median(took for took, _ in values)
        peak = max(peak for _, peak in values)
        table.add_row(name, f"{middle:.2f}", f"{middle / base:.2f}", f"{peak:.0f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        run(arguments.tables, arguments.rows, arguments.rounds, Path(folder), Console())


if __name__ == "__main__":
    main()
