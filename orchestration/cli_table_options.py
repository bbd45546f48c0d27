"""Options of one table's sync on the command line: ``headrace sync`` and ``headrace pipelines add`` share them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from assets.sync import ColumnChoice

ModeOption = Annotated[Literal["auto", "incremental", "full", "cdc"], typer.Option("--mode")]
DeletesOption = Annotated[Literal["none", "keys"], typer.Option("--deletes", help="keys: find deleted rows.")]
CursorOption = Annotated[str | None, typer.Option("--cursor", help="Column that tells when a row changed.")]
KeyOption = Annotated[str | None, typer.Option("--key", help="Key columns: COL,COL.")]
VerifyOption = Annotated[Literal["counts", "keys", "values"], typer.Option("--verify")]
WriteOption = Annotated[
    Literal["merge", "append", "replace", "scd2"] | None,
    typer.Option("--write", help="How Silver is kept; default: as it is, else merge."),
]
DriftOption = Annotated[
    Literal["evolve", "freeze", "quarantine"] | None,
    typer.Option("--drift", help="When the source's columns change; default: as it is, else evolve."),
]
IncludeOption = Annotated[str | None, typer.Option("--include", help="Only these columns: COL,COL.")]
ExcludeOption = Annotated[str | None, typer.Option("--exclude", help="All columns but these.")]
HashOption = Annotated[str | None, typer.Option("--hash", help="Columns stored as a keyed hash.")]
MaskOption = Annotated[str | None, typer.Option("--mask", help="Columns stored as a fixed text.")]
AllColumnsOption = Annotated[bool, typer.Option("--all-columns", help="Take back an earlier choice of columns.")]
WhereOption = Annotated[
    str | None, typer.Option("--where", help="Only rows like: region = 'EU' and amount > 10; \"\" for all rows.")
]
FillAddedOption = Annotated[
    bool, typer.Option("--fill-added", help="Read an added column for the rows stored before, too.")
]


def column_list(text: str | None, option: str = "--key") -> tuple[str, ...] | None:
    """Split ``a,b``; a column name with a comma in it is written in double quotes: ``"a,b",c``.

    Raises:
        typer.BadParameter: an empty name.
    """
    if text is None:
        return None
    import csv

    try:
        names = tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True, strict=True), []))
    except csv.Error:
        raise typer.BadParameter("the quotes do not match", param_hint=option) from None
    if not names or not all(names):
        raise typer.BadParameter("an empty column name", param_hint=option)
    return names


def column_choice(
    include: str | None, exclude: str | None, hashed: str | None, mask: str | None, all_columns: bool
) -> ColumnChoice | None:
    """The choice that the options make; None where none of them is given.

    Raises:
        typer.BadParameter: they contradict each other.
    """
    from pydantic import ValidationError

    from assets.sync import ColumnChoice

    given = {"include": include, "exclude": exclude, "hash": hashed, "mask": mask}
    chosen = {name: column_list(text, f"--{name}") for name, text in given.items() if text is not None}
    if all_columns:
        if chosen:
            raise typer.BadParameter("it goes with no other choice of columns", param_hint="--all-columns")
        return ColumnChoice()
    if not chosen:
        return None
    try:
        return ColumnChoice.model_validate(chosen)
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="--include, --exclude, --hash, --mask") from None
