"""``headrace lakehouse``: where the tables are kept."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestration.cli_output import HomeOption, JsonOption, open_headrace, print_json, print_table, reports_errors

app = typer.Typer(no_args_is_help=True, help="Where the tables are kept: set up, examine, move to Databricks.")


@app.command("init")
@reports_errors
def init(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Make what is missing: folders, or catalog, schemas and volume. May be repeated."""
    made = open_headrace(home).lakehouse.init()
    if as_json:
        print_json({"made": made})
        return
    print("\n".join(f"made {name}" for name in made) or "everything is there already")


@app.command("status")
@reports_errors
def status(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Reachability, warehouse, missing grants with the GRANT that gives them; or folder, space and tables."""
    found = open_headrace(home).lakehouse.status()
    if as_json:
        print_json(found)
    else:
        rows = [("ok" if c.ok else "FAILED", c.name, c.detail, c.fix or None) for c in found.checks]
        print_table(f"{found.engine}: {found.where}", ("", "check", "detail", "fix"), rows)
        if found.tables:
            columns = ("table", "rows", "bytes", "files", "version", "reader", "writer")
            stored = [(t.name, t.rows, t.bytes, t.files, t.version, t.reader, t.writer) for t in found.tables]
            print_table("Tables (reader and writer: Delta protocol)", columns, stored)
    if not found.ok:
        raise typer.Exit(1)


@app.command("copy")
@reports_errors
def copy(
    connector: Annotated[str | None, typer.Argument(help="Name of the connector; default: all.")] = None,
    tables: Annotated[list[str] | None, typer.Argument(help="Tables; default: all that were synced.")] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Copy tables from the local lakehouse to Databricks, with their watermarks. Repeat it after a failure."""
    copied = []
    for table in open_headrace(home).lakehouse.copy(connector, tables or None):
        copied.append(table)
        if not as_json:
            done = "was there, and is equal" if table.repeated else f"copied, {table.bytes:,} bytes, equal"
            print(f"{table.layer} {table.connector}/{table.table}: {table.rows:,} rows, {done}", flush=True)
    if as_json:
        print_json({"tables": copied})
        return
    print("Go on with HEADRACE_LAKEHOUSE=databricks: syncs continue from the same watermarks.")
