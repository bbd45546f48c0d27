"""``headrace datasets``: add, list, show, preview, remove uploaded files."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestration.cli_output import HomeOption, JsonOption, open_headrace, print_json, print_table, reports_errors

app = typer.Typer(help="Uploaded files as tables: CSV, TSV, JSON, JSON lines, Parquet, Excel.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the dataset.")]


@app.command("add")
@reports_errors
def add(
    name: NameArgument,
    files: Annotated[list[str], typer.Argument(help="Files, up to 1 GiB each.")],
    table: Annotated[str | None, typer.Option("--table", help="One table for all these files.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of files of the same name.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Add files; each (of a workbook, each sheet) is a table. Then: headrace sync NAME."""
    dataset = open_headrace(home).datasets.upload(name, files, table=table, replace=replace)
    if as_json:
        print_json(dataset)
    else:
        print(f"Dataset {name} has the tables {', '.join(dataset.tables)}. Load them: headrace sync {name}")


@app.command("list")
@reports_errors
def list_datasets(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """All datasets."""
    found = open_headrace(home).datasets.list()
    if as_json:
        print_json({"datasets": found})
    else:
        rows = [(d.name, len(d.files), ", ".join(d.tables), sum(f.bytes for f in d.files)) for d in found]
        print_table("Datasets", ("name", "files", "tables", "bytes"), rows)


@app.command("show")
@reports_errors
def show(name: NameArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """The files of one dataset."""
    dataset = open_headrace(home).datasets.show(name)
    if as_json:
        print_json(dataset)
    else:
        rows = [(f.name, f.table, f.sheet, f.format, f.bytes, f.sha256[:12]) for f in dataset.files]
        print_table(name, ("file", "table", "sheet", "format", "bytes", "sha256"), rows)


@app.command("preview")
@reports_errors
def preview(
    name: NameArgument,
    table: Annotated[str | None, typer.Argument(help="Table; default: the only one.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, max=1000, help="Rows to show.")] = 20,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """A table's columns over all rows, and its first rows."""
    found = open_headrace(home).datasets.preview(name, table, rows)
    if as_json:
        print_json(found)
        return
    columns = [(c.name, c.type, c.nulls, c.distinct, c.min, c.max, ", ".join(c.samples)) for c in found.columns]
    print_table(
        f"{found.table}: {found.rows} rows", ("column", "type", "nulls", "distinct", "min", "max", "samples"), columns
    )
    names = [column.name for column in found.columns]
    print_table("first rows", tuple(names), [tuple(row[n] for n in names) for row in found.first])


@app.command("remove")
@reports_errors
def remove(
    name: NameArgument,
    force: Annotated[bool, typer.Option("--force", help="Remove its pipelines too.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Remove a dataset and its files; its tables stay."""
    open_headrace(home).datasets.remove(name, force=force)
    if as_json:
        print_json({"removed": name})
    else:
        print(f"Dataset {name} is removed; its tables stay.")
