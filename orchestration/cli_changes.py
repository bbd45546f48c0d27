"""``headrace cdc``: what sources keep for tables in mode ``cdc``."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestration.cli_output import HomeOption, JsonOption, open_headrace, print_json, print_table, reports_errors

app = typer.Typer(no_args_is_help=True, help="What sources keep for tables that are followed in mode cdc.")


@app.command("status")
@reports_errors
def status(
    connector: Annotated[str, typer.Argument(help="Name of the connector.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """What holds the source's log, how much it retains, and for which tables."""
    headrace = open_headrace(home)
    found = headrace.catalog.connector(connector).change_status(headrace.connectors.followed(connector))
    if as_json:
        print_json({"streams": found})
        return
    columns = ("name", "state", "position", "retained bytes", "tables", "")
    rows = [(s.name, s.state, s.position, s.retained_bytes, ", ".join(s.tables), s.detail or None) for s in found]
    print_table(f"{connector}: change data capture", columns, rows)


@app.command("drop")
@reports_errors
def drop(
    connector: Annotated[str, typer.Argument(help="Name of the connector.")],
    tables: Annotated[list[str] | None, typer.Argument(help="Tables; default: all of the connector.")] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Remove what Headrace made at the source. A table that is to be followed again is read anew (--reset)."""
    removed = open_headrace(home).catalog.connector(connector).stop_changes(tables)
    if as_json:
        print_json({"removed": removed})
        return
    print("\n".join(f"removed {name}" for name in removed) or "there was nothing to remove")
