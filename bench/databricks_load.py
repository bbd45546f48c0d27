"""A first load and a 10 % merge into Databricks beside dlt's `databricks` destination, on the stand-in of the tests.

    .venv/bin/python -m pip install --no-deps --target .venv-bench/databricks databricks-sql-connector==4.9.0 \\
        "thrift>=0.24,<0.26" "lz4>=4,<5" "pybreaker>=1,<2"
    python -m bench.databricks_load [--rows 1000000] [--rounds 3]

All begin with the same Arrow table. dlt 1.31 goes through databricks-sql-connector's statement execution backend, both
unmodified, and keeps one table (first `append`, which is its cheapest, then `merge` by `upsert`), or two: one that is
only appended to, and that one. Headrace keeps two, Bronze and Silver, and counts Silver at the end. The stand-in says
nothing of a warehouse's speed; what counts is what is sent, and the seconds as a ratio of one run.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from assets.bronze import BronzeRows
from assets.lakehouse.interface import TableId
from assets.settings import Settings
from assets.silver import SilverTable
from assets.sources.interface import UNFIT_COLUMN
from assets.steps import SyncSteps
from assets.sync import Column, Manifest, TableSync, Watermark
from tests.servers.databricks_server import DatabricksServer

CONNECTOR = Path(__file__).parents[1] / ".venv-bench" / "databricks"
BATCH_ROWS = 65_536
NO_COMMIT = re.compile(r"(SELECT|PUT|REMOVE|CREATE (SCHEMA|VOLUME))\b", re.I)

Load = Callable[[int, str, pa.Table], None]
"""Number of the round, the phase, and the rows."""
PHASES = ("first load", "merge", "second merge")
ONE, TWO = "dlt, one table", "dlt, two tables"


def rows_of(start: int, count: int, mark: str) -> pa.Table:
    """16 columns of a usual table; the key is ``id``."""
    numbers = pa.array(range(start, start + count), pa.int64())
    small = pc.cast(pc.bit_wise_and(numbers, 1023), pa.int32())  # type: ignore[attr-defined]
    day = pa.array([date(2020, 1, 1) + timedelta(days=i) for i in range(1024)], pa.date32())
    moment = pa.array([datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=i) for i in range(1024)])
    price = pa.array([Decimal(i * 37 % 100_000) / 100 for i in range(1024)], pa.decimal128(12, 2))
    word = pa.array([f"{mark} text number {i * 7919 % 100_003}" for i in range(1024)])
    columns: dict[str, Any] = {"id": numbers}
    for i in range(3):
        columns[f"quantity_{i}"] = pc.add(small, i)  # type: ignore[attr-defined]
        columns[f"weight_{i}"] = pc.multiply(pc.cast(numbers, pa.float64()), 0.5 + i)  # type: ignore[attr-defined]
        columns[f"name_{i}"] = word.take(small)
    for i in range(2):
        columns[f"price_{i}"] = price.take(small)
        columns[f"day_{i}"] = day.take(small)
    columns |= {"flag": pc.equal(pc.bit_wise_and(numbers, 1), 0), "updated_at": moment.take(small)}  # type: ignore[attr-defined]
    table = pa.table(columns)
    return table.set_column(15, "updated_at", table["updated_at"].cast(pa.timestamp("us", "UTC")))


def headrace(server: DatabricksServer, folder: Path) -> Load:
    """What the steps of a sync do after the source was read."""

    def load(number: int, phase: str, rows: pa.Table) -> None:
        name, key = f"t{number}", ("id",)
        if phase == "first load":
            catalogs[number] = server.create_catalog()
        steps = SyncSteps.from_settings(Settings(home=folder / f"h{number}", **server.settings(catalogs[number])))
        lakehouse, tag = steps.lakehouse, f"{phase} {number}"
        columns = tuple(Column(name=f.name, source_type=str(f.type), arrow_type=str(f.type)) for f in rows.schema)
        work = TableSync(connector="bench", table=name, run_group=tag)
        silver = SilverTable(lakehouse, "bench", name, rows.column_names)
        lakehouse.refresh([silver.bronze, silver.silver])
        silver.catch_up(key)
        source = pa.schema([*rows.schema, pa.field(UNFIT_COLUMN, pa.string())])
        bronze = BronzeRows(source, tag, PHASES.index(phase))
        with lakehouse.part_writer("bench", name, tag, 1, "rows", bronze.schema) as writer:
            for batch in rows.to_batches(max_chunksize=BATCH_ROWS):
                unfit = pa.nulls(len(batch), pa.string())
                writer.write(bronze.upserts(pa.RecordBatch.from_arrays([*batch.columns, unfit], schema=source)))
        uri = lakehouse.write_manifest(
            Manifest(
                connector="bench", table=name, run_group=tag, tag=tag, attempt=1, key=key, columns=columns,
                mode="full" if phase == "first load" else "incremental", parts=writer.parts, rows_read=len(rows),
                watermark=Watermark(cursor="updated_at", value=tag),
            )
        )  # fmt: skip
        steps.commit_bronze(work, uri)
        steps.merge_silver(work, uri)
        stored[number] = lakehouse.count_live(TableId(layer="silver", connector="bench", table=name))
        lakehouse.clear_staging("bench", name)

    catalogs: dict[int, str] = {}
    stored: dict[int, int] = {}
    load.stored = stored.get  # type: ignore[attr-defined]
    return load


def dlt_databricks(server: DatabricksServer, folder: Path, *, keeps_all: bool) -> Load:
    """``keeps_all``: into a second table too, which is only appended to, as Bronze is."""
    import databricks

    if str(CONNECTOR) not in sys.path:
        databricks.__path__.append(str(CONNECTOR / "databricks"))  # the SDK's package is no namespace
        sys.path.append(str(CONNECTOR))
    os.environ |= {
        "DATABRICKS_HOST": server.url,
        "DATABRICKS_TOKEN": server.token,
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }
    import dlt

    pipelines: dict[int, Any] = {}

    def load(number: int, phase: str, rows: pa.Table) -> None:
        if phase == "first load":
            host, _, port = server.url.rpartition(":")
            connection = {"use_sea": True, "_port": int(port), "use_cloud_fetch": False, "enable_telemetry": False}
            destination = dlt.destinations.databricks(
                credentials={
                    "catalog": server.create_catalog(),
                    "server_hostname": host,
                    "http_path": f"/sql/1.0/warehouses/{server.warehouse}",
                    "access_token": server.token,
                    "connection_parameters": connection,
                },
                keep_staged_files=False,
            )
            pipelines[number] = dlt.pipeline(
                f"bench_{number}",
                destination=destination,
                dataset_name="d",
                pipelines_dir=str(folder / f"dlt{keeps_all}"),
            )
        merge = {"disposition": "merge", "strategy": "upsert"}
        merged = pa.Table.from_batches(rows.to_batches(max_chunksize=BATCH_ROWS))
        kept = {"t": "append" if phase == "first load" else merge} | ({"every": "append"} if keeps_all else {})
        resources = [
            dlt.resource(iter([merged]), name=name, primary_key="id", write_disposition=disposition)  # type: ignore[arg-type]
            for name, disposition in kept.items()
        ]
        pipelines[number].run(resources, loader_file_format="parquet")

    def stored(number: int) -> int:
        with pipelines[number].sql_client() as client:
            return int((client.execute_sql("SELECT count(*) FROM t") or [[0]])[0][0])

    load.stored = stored  # type: ignore[attr-defined]
    return load


def sent(calls: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Statements, those of them that commit to a table, and bytes uploaded."""
    statements = [call["statement"] for call in calls if call["statement"]]
    commits = sum(not NO_COMMIT.match(text) for text in statements)
    return len(statements), commits, sum(call["bytes"] for call in calls if call["method"] == "PUT")


