"""Incremental sync of lineitem to Silver, a small and a large table: 60,000 rows updated, 10,000 new, in both.

60,000 are 1% of the large table: the question is what a table's size costs where as much has changed. Each round has
a table of its own, just loaded and vacuumed.

    python -m bench.postgres_incremental [--scales 0.1667 1] [--rounds 3]

Beside it: the sync with nothing changed, which is the fixed start; the window's query answered to nowhere, twice, as
its pages come from the disk first; ingestr's incremental load into DuckDB, where it is installed (bench/postgres_full).
ingestr would fetch DuckDB's driver from the internet: it gets the one in DuckDB's Python wheel.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from datetime import UTC
from importlib import metadata
from pathlib import Path
from typing import Any, LiteralString

from psycopg import sql
from rich.console import Console
from rich.table import Table

from assets.settings import Settings
from bench.postgres_full import DATABASE, INGESTR, load_lineitem, psql, script, timed
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.local import LocalStack

UPDATED_ROWS, NEW_ROWS = 60_000, 10_000
KEY = "l_orderkey,l_linenumber"
SYNC = "headrace sync"
FIXED_START = "headrace, nothing changed: the fixed start"
DRIVER = """
manifest_version = 1
name = 'DuckDB'
version = '{version}'
[ADBC]
version = '1.1.0'
[Driver]
entrypoint = 'duckdb_adbc_init'
[Driver.shared]
linux_amd64 = '{library}'
"""


def with_duckdb_driver(environment: Mapping[str, str], folder: Path) -> dict[str, str] | None:
    """An environment in which an ADBC client finds DuckDB in its Python wheel; None where Python is no library."""
    wheel = importlib.util.find_spec("_duckdb")
    assert wheel is not None
    python = Path(sysconfig.get_config_var("LIBDIR")) / str(sysconfig.get_config_var("INSTSONAME"))
    if python.suffix == ".a" or not python.exists():
        return None
    text = DRIVER.format(version=metadata.version("duckdb"), library=wheel.origin)
    (folder / "duckdb.toml").write_text(text)
    return {**environment, "ADBC_DRIVER_PATH": str(folder), "LD_PRELOAD": str(python)}


def execute(server: EmbeddedPostgres, table: str, *statements: LiteralString, **values: Any) -> list[int]:
    """Run statements on ``{table}``, each by itself, ``values`` under their names; returns their row counts."""
    literals = {name: sql.Literal(value) for name, value in values.items()}
    with server.connect(DATABASE, autocommit=True) as connection:
        composed = (sql.SQL(statement).format(table=sql.Identifier(table), **literals) for statement in statements)
        return [connection.execute(statement).rowcount for statement in composed]


def fresh_table(server: EmbeddedPostgres, number: int, share: float = 1) -> str:
    """A copy of lineitem's first orders, this share of them, with a cursor column; returns its name."""
    table = f"lineitem{number}"
    execute(
        server,
        table,
        "CREATE TABLE {table} AS SELECT *, '2026-01-01 00:00Z'::timestamptz "
        "+ (l_orderkey * 4 + l_linenumber) * interval '250 milliseconds' AS updated_at FROM lineitem "
        "WHERE l_orderkey <= (SELECT max(l_orderkey) FROM lineitem) * {share}",
        "ALTER TABLE {table} ADD PRIMARY KEY (l_orderkey, l_linenumber), ALTER updated_at SET NOT NULL",
        "CREATE INDEX ON {table} (updated_at)",
        "VACUUM (ANALYZE) {table}",
        share=share,
    )
    return table


def change(server: EmbeddedPostgres, table: str) -> int:
    """Update rows, spread over the table, and insert new ones: as many whatever its size. Returns how many changed."""
    updated, inserted, *_ = execute(
        server,
        table,
        "UPDATE {table} SET l_quantity = l_quantity + 1, updated_at = clock_timestamp() "
        "WHERE (l_orderkey, l_linenumber) IN (SELECT l_orderkey, l_linenumber FROM {table} "
        "ORDER BY hashint8(l_orderkey * 8 + l_linenumber) LIMIT {updated})",
        "INSERT INTO {table} SELECT 1000000000 + i, 1, 1, 1, 1, 1, 0, 0, 'N', 'O', '2026-01-01', "
        "'2026-01-01', '2026-01-01', 'NONE', 'AIR', 'new', clock_timestamp() FROM generate_series(1, {new}) i",
        "VACUUM (ANALYZE) {table}",
        "CHECKPOINT",
        updated=UPDATED_ROWS,
        new=NEW_ROWS,
    )
    return updated + inserted


def result_of(output: str) -> dict[str, object]:
    document = json.loads(output)
    (result,) = document if isinstance(document, list) else document["tables"]
    if result["equal"] is not True:
        raise SystemExit(f"the sync is not equal to the source: {result}")
    return result


