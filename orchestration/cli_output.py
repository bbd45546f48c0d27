"""How the command line speaks: one JSON document or a table on stdout, one clear line on stderr where it fails."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from assets.errors import HeadraceError

if TYPE_CHECKING:
    from assets.settings import Settings
    from orchestration.headrace import Headrace

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Folder of the installation; default: HEADRACE_HOME, else .headrace.")
]
Command = TypeVar("Command", bound=Callable[..., Any])
PIPED_WIDTH = 200


def open_headrace(home: Path | None) -> Headrace:
    """The installation that the options name, by the command's own ``--home`` or the one before it.

    Raises:
        ConfigurationError: a ``HEADRACE_*`` variable is wrong.
    """
    settings = read_settings(home)
    from orchestration.headrace import Headrace

    return Headrace(settings=settings)


def read_settings(home: Path | None) -> Settings:
    """The settings of `open_headrace`, which cost a tenth of opening it."""
    from pydantic import ValidationError

    from assets.errors import ConfigurationError
    from assets.settings import Settings

    if home is not None:
        os.environ["HEADRACE_HOME"] = str(home.expanduser().resolve())  # for the worker that a sync may start
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(f"HEADRACE_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors())
        raise ConfigurationError(f"{problems}.", remedy="See docs/settings.md.") from None


def reports_errors(command: Command) -> Command:
    """Wrap a command: any failure is one line on stderr, JSON on stdout where asked for, and exit code 1."""

    @functools.wraps(command)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            _say("interrupted.")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # the reader of our output has gone; nothing more may be written, at interpreter exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except Exception as error:
            if os.environ.get("HEADRACE_DEBUG") == "1":
                raise
            _report(error, as_json=bool(options.get("as_json")))
            raise typer.Exit(1) from None

    return call  # type: ignore[return-value]


def _report(error: Exception, *, as_json: bool) -> None:
    if isinstance(error, HeadraceError):
        document = {
            "type": type(error).__name__,
            "message": error.what,
            "where": error.where,
            "remedy": error.remedy,
            "retryable": error.retryable,
        }
        line = error.text
    else:
        # The text of an unforeseen error may hold anything, a password too: only its type is told.
        line = f"internal error ({type(error).__name__}). Run it again with HEADRACE_DEBUG=1 for the details."
        document = {"type": type(error).__name__, "message": line, "where": "", "remedy": "", "retryable": False}
    if as_json:
        print_json({"error": document})
    _say(line)


def _say(line: str) -> None:
    print(f"headrace: {' '.join(line.split())}", file=sys.stderr)


def print_json(document: Any) -> None:
    """Print the one document; pydantic objects become objects."""
    print(json.dumps(document, default=_plain, ensure_ascii=False, indent=2))


def _plain(value: Any) -> Any:
    from pydantic import BaseModel
    from pydantic_core import to_jsonable_python

    return value.model_dump(mode="json") if isinstance(value, BaseModel) else to_jsonable_python(value)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table for people; ``None`` is a dash, numbers stand right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[number], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)


def _cell(value: object) -> str:
    from datetime import datetime

    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return str(value)
