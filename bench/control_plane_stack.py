"""The whole stack of `headrace up` with 1,000 connectors and 10,000 tables: its start, its pages, an added connector.

    python -m bench.control_plane_stack [--connectors 1000] [--tables 10] [--starts 2] [--added 3]

Every connector reads a real PostgreSQL server of this machine. Told are the start with sources that nobody asked yet
and with known ones, pages and lists over HTTP, and the time from the answer to `POST /connectors` until Dagster's
GraphQL of the same server shows the new connector's assets. The pipelines are paused: nothing is synced meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from assets.settings import Settings
from bench.control_plane import PAGES, fill
from orchestration.code_locations import locations_of_stack
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from orchestration.local import LocalStack

ASSETS = """{ assetNodes(group: {groupName: %s, repositoryName: "__repository__", repositoryLocationName: %s}) {
  id } }"""
SETTLED_SECONDS = 20
"""After the start, and after an added connector: daemon and sensors have looked once."""


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


class Client(httpx.Client):
    """An administrator's program at the stack's address."""

    def __init__(self, hr: Headrace, address: str) -> None:
        self.locations = locations_of_stack(hr.settings, hr.catalog)
        access = hr.catalog.access
        if not access.users():
            access.add_user("bench", "admin", None)
        _, token = access.make_token("bench", "bench", ["admin", "data", "operate", "read"], timedelta(hours=8))
        super().__init__(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=120)

    def query(self, text: str) -> dict[str, Any]:
        return self.post("/graphql", json={"query": text}).json()["data"]

    def assets(self, connector: str) -> int:
        (location,) = [found for found in self.locations if found.holds(connector)]
        asked = ASSETS % (json.dumps(connector), json.dumps(location.name))
        return len(self.query(asked)["assetNodes"] or ())

    def wait_for_assets(self, connector: str, limit: float) -> float:
        """Seconds until they are shown; more than ``limit``: they are not."""
        began = time.perf_counter()
        while not self.assets(connector) and time.perf_counter() - began < limit:
            time.sleep(0.2)
        return time.perf_counter() - began


def started(hr: Headrace, stack: LocalStack, last: str) -> tuple[Client, float, float]:
    """The client, seconds until the servers answer, and until the last connector's assets are there."""
    took = seconds(lambda: stack.start(dagster=True))
    client = Client(hr, str(stack.ui_url))
    return client, took, took + client.wait_for_assets(last, 600)


def run(arguments: argparse.Namespace, folder: Path, console: Console) -> None:
    settings = Settings(home=folder / "home")
    hr = Headrace(settings=settings)
    last = f"connector_{arguments.connectors - 1}"
    shown = Table(title=f"stack of {arguments.connectors} connectors, {arguments.connectors * arguments.tables} tables")
    for heading in ("what", "wall s"):
        shown.add_column(heading, justify="left" if heading == "what" else "right")
    with EmbeddedPostgres(folder / "postgres") as server:
        with server.connect("postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE shop")
        with server.connect("shop", autocommit=True) as connection:
            for table in range(arguments.tables):
                columns = ", ".join(f"c{number} int" for number in range(1, 8))
                connection.execute(f"CREATE TABLE table_{table} (c0 int PRIMARY KEY, {columns})".encode())
        config = server.config("shop")
        fill(hr, arguments.connectors, arguments.tables, 2, config, active=False)
        for name in ("sources nobody asked yet", "known sources")[: arguments.starts]:
            with LocalStack(settings) as stack:
                client, answering, whole = started(hr, stack, last)
                shown.add_row(f"start, {name}: servers answer", f"{answering:.1f}")
                shown.add_row(f"start, {name}: all assets are shown", f"{whole:.1f}")
                if name != "known sources" and arguments.starts > 1:
                    continue
                for page, path in PAGES.items():
                    if client.get(path).status_code == 200:
                        took = statistics.median(seconds(partial(client.get, path)) for _ in range(5))
                        shown.add_row(page, f"{took:.3f}")
                for number in range(arguments.added):
                    time.sleep(SETTLED_SECONDS)
                    new = {"name": f"added_{number}", "type": "postgres", "config": config}
                    client.post("/api/v1/connectors", json=new).raise_for_status()
                    took = client.wait_for_assets(new["name"], 300)
                    shown.add_row(f"added connector {number + 1} shows its assets", f"{took:.1f}")
    console.print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connectors", type=int, default=1000)
    parser.add_argument("--tables", type=int, default=10, help="of each connector")
    parser.add_argument("--starts", type=int, default=2, choices=(1, 2), help="1: without a second start")
    parser.add_argument("--added", type=int, default=3, help="connectors added while it runs")
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", ignore_cleanup_errors=True) as folder:
        run(parser.parse_args(), Path(folder), Console(width=110))


if __name__ == "__main__":
    main()
