"""``make demo``: the main job on real input, its worker killed on the way, ending with the proof.

Everything it writes is under ``.demo``; everything it starts is stopped at the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from assets.errors import HeadraceError
from assets.lakehouse.interface import Lakehouse, TableId, open_lakehouse
from assets.settings import Settings
from orchestration import demo_shop
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.local import LocalStack

if TYPE_CHECKING:
    from assets.sync import TableResult
    from orchestration.headrace import Headrace

CONNECTOR = "shop"
CHAT_SOURCE = "shop_chat"
CHATS = {
    "kind": "chat_tables",
    "connector": CONNECTOR,
    "messages": "public.chat_messages",
    "session": "session_id",
    "message": "id",
    "role": "sender",
    "time": "updated_at",
    "text": "body",
    "sessions": "public.chat_sessions",
}
DATABASE = "shop"
RUN_DEADLINE_SECONDS = 300.0


class DemoFailure(HeadraceError):
    """The demo could not show what it promises."""


@contextmanager
def _step(console: Console, text: str) -> Iterator[None]:
    started = time.monotonic()
    with console.status(f"[bold]{text}"):
        yield
    console.print(f"[green]✓[/] {text} [dim]{time.monotonic() - started:.1f} s")


def _bar(console: Console, unit: str) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn(f"[dim]{unit}"),
        TimeElapsedColumn(),
        console=console,
    )


def _fresh_home(home: Path) -> None:
    if home.exists():
        if any(home.iterdir()) and not (home / demo_shop.DEMO_MARKER).exists():
            raise DemoFailure("holds files that no demo made.", where=str(home), remedy="Give another --home.")
        shutil.rmtree(home)
    home.mkdir(parents=True)
    (home / demo_shop.DEMO_MARKER).touch()


def _load(server: EmbeddedPostgres, console: Console) -> None:
    server.create_database(DATABASE)
    with server.connect(DATABASE) as connection, _bar(console, "rows") as bar:
        task = bar.add_task("Load the web shop", total=sum(demo_shop.TABLES.values()))
        demo_shop.load_shop(connection, lambda _table, rows: bar.advance(task, rows))


def _tables() -> list[str]:
    return [f"public.{name}" for name in demo_shop.TABLES]


def _versions(lakehouse: Lakehouse, layer: Any) -> dict[str, int]:
    """Delta version of every table; -1 where it is not there yet."""
    states = {t: lakehouse.state(TableId(layer=layer, connector=CONNECTOR, table=t)) for t in _tables()}
    return {table: state.version if state else -1 for table, state in states.items()}


class _InBackground(threading.Thread):
    """Runs one blocking call; `result()` returns its value or raises its error."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self.join()
        if self._error is not None:
            raise self._error
        return self._value


def _first_sync(dagster_url: str, lakehouse: Lakehouse, console: Console) -> str:
    """Materialize every asset of the connector through Dagster; returns the run id."""
    from orchestration.demo_dagster_run import launch_assets, wait_for_run

    with _bar(console, "tables") as bar:
        task = bar.add_task("First sync, full, through Dagster", total=len(demo_shop.TABLES))
        run_id = launch_assets(dagster_url, CONNECTOR, 45)
        waiting = _InBackground(lambda: wait_for_run(dagster_url, run_id, RUN_DEADLINE_SECONDS))
        while waiting.is_alive():
            bar.update(task, completed=sum(version >= 0 for version in _versions(lakehouse, "silver").values()))
            waiting.join(0.3)
        waiting.result()
        bar.update(task, completed=len(demo_shop.TABLES))
    return run_id


