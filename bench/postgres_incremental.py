"""Incremental sync of lineitem, 1% of the rows updated and 10,000 new, to Silver: a small and a large table.

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

from rich.console import Console
from rich.table import Table

from assets.settings import Settings
from bench.postgres_full import DATABASE, INGESTR, load_lineitem, psql, script, timed
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.local import LocalStack

NEW_ROWS = 10_000
KEY = "l_orderkey,l_linenumber"
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


def change(server: EmbeddedPostgres, number: int) -> int:
    """Update 1% of the rows, spread over the table, and insert new ones; returns how many changed."""
    with server.connect(DATABASE, autocommit=True) as connection:
        updated = connection.execute(
            "UPDATE lineitem SET l_quantity = l_quantity + 1, updated_at = clock_timestamp() "
            "WHERE abs(hashint8(l_orderkey * 7 + l_linenumber)) %% 100 = %s",
            [number % 100],
        ).rowcount
        connection.execute(
            "INSERT INTO lineitem SELECT 1000000000 + %s * 100000 + i, 1, 1, 1, 1, 1, 0, 0, 'N', 'O', '2026-01-01', "
            "'2026-01-01', '2026-01-01', 'NONE', 'AIR', 'new', clock_timestamp() FROM generate_series(1, %s) i",
            [number, NEW_ROWS],
        )
    return updated + NEW_ROWS


def result_of(output: str) -> dict[str, object]:
    document = json.loads(output)
    (result,) = document if isinstance(document, list) else document["tables"]
    if result["equal"] is not True:
        raise SystemExit(f"the sync is not equal to the source: {result}")
    return result


def measure(scale: float, rounds: int, folder: Path, console: Console) -> tuple[int, dict[str, float]]:
    """Seconds by contender on a table of one size, medians."""
    settings = Settings(home=folder / "home")
    environment = {**os.environ, "HEADRACE_HOME": str(settings.home_path), "DO_NOT_TRACK": "1"}
    environment["INGESTR_DISABLE_TELEMETRY"] = "true"
    with_driver = with_duckdb_driver(environment, folder) if INGESTR.exists() else None
    seconds: dict[str, list[float]] = {}
    rows = 0

    def took(name: str, found: tuple[float, float, str]) -> str:
        seconds.setdefault(name, []).append(found[0])
        console.print(f"  {rows:,} rows  {name:50} {found[0]:7.2f} s  {found[1]:7.0f} MB", highlight=False)
        return found[2]

    with EmbeddedPostgres(folder / "postgres") as server, LocalStack(settings) as stack:
        rows = load_lineitem(server, scale)
        with server.connect(DATABASE, autocommit=True) as connection:
            connection.execute(
                "ALTER TABLE lineitem ADD COLUMN updated_at timestamptz DEFAULT now() - interval '1 day'"
            )
            connection.execute("CREATE INDEX ON lineitem (updated_at)")
            connection.execute("VACUUM (ANALYZE) lineitem")
        stack.start()
        add = [script("headrace"), "connectors", "add", "bench", "--type", "postgres", "--config", "-"]
        config = json.dumps(server.config(DATABASE))
        subprocess.run(add, input=config, text=True, env=environment, check=True, stdout=subprocess.DEVNULL)
        sync = [script("headrace"), "sync", "bench", "public.lineitem", "--json"]
        uri = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{DATABASE}"
        ingestr = [str(INGESTR), "ingest", "--yes", "--progress", "log", "--source-uri", uri]
        ingestr += ["--source-table", "public.lineitem", "--dest-table", "main.lineitem"]
        ingestr += ["--dest-uri", f"duckdb:///{folder / 'ingestr.duckdb'}", "--incremental-strategy", "merge"]
        ingestr += ["--incremental-key", "updated_at", *(f for k in KEY.split(",") for f in ("--primary-key", k))]
        result_of(timed(sync, environment)[2])
        if with_driver:
            timed(ingestr, with_driver)
        for number in range(rounds):
            with server.connect(DATABASE, autocommit=True) as connection:
                ((last,),) = connection.execute("SELECT max(updated_at) FROM lineitem").fetchall()
            changed = change(server, number)
            window = f"\\copy (SELECT * FROM lineitem WHERE updated_at > '{last}') TO /dev/null (FORMAT binary)"
            for name in ("the window's query to nowhere, first", "the window's query to nowhere, again"):
                took(name, timed([psql(), uri, "-qc", window], environment))
            result = result_of(took("headrace sync", timed(sync, environment, lambda: stack.worker_pid)))
            if result["rows_read"] != changed:
                raise SystemExit(f"{changed} rows changed, and the sync read {result['rows_read']}")
            result_of(took(FIXED_START, timed(sync, environment)))
            if with_driver:
                # from where it was: else it reads the whole table again
                start = ["--interval-start", last.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")]
                took("ingestr 1.1.22 to DuckDB", timed([*ingestr, *start], with_driver))
    return rows, {name: statistics.median(values) for name, values in seconds.items()}


def run(scales: list[float], rounds: int, folder: Path, console: Console) -> None:
    found = []
    for number, scale in enumerate(scales):
        place = folder / str(number)
        place.mkdir(mode=0o755)
        found.append(measure(scale, rounds, place, console))
    table = Table(title=f"1% updated + {NEW_ROWS:,} new, median of {rounds}")
    table.add_column("path")
    for rows, _ in found:
        table.add_column(f"{rows:,} rows", justify="right")
    table.add_column("growth", justify="right")
    for name in found[0][1]:
        values = [seconds[name] for _, seconds in found]
        table.add_row(name, *(f"{value:.2f}" for value in values), f"{values[-1] / values[0]:.2f}")
    fixed = [seconds[FIXED_START] for _, seconds in found]
    less = [s["headrace sync"] - start for (_, s), start in zip(found, fixed, strict=True)]
    growth = f"{less[-1] / less[0]:.2f}" if less[0] > 0 else "-"
    table.add_row("headrace sync less the fixed start", *(f"{value:.2f}" for value in less), growth)
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
