"""What a person looks at of a stored table: its first rows, its columns and their origin, what was set aside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from assets.errors import NotFoundError
from assets.sync import Layer, Model

if TYPE_CHECKING:
    from assets.sync import TableResult, TableShape
    from orchestration.headrace import Headrace

MAX_ROWS, DEFAULT_ROWS = 500, 50
MAX_CELL = 2_000
"""Characters of a value that a preview shows."""
StoredLayer = Literal["bronze", "silver", "quarantine"]


class PreviewColumn(Model):
    name: str
    type: str


class TablePreview(Model):
    """The first rows of a stored table, each value as text; soft-deleted rows of Silver are left out."""

    connector: str
    table: str
    layer: StoredLayer
    columns: tuple[PreviewColumn, ...]
    rows: tuple[tuple[str | None, ...], ...]
    more: bool = Field(default=False, description="there are more rows than these")


class ColumnLineage(Model):
    """One column's way: name and type at the source, name in Bronze, name in Silver."""

    source: str
    source_type: str = ""
    bronze: str
    silver: str
    type: str
    key: bool = False
    rule: str = Field(default="typed", description="rule of the type contract: docs/types.md")
    protection: Literal["hash", "mask"] | None = None
    left_source: bool = Field(default=False, description="gone at the source, kept here with its last values")


class QuarantinedValue(Model):
    """One value that did not fit its column; its row is not in Silver."""

    key: str
    column: str
    reason: str
    value: str
    run: str
    loaded_at: datetime | None = None


class Quarantine(Model):
    """The quarantine of a table; ``values`` are at most the first 500."""

    connector: str
    table: str
    total: int = 0
    values: tuple[QuarantinedValue, ...] = ()


def preview(
    headrace: Headrace, connector: str, table: str, layer: StoredLayer = "silver", rows: int = DEFAULT_ROWS
) -> TablePreview:
    """The first rows of a stored table.

    Raises:
        NotFoundError: it is not there.
    """
    columns, found = _first_rows(headrace, connector, table, layer, min(rows, MAX_ROWS) + 1)
    shown = tuple(tuple(_text(value) for value in row.values()) for row in found[: min(rows, MAX_ROWS)])
    return TablePreview(
        connector=connector, table=table, layer=layer, columns=columns, rows=shown, more=len(found) > len(shown)
    )


def quarantine(headrace: Headrace, connector: str, table: str, rows: int = MAX_ROWS) -> Quarantine:
    """What was set aside of a table; empty where nothing ever was."""
    from assets.lakehouse.interface import LOADED_AT, RUN
    from assets.quarantine import quarantine_table

    state = headrace._lakehouse().state(quarantine_table(connector, table))
    if state is None:
        return Quarantine(connector=connector, table=table)
    _, found = _first_rows(headrace, connector, table, "quarantine", min(rows, MAX_ROWS))
    values = [
        QuarantinedValue(
            key=row["key"] or "",
            column=row["column_name"] or "",
            reason=row["reason"] or "",
            value=row["value"] or "",
            run=row[RUN] or "",
            loaded_at=row[LOADED_AT],
        )
        for row in found
    ]
    return Quarantine(connector=connector, table=table, total=state.rows, values=tuple(values))


def lineage(headrace: Headrace, connector: str, table: str) -> tuple[ColumnLineage, ...]:
    """Where each column comes from, as the last success of the table left it; empty where there was none."""
    from assets.bronze import bronze_names

    run = headrace.catalog.last_table_run(connector, table)
    result: TableResult | None = run.result if run else None
    if result is None:
        return ()
    shape = _shape(headrace, connector, table)
    hashed, masked = (set(shape.columns.hash), set(shape.columns.mask)) if shape else (set[str](), set[str]())
    left = {column.name for column in shape.kept} if shape else set[str]()
    bronze = bronze_names([column.name for column in result.columns])
    return tuple(
        ColumnLineage(
            source=column.name,
            source_type=column.source_type,
            bronze=bronze[column.name],
            silver=result.column_names.get(column.name, column.name),
            type=column.arrow_type,
            key=column.name in result.key,
            rule=column.rule,
            protection="hash" if column.name in hashed else "mask" if column.name in masked else None,
            left_source=column.name in left,
        )
        for column in result.columns
    )


def _shape(headrace: Headrace, connector: str, table: str) -> TableShape | None:
    from assets.lakehouse.interface import TableId

    state = headrace._lakehouse().state(TableId(layer="bronze", connector=connector, table=table))
    return state.watermark.shape if state and state.watermark else None


def _first_rows(
    headrace: Headrace, connector: str, table: str, layer: Layer, count: int
) -> tuple[tuple[PreviewColumn, ...], Sequence[dict[str, Any]]]:
    from assets.lakehouse.interface import DELETED_AT, TableId

    lakehouse = headrace._lakehouse()
    of = TableId(layer=layer, connector=connector, table=table)
    if lakehouse.state(of) is None:
        raise NotFoundError(
            f"there is no {layer} table.", where=f"{connector}/{table}", remedy=f"Run: headrace sync {connector}"
        )
    schema = lakehouse.schema(of)
    names = [name for name in schema.names if name != DELETED_AT or layer != "silver"]
    columns = tuple(PreviewColumn(name=name, type=str(schema.field(name).type)) for name in names)
    rows: list[dict[str, Any]] = []
    with lakehouse.scan(of, names) as batches:
        for batch in batches:
            rows += batch.slice(0, count - len(rows)).to_pylist()
            if len(rows) >= count:
                break
    return columns, rows


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        text = value[: MAX_CELL // 2 + 1].hex()
    elif isinstance(value, dict | list):
        text = json.dumps(value, default=str, ensure_ascii=False)
    else:
        text = str(value)
    return text if len(text) <= MAX_CELL else text[:MAX_CELL] + "…"
