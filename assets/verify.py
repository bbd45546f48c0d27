"""Compare Silver with the source as it is now, through the reader that did not load it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from assets.lakehouse.interface import TableId
from assets.naming import METADATA_PREFIX
from assets.row_comparison import RowComparison
from assets.silver import SilverTable
from assets.sources.interface import UNFIT_COLUMN
from assets.sync import SourceTable, VerifyLevel, VerifyResult

if TYPE_CHECKING:
    import pyarrow as pa

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
    source = steps.catalog.connector(connector)
    (found,) = source.discover([table])
    key = key if key is not None else steps.key_of(connector, found)
    found = found.model_copy(update={"primary_key": tuple(key)})  # tables of files are read by the key in use
    result = VerifyResult(connector=connector, table=table, level=level, equal=None)
    silver_id = TableId(layer="silver", connector=connector, table=table)
    if steps.lakehouse.state(silver_id) is None:
        return result.model_copy(update={"equal": False, "detail": "the table was never synced"})
    if level == "counts":
        with source.open_verify(found, list(key) or None) as read:
            counted = read.source_rows()
        stored = steps.lakehouse.count_live(silver_id)
        return result.model_copy(update={"equal": counted == stored, "source_rows": counted, "silver_rows": stored})
    if level == "keys" and not key:
        detail = "the table has no key, so keys cannot be compared; use --level values"
        return result.model_copy(update={"detail": detail})
    return _compare_rows(steps, found, key, result)


def _compare_rows(steps: SyncSteps, found: SourceTable, key: tuple[str, ...], result: VerifyResult) -> VerifyResult:
    import pyarrow as pa

    values = result.level == "values"
    source = steps.catalog.connector(result.connector)
    stored_schema = steps.lakehouse.schema(TableId(layer="silver", connector=result.connector, table=result.table))
    with source.open_verify(found, None if values else list(key)) as read:
        names = [column.name for column in (values and read.columns) or found.columns]
        silver = SilverTable(steps.lakehouse, result.connector, result.table, [*names, UNFIT_COLUMN])
        stored_names = {source: silver.names[bronze] for source, bronze in silver.bronze_of.items()}
        wanted = names if values else list(key)
        gone = [name for name in wanted if stored_names[name] not in stored_schema.names]
        if gone:
            detail = f"columns that Silver does not have yet: {', '.join(gone[:10])}; sync the table with --mode full"
            return result.model_copy(update={"equal": False, "detail": detail})
        known = {stored_names[name] for name in names}
        left = [n for n in stored_schema.names if n not in known and not n.startswith(METADATA_PREFIX)]
        compared = [*wanted, UNFIT_COLUMN] if values and UNFIT_COLUMN in read.schema.names else wanted
        schema = pa.schema([read.schema.field(name) for name in compared])
        scratch = steps.settings.home_path / "scratch"
        with RowComparison(key, schema, memory_limit=steps.settings.memory_limit, scratch=scratch) as comparison:
            counted = comparison.add("source", read.batches())
            with steps.lakehouse.scan(silver.silver, [stored_names[name] for name in compared]) as rows:
                stored = comparison.add("stored", _under_source_names(iter(rows), compared, stored_names))
            different = comparison.differences(steps.settings.verify_limit)
    update: dict[str, object] = {"source_rows": counted, "silver_rows": stored}
    for name, (count, keys) in different.items():
        update[name] = count
        update[f"{name}_keys"] = keys
    update["equal"] = not any(count for count, _ in different.values())
    if left:
        update["detail"] = f"columns kept in Silver that the source no longer has: {', '.join(left[:10])}"
    return result.model_copy(update=update)


def _under_source_names(
    batches: Iterator[pa.RecordBatch], columns: list[str], stored_names: dict[str, str]
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    for batch in batches:
        arrays = [batch.column(stored_names[name]) for name in columns]
        yield pa.RecordBatch.from_arrays(arrays, names=columns)