def _second_sync(headrace: Headrace, stack: LocalStack, lakehouse: Lakehouse, console: Console) -> list[TableResult]:
    """Sync what changed, deletes included, and SIGKILL the worker as soon as the first Bronze commit is seen."""
    before = {layer: _versions(lakehouse, layer) for layer in ("bronze", "silver")}
    with _bar(console, "tables") as bar:
        task = bar.add_task("Second sync, incremental", total=len(demo_shop.TABLES))
        syncing = _InBackground(lambda: headrace.sync(CONNECTOR, mode="incremental", deletes="keys").tables)
        killed: int | None = None
        back = False
        while syncing.is_alive():
            if killed is None and _versions(lakehouse, "bronze") != before["bronze"]:
                killed = stack.worker_pid
                if killed is None:
                    raise DemoFailure("no worker to kill.")
                os.kill(killed, signal.SIGKILL)
                bar.console.print(f"[bold red]✗ kill -9 {killed}[/] the worker, in the middle of the second sync")
            if killed is not None and not back and (worker := stack.worker_pid) not in (None, killed):
                bar.console.print(f"[green]✓[/] a new worker runs as {worker}; it takes up the work in hand")
                back = True
            now = _versions(lakehouse, "silver")
            bar.update(task, completed=sum(now[table] > version for table, version in before["silver"].items()))
            syncing.join(0.02)
        results = syncing.result()
        if killed is None:
            raise DemoFailure("the second sync ended before the worker could be killed.", remedy="Run it again.")
        bar.update(task, completed=len(demo_shop.TABLES))
    return list(results)


