"""Full sync of TPC-H lineitem from MariaDB beside the `mariadb` client's own dump to nowhere and ingestr, in one run.

    python -m bench.mysql_full [--scale 0.5] [--rounds 3]

MariaDB's programs come from Debian's mariadb-server and mariadb-client; ingestr as in `bench.postgres_full`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

from assets.settings import Settings
from bench.postgres_full import (
    DATABASE,
    SCHEMA,
    Contender,
    add_parts_of_sync,
    comparison,
    headrace_syncs,
    ingestr_to_parquet,
    play,
    script,
    timed,
)
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
        # nobody encrypts: ingestr does so only where its address says it
        config = json.dumps(server.config(DATABASE) | {"tls": "disable"})
        subprocess.run(add, input=config, text=True, env=environment, check=True, stdout=subprocess.DEVNULL)

        dump = ["/bin/sh", "-c", 'exec "$0" "$@" > /dev/null', client, "--quick", "--batch", "--skip-column-names"]
        dump += ["--skip-ssl", "-h", server.host, "-P", str(server.port), "-u", server.user, DATABASE]
        dump += ["-e", "SELECT * FROM lineitem"]
        server.execute(DATABASE, "CREATE TABLE nothing (id int PRIMARY KEY)")
        contenders: dict[str, Contender] = {
            "mariadb client to /dev/null": lambda _: timed(dump, {**environment, "MYSQL_PWD": server.password}),
        }
        syncs, to_bronze = headrace_syncs(f"{DATABASE}.", environment, stack)
        contenders |= syncs
        uri = f"mysql://{server.user}:{server.password}@{server.host}:{server.port}/{DATABASE}"
        contenders |= ingestr_to_parquet(uri, f"{DATABASE}.lineitem", folder, environment, console)
        seconds, peaks = play(contenders, rounds, count, console)
    add_parts_of_sync(seconds, peaks, to_bronze)
    told = f"lineitem on MariaDB, {count:,} rows, median of {rounds}"
    console.print(comparison(told, seconds, peaks, "mariadb client to /dev/null", "x client"))


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
