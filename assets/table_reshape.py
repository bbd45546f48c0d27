"""Renamed and widened columns taken over into stored tables, without a read of the source."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from assets.bronze import bronze_names
from assets.errors import SchemaDriftError
from assets.lakehouse.interface import Lakehouse, TableId
from assets.silver import SCHEMA, silver_names
from assets.sync import Column, Watermark

if TYPE_CHECKING:
    import pyarrow as pa


def follow_source(
    lakehouse: Lakehouse,
    connector: str,
    table: str,
    before: Sequence[str],
    renamed: dict[str, str],
    retyped: Sequence[Column],
    mended: Watermark,
) -> None:
    """Bring Silver, then Bronze with its watermark, under the source's new names and wider types; one commit each.

    Repeatable: the commits carry one tag until Bronze's watermark says that it is done.

    Args:
        before: the source's column names as the tables have them.
        mended: the watermark under the new names and types.
    """
    bronze = TableId(layer="bronze", connector=connector, table=table)
    silver = TableId(layer="silver", connector=connector, table=table)
    state = lakehouse.state(bronze)
    if state is None:
        return
    identity = sha256(repr((state.version, sorted(renamed.items()), [c.model_dump_json() for c in retyped])).encode())
    tag = f"{SCHEMA}-{identity.hexdigest()[:24]}"
    after = [renamed.get(name, name) for name in before]
    old_bronze, new_bronze = bronze_names(before), bronze_names(after)
    old_silver, new_silver = silver_names(before), silver_names(after)
    for target, watermark in ((silver, None), (bronze, mended)):
        if lakehouse.state(target) is None:
            continue
        names, kinds = {}, {}
        for old in before:
            new = renamed.get(old, old)
            stored, wanted = old_bronze[old], new_bronze[new]
            if target is silver:
                stored, wanted = old_silver[stored], new_silver[wanted]
            if stored != wanted:
                names[stored] = wanted
            kinds.update((wanted, column.arrow_type) for column in retyped if column.name == new)
        _reshape(lakehouse, target, names, kinds, tag, watermark)


def _reshape(
    lakehouse: Lakehouse,
    table: TableId,
    names: dict[str, str],
    kinds: dict[str, str],
    tag: str,
    watermark: Watermark | None,
) -> None:
    import pyarrow as pa

    from assets.types import arrow_type

    current = lakehouse.schema(table)
    fields: list[pa.Field] = []
    for field in current:
        name = names.get(field.name, field.name)
        fields.append(field.with_name(name).with_type(arrow_type(kinds[name]) if name in kinds else field.type))
    schema = pa.schema(fields)
    twins = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twins:
        raise SchemaDriftError(
            f"a column is now called {', '.join(twins)}, as one that the table kept after it was dropped",
            where=f"{table.connector}/{table.table}",
            remedy=f"Start the table anew: headrace sync {table.connector} {table.table} --reset",
        )
    lakehouse.reshape(table, schema, renamed=names, tag=tag, watermark=watermark)
