"""Full sync of TPC-H lineitem from MariaDB beside the `mariadb` client's own dump to nowhere and ingestr, in one run.

    python -m bench.mysql_full [--scale 0.5] [--rounds 3]

MariaDB's programs come from Debian's mariadb-server and mariadb-client; ingestr as in `bench.postgres_full`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from assets.settings import Settings
from bench.postgres_full import DATABASE, INGESTR, SCHEMA, check_result, script, timed
from orchestration.local import LocalStack
from tests.servers.mariadb_server import MariadbServer


def load_lineitem(server: MariadbServer, scale: float, folder: Path) -> int:
    """Create the table and load it from a CSV file; returns its rows."""
    server.execute(None, f"CREATE DATABASE {DATABASE}")
    server.execute(DATABASE, SCHEMA.replace("text", "varchar(44)"))
    file = folder / "lineitem.csv"
    with file.open("wb") as output:
        args = [script("tpchgen-cli"), "csv", "-s", f"{scale:g}", "--tables=lineitem", "--stdout"]
        subprocess.run(args, stdout=output, check=True)
    with server.connect(DATABASE, local_infile=True) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_log_bin = 0")
        cursor.execute(
            "LOAD DATA LOCAL INFILE %s INTO TABLE lineitem FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' "
            "IGNORE 1 LINES",
            [str(file)],
        )
        cursor.execute("ALTER TABLE lineitem ADD PRIMARY KEY (l_orderkey, l_linenumber)")
        cursor.execute("ANALYZE TABLE lineitem")
        cursor.fetchall()
        cursor.execute("SELECT count(*) FROM lineitem")
        (rows,) = cursor.fetchone()  # type: ignore[misc]
    file.unlink()
    return int(rows)


def run(scale: float, rounds: int, folder: Path, console: Console) -> None:
    settings = Settings(home=folder / "home")
    environment = {**os.environ, "HEADRACE_HOME": str(settings.home_path), "DO_NOT_TRACK": "1"}
    environment["INGESTR_DISABLE_TELEMETRY"] = "true"
    client = shutil.which("mariadb")
    if client is None:
        raise SystemExit("the client is missing: apt-get install mariadb-client")
    with MariadbServer(folder / "mariadb") as server, LocalStack(settings) as stack:
        count = load_lineitem(server, scale, folder)
        console.print(f"lineitem: {count:,} rows (scale {scale:g}), rounds: {rounds}, load {os.getloadavg()[0]:.1f}")
        stack.start()
        add = [script("headrace"), "connectors", "add", "bench", "--type", "mysql", "--config", "-"]
        config = json.dumps(server.config(DATABASE))
        subprocess.run(add, input=config, text=True, env=environment, check=True, stdout=subprocess.DEVNULL)

        dump = ["/bin/sh", "-c", 'exec "$0" "$@" > /dev/null', client, "--quick", "--batch", "--skip-column-names"]
        dump += ["-h", server.host, "-P", str(server.port), "-u", server.user, DATABASE, "-e", "SELECT * FROM lineitem"]
        sync = [script("headrace"), "sync", "bench", f"{DATABASE}.lineitem", "--mode", "full", "--json"]
        contenders: dict[str, Callable[[int], tuple[float, float, str]]] = {
            "mariadb client to /dev/null": lambda _: timed(dump, {**environment, "MYSQL_PWD": server.password}),
            "headrace sync": lambda _: timed(sync, environment, lambda: stack.worker_pid),
        }
        if INGESTR.exists():
            uri = f"mysql://{server.user}:{server.password}@{server.host}:{server.port}/{DATABASE}"

            def ingestr(number: int) -> tuple[float, float, str]:
                target = folder / f"ingestr-{number}.parquet"
                args = [str(INGESTR), "ingest", "--yes", "--progress", "log", "--source-uri", uri]
                args += ["--source-table", f"{DATABASE}.lineitem", "--dest-table", "main.lineitem"]
                try:
                    return timed([*args, "--dest-uri", f"parquet://{target}"], environment)
                finally:
                    target.unlink(missing_ok=True)

            contenders["ingestr 1.1.22 to Parquet"] = ingestr
        else:
            console.print("ingestr is absent: see bench.postgres_full")

        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        peaks: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds):
            for name, contender in contenders.items():
                took, peak, output = contender(number)
                seconds[name].append(took)
                peaks[name].append(peak)
                if name == "headrace sync":
                    check_result(json.loads(output), count)
                console.print(f"  round {number + 1}  {name:28} {took:7.2f} s  {peak:7.0f} MB", highlight=False)
    limit = statistics.median(seconds["mariadb client to /dev/null"])
    table = Table(title=f"lineitem on MariaDB, {count:,} rows, median of {rounds}")
    for heading in ("path", "seconds", "x client", "peak MB (headrace: worker)"):
        table.add_column(heading, justify="left" if heading == "path" else "right")
    for name, values in seconds.items():
        middle = statistics.median(values)
        table.add_row(name, f"{middle:.2f}", f"{middle / limit:.2f}", f"{max(peaks[name]):.0f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.5, help="TPC-H scale factor: 0.5 is 3.0 million rows")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hb-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        run(arguments.scale, arguments.rounds, Path(folder), Console())


if __name__ == "__main__":
    main()
