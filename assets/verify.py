"""Compare Silver with the source as it is now, through the reader that did not load it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.change_capture import follows, live_keys
from assets.lakehouse.interface import TableId
from assets.naming import METADATA_PREFIX
from assets.row_comparison import RowComparison
from assets.shaped_read import ShapedSource
from assets.silver import stored_rows
from assets.sources.interface import UNFIT_COLUMN
from assets.sync import SourceTable, TableShape, VerifyLevel, VerifyResult

if TYPE_CHECKING:
    from assets.steps import SyncSteps


def verify_table(
    steps: SyncSteps, connector: str, table: str, level: VerifyLevel = "counts", *, key: tuple[str, ...] | None = None
) -> VerifyResult:
    """Compare one table. Rows that change meanwhile may differ: the source is read in one snapshot, now.

    Args:
        level: ``counts`` compares row counts, ``keys`` the sets of keys, ``values`` every value of every row.
        key: key columns; default: the key that the last sync used, else the source's own.

    Raises:
        SourceUnreachableError, SourceAccessError, NotFoundError: the source could not be read.
    """
    (found,) = steps.catalog.connector(connector).discover([table])
    watermark = steps.stored_watermark(connector, table)
    shape = (watermark.shape if watermark else None) or TableShape()
    key = key if key is not None else shape.key or steps.key_of(connector, found)
    found = found.model_copy(update={"primary_key": tuple(key)})  # tables of files are read by the key in use
    result = VerifyResult(connector=connector, table=table, level=level, equal=None)
    silver_id = TableId(layer="silver", connector=connector, table=table)
    if steps.lakehouse.state(silver_id) is None:
        return result.model_copy(update={"equal": False, "detail": "the table was never synced"})
    source = steps.shaped(connector, shape)
    table_read = source.table(found)
    appends, told = shape.write == "append", follows(watermark)  # a log tells every delete
    if level == "counts":
        with source.open_verify(table_read, list(key) or None) as read:
            counted = read.count()
        if appends and told:
            silver = steps.silver_table(connector, table, [c.name for c in source.columns(table_read)], shape)
            stored = live_keys(steps, silver, key)
        else:
            stored = steps.lakehouse.count_live(silver_id)
        equal = stored >= counted if appends and not told else stored == counted
        return result.model_copy(update={"equal": equal, "source_rows": counted, "silver_rows": stored})
    if level == "keys" and not key:
        detail = "the table has no key, so keys cannot be compared; use --level values"
        return result.model_copy(update={"detail": detail})
    compared = _compare_rows(steps, source, table_read, shape, key, result)
    if appends and compared.equal is False and not (told or compared.detail or compared.missing or compared.differing):
        # what left the source stays: every change is kept
        detail = f"{compared.extra} rows or versions are in Silver alone"
        return compared.model_copy(update={"equal": True, "detail": detail})
    return compared


def _compare_rows(
    steps: SyncSteps,
    source: ShapedSource,
    table: SourceTable,
    shape: TableShape,
    key: tuple[str, ...],
    result: VerifyResult,
) -> VerifyResult:
    import pyarrow as pa

    values = result.level == "values"
    stored_schema = steps.lakehouse.schema(TableId(layer="silver", connector=result.connector, table=result.table))
    with source.open_verify(table, None if values else list(key)) as read:
        names = [column.name for column in (read.columns if values else source.columns(table))]
        silver = steps.silver_table(result.connector, result.table, names, shape)
        stored_names = {source: silver.names[bronze] for source, bronze in silver.bronze_of.items()}
        wanted = names if values else list(key)
        gone = [name for name in wanted if name not in stored_names or stored_names[name] not in stored_schema.names]
        if gone:
            detail = f"columns that Silver does not have yet: {', '.join(gone[:10])}; sync the table again"
            return result.model_copy(update={"equal": False, "detail": detail})
        known = {stored_names[name] for name in names}
        left = [n for n in stored_schema.names if n not in known and not n.startswith(METADATA_PREFIX)]
        compared = [*wanted, UNFIT_COLUMN] if values and UNFIT_COLUMN in read.schema.names else wanted
        schema = pa.schema([read.schema.field(name) for name in compared])
        scratch = steps.settings.home_path / "scratch"
        with RowComparison(key, schema, memory_limit=steps.settings.memory_limit, scratch=scratch) as comparison:
            counted = comparison.add("source", read.batches())
            with stored_rows(silver, compared) as rows:
                stored = comparison.add_stored(rows, newest_only=shape.write == "append")
            different = comparison.differences(steps.settings.verify_limit)
            repeats = values and any(count for count, _ in different.values()) and comparison.key_repeats()
            if repeats:
                different = comparison.differences_of_rows()
    update: dict[str, object] = {"source_rows": counted, "silver_rows": stored}
    for name, (count, keys) in different.items():
        update[name] = count
        update[f"{name}_keys"] = keys
    update["equal"] = not any(count for count, _ in different.values())
    details = [f"the key ({', '.join(key)}) is not unique in the source: whole rows were compared"] if repeats else []
    if left:
        details.append(f"columns kept in Silver that the source no longer has: {', '.join(left[:10])}")
    if details:
        update["detail"] = "; ".join(details)
    return result.model_copy(update=update)
