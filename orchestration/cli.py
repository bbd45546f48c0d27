"""The command line: ``headrace``, or ``python -m orchestration.cli``."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestration import (
    cli_access,
    cli_changes,
    cli_connectors,
    cli_datasets,
    cli_kits,
    cli_knowledge,
    cli_lakehouse,
    cli_pipelines,
    cli_plan,
    cli_secrets,
)
from orchestration import cli_table_options as table_options
from orchestration.cli_output import (
    HomeOption,
    JsonOption,
    open_headrace,
    print_json,
    print_table,
    read_settings,
    reports_errors,
)

if TYPE_CHECKING:
    from orchestration.reports import SyncProgress

app = typer.Typer(
    name="headrace",
    help="Brings tables from sources into Bronze and Silver Delta tables, and proves that they are equal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_connectors.app, name="connectors")
app.add_typer(cli_datasets.app, name="datasets")
app.add_typer(cli_pipelines.app, name="pipelines")
app.add_typer(cli_kits.app, name="kits")
app.add_typer(cli_changes.app, name="cdc")
app.add_typer(cli_access.users, name="users")
app.add_typer(cli_access.tokens, name="tokens")
app.add_typer(cli_knowledge.app, name="knowledge")
app.add_typer(cli_lakehouse.app, name="lakehouse")
app.command()(cli_plan.plan)
app.add_typer(cli_secrets.app, name="secrets")

ConnectorArgument = Annotated[str, typer.Argument(help="Name of the connector.")]
TablesArgument = Annotated[list[str] | None, typer.Argument(help="Tables, as discover prints them: schema.table.")]


@app.callback()
def options(home: HomeOption = None) -> None:
    if home is not None:
        os.environ["HEADRACE_HOME"] = str(home.expanduser().resolve())


@app.command()
@reports_errors
def up(
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="No login: whoever reaches the loopback address may do everything.")
    ] = False,
    standin: Annotated[
        bool,
        typer.Option("--databricks-standin", help="Keep the tables in a local stand-in of Databricks, to try it out."),
    ] = False,
    home: HomeOption = None,
) -> None:
    """Run the one-machine stack: Temporal, worker, Dagster. Ctrl-C stops all of it."""
    settings = open_headrace(home).settings
    from orchestration import local
    from orchestration.databricks_standin import databricks_standin

    if not standin:
        raise typer.Exit(local.up(settings, login=not no_auth))
    with databricks_standin(settings.home_path):
        code = local.up(open_headrace(home).settings, login=not no_auth)
    raise typer.Exit(code)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def worker(context: typer.Context) -> None:
    """A worker of its own, on any machine: --queue extract|knowledge|orchestration, --task-queue, --grace-seconds."""
    from temporal_bridge.worker import run

    run(context.args)


@app.command()
@reports_errors
def status(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """The running stack, connectors, pipelines and the latest runs."""
    report = open_headrace(home).status()
    if as_json:
        left_out = {"__all__": {"table_runs": {"__all__": {"result"}}}}
        document = report.model_dump(mode="json", exclude={"open_runs": left_out, "recent_runs": left_out})
        if report.stack is not None:
            document["stack"]["ui_url"] = report.stack.ui_url
        print_json(document)
        return
    stack = report.stack
    rows: list[tuple[str, str]] = [
        ("home", str(report.home)),
        ("stack", (stack.ui_url or stack.temporal_address) if stack else "not running; start it: headrace up"),
        ("connectors", ", ".join(f"{n} {name}" for name, n in report.connectors.items()) or "none"),
        ("pipelines", ", ".join(f"{n} {name}" for name, n in report.pipelines.items()) or "none"),
    ]
    print_table("Headrace", ("", ""), rows)
    runs = [
        (r.run_group, r.connector, r.pipeline, r.status, len(r.tables), r.started_at, r.completed_at, r.error)
        for r in report.recent_runs
    ]
    columns = ("run", "connector", "pipeline", "status", "tables", "started", "completed", "error")
    print_table("Latest runs", columns, runs)


@app.command()
@reports_errors
def doctor(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Try everything the installation needs; says how to fix what is missing."""
    report = open_headrace(home).doctor()
    if as_json:
        print_json(report)
    else:
        rows = [("ok" if c.ok else "FAILED", c.name, c.detail, c.fix or None) for c in report.checks]
        print_table("Doctor", ("", "check", "detail", "fix"), rows)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
