"""Incremental sync of lineitem, 1% of the rows updated and 10,000 new, to Silver: a small and a large table.

    python -m bench.postgres_incremental [--scales 0.1667 1] [--rounds 3]

Beside it: ingestr's incremental load into DuckDB, where it is installed (see bench/postgres_full.py), and the sync with
nothing changed, which is the fixed start.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from assets.settings import Settings
from bench.postgres_full import DATABASE, INGESTR, load_lineitem, script, timed
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.local import LocalStack

NEW_ROWS = 10_000
KEY = "l_orderkey,l_linenumber"


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
    seconds: dict[str, list[float]] = {}
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
        if INGESTR.exists():
            timed(ingestr, environment)
        for number in range(rounds):
            changed = change(server, number)
            took, peak, output = timed(sync, environment, lambda: stack.worker_pid)
            if (result := result_of(output))["rows_read"] != changed:
                raise SystemExit(f"{changed} rows changed, and the sync read {result['rows_read']}")
            seconds.setdefault("headrace sync", []).append(took)
            console.print(f"  {rows:,} rows  headrace sync {took:7.2f} s  {peak:7.0f} MB", highlight=False)
            took, _, output = timed(sync, environment)
            result_of(output)
            seconds.setdefault("headrace, nothing changed (fixed start)", []).append(took)
            if INGESTR.exists():
                took, peak, _ = timed(ingestr, environment)
                seconds.setdefault("ingestr 1.1.22 to DuckDB", []).append(took)
                console.print(f"  {rows:,} rows  ingestr       {took:7.2f} s  {peak:7.0f} MB", highlight=False)
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
    fixed = [seconds["headrace, nothing changed (fixed start)"] for _, seconds in found]
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