def run(rows: int, rounds: int, folder: Path, console: Console) -> None:
    if not CONNECTOR.exists():
        raise SystemExit("dlt's connector is absent: see this file's head for the pip command")
    tenth = rows // 20
    whole, changed = rows_of(0, rows, "first"), rows_of(rows - tenth, 2 * tenth, "changed")
    again = rows_of(rows, 2 * tenth, "changed again")
    phases = dict(zip(PHASES, (whole, changed, again), strict=True))
    seconds: dict[tuple[str, str], list[float]] = {}
    counts: dict[tuple[str, str], tuple[int, int, int]] = {}
    with DatabricksServer(folder / "standin") as server:
        contenders = {
            "headrace": headrace(server, folder),
            ONE: dlt_databricks(server, folder, keeps_all=False),
            TWO: dlt_databricks(server, folder, keeps_all=True),
        }
        for number in range(rounds):
            for phase, content in phases.items():
                for name, load in contenders.items():
                    server.forget_calls()
                    start = time.perf_counter()
                    load(number, phase, content)
                    seconds.setdefault((phase, name), []).append(time.perf_counter() - start)
                    counts[phase, name] = sent(server.calls())
                    console.print(f"  round {number + 1}  {phase:12} {name:15} {seconds[phase, name][-1]:7.2f} s")
            for name, load in contenders.items():
                found = load.stored(number)  # type: ignore[attr-defined]
                if found != rows + 2 * tenth:
                    raise SystemExit(f"{name} holds {found} rows, not {rows + 2 * tenth}")
    console.print(comparison(f"{rows:,} rows x 16 columns, then {2 * tenth:,}; median of {rounds}", seconds, counts))


def comparison(
    title: str, seconds: dict[tuple[str, str], list[float]], counts: dict[tuple[str, str], tuple[int, int, int]]
) -> Table:
    table = Table(title=title)
    for heading in ("phase", "path", "statements", "commits", "MB uploaded", "seconds", f"x {ONE}", f"x {TWO}"):
        table.add_column(heading, justify="left" if heading in ("phase", "path") else "right")
    for (phase, name), values in seconds.items():
        statements, commits, size = counts[phase, name]
        ratios = [
            statistics.median(a / b for a, b in zip(values, seconds[phase, other], strict=True)) for other in (ONE, TWO)
        ]  # side by side
        told = (f"{statements}", f"{commits}", f"{size / 1e6:.1f}", f"{statistics.median(values):.2f}")
        told += tuple(f"{ratio:.2f}" for ratio in ratios)
        table.add_row(phase, name, *told)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hb-", ignore_cleanup_errors=True) as folder:
        run(arguments.rows, arguments.rounds, Path(folder), Console(width=120))


if __name__ == "__main__":
    main()
