"""``headrace pipelines``: add, list, show, run, pause, resume, runs, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestration import cli_table_options as options
from orchestration.cli_output import HomeOption, JsonOption, open_headrace, print_json, print_table, reports_errors

if TYPE_CHECKING:
    from assets.catalog.records import PipelineRecord

app = typer.Typer(help="Which tables of a connector are synced, how and when.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the pipeline.")]


@app.command("add")
@reports_errors
def add(
    name: NameArgument,
    connector: Annotated[str, typer.Option("--connector", help="Name of the connector.")],
    table: Annotated[list[str] | None, typer.Option("--table", help="A table, as discover prints it.")] = None,
    all_tables: Annotated[bool, typer.Option("--all", help="Every table, later ones too.")] = False,
    mode: options.ModeOption = "auto",
    cursor: options.CursorOption = None,
    key: options.KeyOption = None,
    deletes: options.DeletesOption = "none",
    verify: options.VerifyOption = "counts",
    write: options.WriteOption = None,
    drift: options.DriftOption = None,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    hashed: options.HashOption = None,
    mask: options.MaskOption = None,
    where: options.WhereOption = None,
    fill_added: options.FillAddedOption = False,
    schedule: Annotated[
        str, typer.Option("--schedule", help='"cron:*/5 * * * *", "every:15m", "changes:5m" or manual.')
    ] = "manual",
    timezone: Annotated[str, typer.Option("--timezone", help="Of a cron schedule, such as Europe/Berlin.")] = "UTC",
    overlap: Annotated[
        Literal["skip", "queue_one", "cancel_other"],
        typer.Option("--overlap", help="What happens to a table that another sync holds."),
    ] = "skip",
    deferred: Annotated[bool, typer.Option("--deferred", help="Dagster starts the work and does not wait.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Change the pipeline of this name.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Store a pipeline."""
    if bool(table) == all_tables:
        raise typer.BadParameter("give --table T, once or more, or --all", param_hint="--table")
    record = open_headrace(home).pipelines.add(
        name,
        connector,
        table or (),
        all_tables=all_tables,
        mode=mode,
        cursor=cursor,
        key=options.column_list(key),
        deletes=deletes,
        verify=verify,
        write=write,
        drift=drift,
        columns=options.column_choice(include, exclude, hashed, mask, False),
        row_filter=where,
        fill_added=fill_added,
        schedule=schedule,
        timezone=timezone,
        overlap=overlap,
        deferred=deferred,
        replace=replace,
    )
    _show(record, as_json)


@app.command("list")
@reports_errors
def list_pipelines(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """All pipelines."""
    records = open_headrace(home).pipelines.list()
    if as_json:
        print_json({"pipelines": [_document(record) for record in records]})
        return
    columns = ("name", "connector", "tables", "mode", "deletes", "schedule", "time zone", "active")
    rows = [(r.name, r.connector, _tables(r), r.mode, r.deletes, r.schedule, r.timezone, r.active) for r in records]
    print_table("Pipelines", columns, rows)


@app.command("show")
@reports_errors
def show(name: NameArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """One pipeline."""
    _show(open_headrace(home).pipelines.show(name), as_json)


@app.command("run")
@reports_errors
def run(
    name: NameArgument,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end.")] = True,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Sync the pipeline's tables now."""
    from orchestration.cli import print_sync, sync_progress

    headrace = open_headrace(home)
    with sync_progress() as progress:
        report = headrace.pipelines.run(name, wait=wait, progress=progress)
    print_sync(report.to_json(), as_json)


@app.command("pause")
@reports_errors
def pause(name: NameArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Stop the schedule."""
    _show(open_headrace(home).pipelines.pause(name), as_json)


@app.command("resume")
@reports_errors
def resume(name: NameArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Let the schedule go on."""
    _show(open_headrace(home).pipelines.resume(name), as_json)


@app.command("runs")
@reports_errors
def runs(
    name: NameArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """The pipeline's latest runs, newest first."""
    records = open_headrace(home).pipelines.runs(name, limit)
    if as_json:
        left_out = {"table_runs": {"__all__": {"result"}}}
        print_json({"pipeline": name, "runs": [r.model_dump(mode="json", exclude=left_out) for r in records]})
        return
    columns = ("run", "trigger", "status", "tables", "rows read", "started", "completed", "error")
    rows = [
        (
            r.run_group,
            r.trigger,
            r.status,
            len(r.tables),
            sum(t.rows_read for t in r.table_runs),
            r.started_at,
            r.completed_at,
            r.error,
        )
        for r in records
    ]
    print_table(name, columns, rows)


@app.command("remove")
@reports_errors
def remove(name: NameArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Remove a pipeline; tables and history stay."""
    open_headrace(home).pipelines.remove(name)
    if as_json:
        print_json({"removed": name})
    else:
        print(f"Pipeline {name} is removed; its tables stay.")


def _document(record: PipelineRecord) -> dict[str, Any]:
    return record.model_dump(mode="json") | {"schedule": record.schedule}


def _tables(record: PipelineRecord) -> str:
    return "all" if record.all_tables else ", ".join(table.name for table in record.tables)


def _show(record: PipelineRecord, as_json: bool) -> None:
    if as_json:
        print_json(_document(record))
        return
    fields = {k: v for k, v in _document(record).items() if not k.startswith("schedule_")} | {"tables": _tables(record)}
    print_table(record.name, ("field", "value"), [(k, None if v is None else str(v)) for k, v in fields.items()])