def _prove(headrace: Headrace, lakehouse: Lakehouse, results: list[TableResult], home: Path, console: Console) -> bool:
    """Compare every table by value and print the result; returns whether all are equal."""
    from orchestration.demo_proof import bronze_equals_silver

    by_table = {result.table: result for result in results}
    wide = console.width >= 120
    shown = Table(
        title="Second sync, proven: every value of every row", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    shown.add_column("table", no_wrap=True)
    shown.add_column("mode")
    for heading in ("read", "deleted", "source", "silver", "bronze", "proof"):
        shown.add_column(heading, justify="right")
    if wide:
        shown.add_column("seconds", justify="right")
        shown.add_column("watermark", style="dim", no_wrap=True)
    good = True
    with _bar(console, "tables") as bar:
        task = bar.add_task("Compare all values", total=len(by_table))
        for table in _tables():
            result = by_table.get(table)
            (proof,) = headrace.verify(CONNECTOR, [table], level="values")
            if result is None or result.status != "succeeded":
                good = False
                shown.add_row(table, "[red]failed", (result.error or "") if result else "no result")
                continue
            bronze = bronze_equals_silver(lakehouse, CONNECTOR, table, result.key, home / "scratch")
            good = good and bool(proof.equal) and bronze and result.equal is not False
            cells = [
                table.removeprefix("public."),
                "full" if result.mode == "full" else "incr.",
                f"{result.rows_read:,}",
                f"{result.rows_deleted:,}",
                f"{proof.source_rows or 0:,}",
                f"{proof.silver_rows or 0:,}",
                f"{result.rows_bronze:,}",
                _verdict(bool(proof.equal), bronze),
            ]
            shown.add_row(*cells, *([_seconds(result), (result.watermark_after or "")[:19]] if wide else []))
            bar.advance(task)
    console.print(shown)
    console.print(
        "[dim]equal: Silver holds the source's value in every column of every row, and so do Bronze's newest rows;"
        " bronze counts every version that was read.[/]"
    )
    return good


def _extract_knowledge(headrace: Headrace, dagster_url: str, console: Console) -> bool:
    """Extract from the chat tables through Dagster and show what was found; returns whether every check passed."""
    from orchestration.defs.knowledge import SOURCE_TAG
    from orchestration.demo_dagster_run import launch_assets, wait_for_run

    with _step(console, "Knowledge from the chat sessions, through Dagster"):
        run_id = launch_assets(dagster_url, "knowledge", 45, {SOURCE_TAG: CHAT_SOURCE})
        wait_for_run(dagster_url, run_id, RUN_DEADLINE_SECONDS)
    shown = Table(title="Known from the chats", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("kind", "what", "where it was said"):
        shown.add_column(heading)
    people = sorted(headrace.knowledge.rows("entities", 100_000), key=lambda row: (-row["mentions"], row["entity_id"]))
    for row in [row for row in people if row["type"] != "participant"][:6]:
        shown.add_row(row["type"], row["canonical_name"], f"{row['mentions']:,} times in {row['sessions']:,} sessions")
    observations = headrace.knowledge.rows("observations", 2_000)
    for kind in ("preference", "decision", "fact"):
        for row in [row for row in observations if row["kind"] == kind][:2]:
            shown.add_row(kind, row["quote"], f"session {row['session'][:8]}, message {row['message']}")
    console.print(shown)
    checks = headrace.knowledge.check()
    for check in checks:
        console.print(f"{'[green]✓[/]' if check['passed'] else '[bold red]✗[/]'} {check['detail']}")
    return bool(observations) and all(check["passed"] for check in checks)


def _seconds(result: TableResult) -> str:
    if result.started_at is None or result.completed_at is None:
        return ""
    return f"{(result.completed_at - result.started_at).total_seconds():.1f}"


def _verdict(silver_equal: bool, bronze_equal: bool) -> str:
    if silver_equal and bronze_equal:
        return "[green]equal[/]"
    where = " and ".join(name for name, equal in (("silver", silver_equal), ("bronze", bronze_equal)) if not equal)
    return f"[bold red]DIFFERENT: {where}[/]"


def run(home: Path, console: Console) -> int:
    """Run the demo; returns the exit code: 0 only if every table is equal."""
    started = time.monotonic()
    _fresh_home(home)
    # A short heartbeat, so that the killed worker's work is taken up again in seconds.
    settings = Settings(home=home, heartbeat_timeout_seconds=4, heartbeat_throttle_seconds=0.5)
    os.environ["HEADRACE_HOME"] = str(home)
    from orchestration.headrace import Headrace

    with EmbeddedPostgres(home / "postgres") as server, LocalStack(settings) as stack:
        console.print(f"[green]✓[/] PostgreSQL on {server.host}:{server.port}")
        _load(server, console)
        headrace = Headrace(home=home)
        headrace.connectors.add(CONNECTOR, type="postgres", config=server.config(DATABASE))
        headrace.knowledge.add(CHAT_SOURCE, CHATS, active=False)  # by hand, at the end
        with _step(console, "Temporal, worker and Dagster are up"):
            stack.start(dagster=True)
        assert stack.dagster_url is not None
        lakehouse = open_lakehouse(settings)
        with server.connect(DATABASE) as late, server.connect(DATABASE) as connection:
            demo_shop.begin_late_transaction(late)
            _first_sync(stack.dagster_url, lakehouse, console)
            late.commit()
            demo_shop.change_shop(connection)
            console.print("[green]✓[/] Source changed: inserts, updates, deletes, a new primary key, a late commit")
        results = _second_sync(headrace, stack, lakehouse, console)
        good = _prove(headrace, lakehouse, results, home, console)
        known = _extract_knowledge(headrace, stack.dagster_url, console)
        headrace.knowledge.add(CHAT_SOURCE, CHATS, replace=True)
    seconds = time.monotonic() - started
    if not good:
        console.print(f"[bold red]Not equal.[/] Logs: {home / 'logs'}")
        return 1
    if not known:
        console.print(f"[bold red]The knowledge is not complete.[/] Logs: {home / 'logs'}")
        return 1
    console.print(f"[bold green]All tables equal[/] after a killed worker, in {seconds:.0f} s. Everything is stopped.")
    console.print(f"Look around: [bold]HEADRACE_HOME={home} make up[/], tables: {home / 'lakehouse'}")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description="The main job on real input, its worker killed on the way.")
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="folder for everything the demo writes")
    home = parser.parse_args().home.expanduser().resolve()
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an orderly end, as with Ctrl-C
    try:
        code = run(home, console)
    except KeyboardInterrupt:
        code = 130
    except HeadraceError as error:
        console.print(f"[bold red]{error.text}", markup=False)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
