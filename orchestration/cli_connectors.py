"""``headrace connectors``: add, list, show, test, discover, remove."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestration.cli_output import HomeOption, JsonOption, open_headrace, print_json, print_table, reports_errors

app = typer.Typer(help="Sources: add, test, discover.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the connector.")]
MAX_CONFIG_BYTES = 1024 * 1024


def read_config(source: str) -> dict[str, Any]:
    """Read a YAML or JSON object from a file, or from stdin for ``-``.

    Raises:
        ConfigurationError: it cannot be read or is no object; the message repeats nothing of it.
    """
    import yaml

    from assets.errors import ConfigurationError

    where = "stdin" if source == "-" else source
    try:
        if source == "-":
            content = sys.stdin.buffer.read(MAX_CONFIG_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                content = file.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise ConfigurationError("the config is larger than 1 MiB.", where=where)
        config = yaml.safe_load(content.decode("utf-8-sig"))  # JSON is YAML
    except OSError as error:
        raise ConfigurationError(f"the config cannot be read ({error.strerror}).", where=where) from None
    except UnicodeDecodeError:
        raise ConfigurationError("the config is no UTF-8 text.", where=where) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError(f"the config is neither YAML nor JSON{place}.", where=where) from None
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise ConfigurationError("the config is no object of named fields.", where=where)
    return config


@app.command("add")
@reports_errors
def add(
    name: NameArgument,
    type: Annotated[str, typer.Option("--type", help="Connector type, such as postgres.")],
    config: Annotated[str, typer.Option("--config", help="File with YAML or JSON, or - for stdin.")],
    replace: Annotated[bool, typer.Option("--replace", help="Change the connector of this name.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Store a connector. Secrets are encrypted, or given as env:NAME or file:PATH."""
    record = open_headrace(home).connectors.add(name, type, read_config(config), replace=replace)
    if as_json:
        print_json(record)
    else:
        print(f"Connector {record.name} is stored. Try it: headrace connectors test {record.name}")


@app.command("list")
@reports_errors
def list_connectors(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """All connectors."""
    records = open_headrace(home).connectors.list()
    if as_json:
        print_json({"connectors": records})
        return
    rows = [(r.name, r.type, r.status, r.last_tested_at, r.last_error) for r in records]
    print_table("Connectors", ("name", "type", "status", "last tested", "last error"), rows)


@app.command("show")
@reports_errors
def show(name: NameArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """One connector, its secrets masked."""
    record = open_headrace(home).connectors.show(name)
    if as_json:
        print_json(record)
        return
    fields = record.model_dump(mode="json", exclude={"config"})
    rows = [*fields.items(), *((f"config.{field}", value) for field, value in record.config.items())]
    print_table(name, ("field", "value"), [(field, None if value is None else str(value)) for field, value in rows])


@app.command("test")
@reports_errors
def test(name: NameArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Try network, login and grants; says how to fix what fails."""
    outcome = open_headrace(home).connectors.test(name)
    if as_json:
        print_json(outcome)
    else:
        rows = [("ok" if c.ok else "FAILED", c.name, c.detail, c.fix, round(c.seconds, 2)) for c in outcome.checks]
        print_table(name, ("", "check", "detail", "fix", "seconds"), rows)
    if not outcome.ok:
        raise typer.Exit(1)


@app.command("discover")
@reports_errors
def discover(
    name: NameArgument,
    tables: Annotated[list[str] | None, typer.Argument(help="Only these tables, with their columns.")] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """The source's tables: columns, keys, possible cursors, estimates."""
    from orchestration.reports import Discovery

    found = open_headrace(home).connectors.discover(name, tables or None)
    if as_json:
        print_json(Discovery(connector=name, tables=tuple(found)))
        return
    rows = [
        (
            t.name,
            t.kind,
            len(t.columns),
            t.estimated_rows,
            ", ".join(t.primary_key) or None,
            ", ".join(t.cursor_candidates) or None,
            t.refusal,
        )
        for t in found
    ]
    print_table(name, ("table", "kind", "columns", "rows (about)", "key", "cursor", "refused because"), rows)
    if tables:
        for table in found:
            columns = [(c.name, c.source_type, c.arrow_type, c.rule, c.nullable) for c in table.columns]
            print_table(table.name, ("column", "source type", "type", "rule", "nullable"), columns)


@app.command("remove")
@reports_errors
def remove(
    name: NameArgument,
    force: Annotated[bool, typer.Option("--force", help="Remove its pipelines too.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Remove a connector; its tables stay."""
    open_headrace(home).connectors.remove(name, force=force)
    if as_json:
        print_json({"removed": name})
    else:
        print(f"Connector {name} is removed; its tables stay.")
