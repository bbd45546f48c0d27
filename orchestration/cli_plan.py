"""``headrace plan``: what a sync would do, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestration import cli_table_options as table_options
from orchestration.cli_output import HomeOption, JsonOption, open_headrace, print_json, print_table, reports_errors

if TYPE_CHECKING:
    from orchestration.reports import PlanReport

StatementsOption = Annotated[bool, typer.Option("--statements", help="Print every statement in full.")]
SHOWN_CHARACTERS = 160


@reports_errors
def plan(
    connector: Annotated[str, typer.Argument(help="Name of the connector.")],
    tables: Annotated[list[str] | None, typer.Argument(help="Tables, as discover prints them: schema.table.")] = None,
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
        str | None, typer.Option("--backfill-from", help="Start of a range to read again.")
    ] = None,
    backfill_to: Annotated[str | None, typer.Option("--backfill-to", help="End of the range, included.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="As if the tables started anew.")] = False,
    statements: StatementsOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Say what a sync would do: mode and why, window, rows and bytes, statements. Nothing runs."""
    report = open_headrace(home).plan(
        connector,
        tables,
        mode=mode,
        deletes=deletes,
        cursor=cursor,
        key=table_options.column_list(key),
        verify=verify,
        write=write,
        drift=drift,
        columns=table_options.column_choice(include, exclude, hashed, mask, all_columns),
        row_filter=where,
        fill_added=fill_added,
        backfill=None if backfill_from is None and backfill_to is None else (backfill_from, backfill_to),
        reset=reset,
    )
    print_plan(report, as_json=as_json, in_full=statements)


def print_plan(report: PlanReport, *, as_json: bool, in_full: bool) -> None:
    """Print a plan; exit code 1 if a table would be refused."""
    if as_json:
        print_json(report)
    else:
        columns = ("table", "mode", "why", "window", "rows", "bytes", "estimate", "source", "lakehouse", "commits")
        rows = [
            (
                t.table,
                t.mode,
                t.error or t.skip or "; ".join([t.reason, *t.drift]),
                f"({t.low or 'start'}, {t.high or 'newest'}]" if t.cursor or t.low else None,
                t.rows,
                t.bytes,
                t.estimate or None,
                len(t.source_statements),
                len(t.lakehouse_statements),
                t.writes,
            )
            for t in report.tables
        ]
        print_table(f"{report.connector}: what a sync would do (statements are counted)", columns, rows)
        statements = [
            (t.table, where, text if in_full else _shortened(text))
            for t in report.tables
            for where, text in [
                *(("source", s) for s in t.source_statements),
                *((report.lakehouse, f"{s.table}: {s.text}") for s in t.lakehouse_statements),
            ]
        ]
        print_table("Statements", ("table", "where", "statement"), statements)
    if any(table.error for table in report.tables):
        raise typer.Exit(1)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]} ..."