@reports_errors
def sync(
    connector: ConnectorArgument,
    tables: TablesArgument = None,
    mode: table_options.ModeOption = "auto",
    deletes: table_options.DeletesOption = "none",
    cursor: table_options.CursorOption = None,
    key: table_options.KeyOption = None,
    verify: table_options.VerifyOption = "counts",
    write: table_options.WriteOption = None,
    drift: table_options.DriftOption = None,
    include: table_options.IncludeOption = None,
    exclude: table_options.ExcludeOption = None,
    hashed: table_options.HashOption = None,
    mask: table_options.MaskOption = None,
    all_columns: table_options.AllColumnsOption = False,
    where: table_options.WhereOption = None,
    fill_added: table_options.FillAddedOption = False,
    backfill_from: Annotated[
        str | None, typer.Option("--backfill-from", help="Read this cursor range again; the watermark stays.")
    ] = None,
    backfill_to: Annotated[str | None, typer.Option("--backfill-to", help="End of the range, included.")] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Start the tables anew: full read, new watermark; options stay.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end.")] = True,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Bring tables to Bronze and Silver, and prove that they equal the source."""
    from orchestration.stack_requests import sync_by_stack

    settings = read_settings(home)
    columns = table_options.column_choice(include, exclude, hashed, mask, all_columns)
    options: dict[str, Any] = {
        "connector": connector,
        "tables": tables,
        "mode": mode,
        "deletes": deletes,
        "wait": wait,
        "cursor": cursor,
        "key": table_options.column_list(key),
        "verify": verify,
        "write": write,
        "drift": drift,
        "columns": columns and columns.model_dump(),
        "row_filter": where,
        "fill_added": fill_added,
        "backfill": None if backfill_from is None and backfill_to is None else (backfill_from, backfill_to),
        "reset": reset,
    }
    with sync_progress() as progress:
        document = sync_by_stack(settings, options, progress)
        if document is None:  # no stack runs, or it has other settings
            document = open_headrace(home).sync(**options, progress=progress).to_json()
    print_sync(document, as_json)


@app.command()
@reports_errors
def verify(
    connector: ConnectorArgument,
    tables: TablesArgument = None,
    level: Annotated[Literal["counts", "keys", "values"], typer.Option("--level")] = "counts",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Compare Silver with the source as it is now; names keys that differ."""
    from orchestration.reports import VerifyReport

    results = open_headrace(home).verify(connector, tables, level)
    equal = all(result.equal is True for result in results)
    if as_json:
        print_json(VerifyReport(connector=connector, level=level, equal=equal, tables=tuple(results)))
    else:
        columns = ("table", "equal", "source rows", "silver rows", "missing", "extra", "differing", "detail")
        rows = [
            (r.table, r.equal, r.source_rows, r.silver_rows, r.missing, r.extra, r.differing, r.detail or None)
            for r in results
        ]
        print_table(f"{connector}: {level}", columns, rows)
        differing = [
            (r.table, kind, key)
            for r in results
            for kind, keys in (("missing", r.missing_keys), ("extra", r.extra_keys), ("differing", r.differing_keys))
            for key in keys
        ]
        if differing:
            print_table("Keys that differ", ("table", "", "key"), differing)
    if not equal:
        raise typer.Exit(1)


@app.command("tables")
@reports_errors
def list_tables(
    connector: Annotated[str | None, typer.Argument(help="Name of the connector; default: all.")] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Every synced table: where it is, how many rows, how fresh."""
    found = open_headrace(home).tables(connector)
    if as_json:
        print_json({"tables": found})
        return
    columns = ("connector", "table", "rows", "watermark", "last run", "status", "equal", "silver")
    rows = [
        (t.connector, t.table, t.rows, t.watermark, t.last_run, t.last_status, t.equal, t.silver_uri) for t in found
    ]
    print_table("Tables", columns, rows)


def print_sync(report: dict[str, Any], as_json: bool) -> None:
    """Print a sync's outcome, as ``SyncReport.to_json`` tells it; exit code 1 if a table failed."""
    if as_json:
        print_json(report)
    elif not report["waited"]:
        print(f"Run {report['run_group']} is under way. See: headrace status")
    else:
        columns = ("table", "status", "mode", "read", "deleted", "bronze", "silver", "equal", "high", "note")
        names = ("table", "status", "mode", "rows_read", "rows_deleted", "rows_bronze", "rows_silver", "equal")
        rows = [
            (*(t[name] for name in names), t["window"]["high"], t["error"] or t["reason"] or None)
            for t in report["tables"]
        ]
        print_table(f"{report['connector']}: run {report['run_group']}", columns, rows)
    if any(table["status"] == "failed" for table in report["tables"]):
        raise typer.Exit(1)


@contextlib.contextmanager
def sync_progress() -> Iterator[Callable[[SyncProgress], None] | None]:
    """A progress bar on stderr for the block, if a person watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def tell(progress: SyncProgress) -> None:
            now = "; ".join(progress.lines[:3]) or "syncing"
            bar.update(task, completed=progress.done, total=progress.total, description=escape(now))

        yield tell


def main() -> None:
    """Entry point of the console script."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    app()


if __name__ == "__main__":
    main()