def measure(
    server: EmbeddedPostgres, stack: LocalStack, settings: Settings, scales: list[float], rounds: int, console: Console
) -> dict[int, dict[str, list[float]]]:
    """Seconds by table size in rows and contender, one a round: both sizes in every round, as the pace varies."""
    folder = settings.home_path.parent
    environment = {**os.environ, "HEADRACE_HOME": str(settings.home_path), "DO_NOT_TRACK": "1"}
    environment["INGESTR_DISABLE_TELEMETRY"] = "true"
    with_driver = with_duckdb_driver(environment, folder) if INGESTR.exists() else None
    seconds: dict[int, dict[str, list[float]]] = {}

    def took(rows: int, name: str, found: tuple[float, float, str]) -> str:
        seconds.setdefault(rows, {}).setdefault(name, []).append(found[0])
        console.print(f"  {rows:,} rows  {name:50} {found[0]:7.2f} s  {found[1]:7.0f} MB", highlight=False)
        return found[2]

    add = [script("headrace"), "connectors", "add", "bench", "--type", "postgres", "--config", "-"]
    config = json.dumps(server.config(DATABASE))
    subprocess.run(add, input=config, text=True, env=environment, check=True, stdout=subprocess.DEVNULL)
    uri = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{DATABASE}"
    for number, scale in enumerate(scales * rounds):
        lineitem = fresh_table(server, number, scale / max(scales))
        sync = [script("headrace"), "sync", "bench", f"public.{lineitem}", "--json"]
        ingestr = [str(INGESTR), "ingest", "--yes", "--progress", "log", "--source-uri", uri]
        ingestr += ["--source-table", f"public.{lineitem}", "--dest-table", f"main.{lineitem}"]
        ingestr += ["--dest-uri", f"duckdb:///{folder / 'ingestr.duckdb'}", "--incremental-strategy", "merge"]
        ingestr += ["--incremental-key", "updated_at", *(f for k in KEY.split(",") for f in ("--primary-key", k))]
        rows = int(str(result_of(timed(sync, environment)[2])["rows_read"]))
        if with_driver:
            timed(ingestr, with_driver)
        with server.connect(DATABASE, autocommit=True) as connection:
            newest = sql.SQL("SELECT max(updated_at) FROM {}").format(sql.Identifier(lineitem))
            ((last,),) = connection.execute(newest).fetchall()
        changed = change(server, lineitem)
        os.sync()  # of what was loaded nothing is written any more while contenders are measured
        window = f"\\copy (SELECT * FROM {lineitem} WHERE updated_at > '{last}') TO /dev/null (FORMAT binary)"
        for name in ("the window's query to nowhere, first", "the window's query to nowhere, again"):
            took(rows, name, timed([psql(), uri, "-qc", window], environment))
        result = result_of(took(rows, SYNC, timed(sync, environment, lambda: stack.worker_pid)))
        if result["rows_read"] != changed:
            raise SystemExit(f"{changed} rows changed, and the sync read {result['rows_read']}")
        result_of(took(rows, FIXED_START, timed(sync, environment)))
        if with_driver:
            # from where it was: else it reads the whole table again
            start = ["--interval-start", last.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")]
            took(rows, "ingestr 1.1.22 to DuckDB", timed([*ingestr, *start], with_driver))
        execute(server, lineitem, "DROP TABLE {table}")
        less = seconds[rows][SYNC][-1] - seconds[rows][FIXED_START][-1]
        seconds[rows].setdefault(f"{SYNC} less the fixed start", []).append(less)
    return seconds


def run(scales: list[float], rounds: int, folder: Path, console: Console) -> None:
    settings = Settings(home=folder / "home")
    with EmbeddedPostgres(folder / "postgres") as server, LocalStack(settings) as stack:
        load_lineitem(server, max(scales))
        stack.start()
        found = list(measure(server, stack, settings, scales, rounds, console).items())
    table = Table(title=f"{UPDATED_ROWS:,} updated + {NEW_ROWS:,} new, median of {rounds}")
    table.add_column("path")
    for rows, _ in found:
        table.add_column(f"{rows:,} rows", justify="right")
    table.add_column("growth", justify="right")
    for name in found[0][1]:
        values = [statistics.median(seconds[name]) for _, seconds in found]
        growth = f"{values[-1] / values[0]:.2f}" if values[0] > 0 else "-"
        table.add_row(name, *(f"{value:.2f}" for value in values), growth)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=float, nargs="+", default=[1 / 6, 1], help="TPC-H scale factors")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        run(arguments.scales, arguments.rounds, Path(folder), Console())


if __name__ == "__main__":
    main()
