"""The careful reader: the server's own text by COPY, parsed by the type contract. Every value has a place."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.fetch_ahead import worked_on_meanwhile
from assets.sources.file_values import within_years
from assets.sources.interface import BATCH_ROWS
from assets.types import arrow_type

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa

    from assets.sync import Column

CHUNK_BYTES = 2 << 20
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(\+00)?$"
_NUMBER = r"^-?[0-9]+(\.[0-9]+)?$"


def text_batches(
    connection: psycopg.Connection[Any], query: Any, columns: Sequence[Column], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield the query's rows, whose select list is ``columns``, one batch parsed while the next one's text comes."""
    from psycopg import sql

    copy_query = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, FORCE_QUOTE *)").format(query)
    with connection.cursor() as cursor, cursor.copy(copy_query) as copy:
        lines = iter(lambda: connection.wait(_lines(copy)), [])
        yield from worked_on_meanwhile(lines, lambda some: _parse(b"".join(some), columns, schema))


def _lines(copy: Any) -> Generator[Any, Any, list[bytes]]:
    """The next lines, as many as one batch takes: ``Copy.read`` waits anew for every line, at ten times the cost."""
    held: list[bytes] = []
    size = 0
    while size < CHUNK_BYTES and len(held) < BATCH_ROWS:
        line = yield from copy._read_gen()
        if not line:
            break
        held.append(bytes(line))
        size += len(line)
    return held


def _parse(text: bytes, columns: Sequence[Column], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa
    import pyarrow.csv as csv

    names = [f"c{i}" for i in range(len(columns))]
    table = csv.read_csv(
        pa.BufferReader(text),
        read_options=csv.ReadOptions(column_names=names, block_size=max(len(text) + 1, 1 << 16), use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    ).combine_chunks()
    unfit: dict[int, dict[str, str]] = {}
    arrays = []
    for index, column in enumerate(columns):
        texts = table.column(index).chunk(0) if table.column(index).num_chunks else pa.array([], pa.string())
        arrays.append(typed_column(texts, column, unfit))
    arrays.append(unfit_array(unfit, table.num_rows))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def unfit_array(unfit: dict[int, dict[str, str]], rows: int) -> pa.Array:
    """``_headrace_unfit``: JSON of a row's values that fit no column type, NULL for all other rows."""
    import pyarrow as pa

    if not unfit:
        return pa.nulls(rows, pa.string())
    return pa.array(
        [json.dumps(unfit[i], ensure_ascii=False, sort_keys=True) if i in unfit else None for i in range(rows)],
        pa.string(),
    )


def typed_column(texts: pa.Array, column: Column, unfit: dict[int, dict[str, str]]) -> pa.Array:
    import pyarrow as pa

    pc = arrow_compute()
    kind = arrow_type(column.arrow_type)
    if pa.types.is_string(kind):
        return texts
    if pa.types.is_boolean(kind):
        return pc.equal(texts, "t")
    if pa.types.is_binary(kind):
        return pa.array([None if v is None else bytes.fromhex(v[2:]) for v in texts.to_pylist()], kind)
    if pa.types.is_integer(kind):
        return texts.cast(kind)
    if pa.types.is_floating(kind):
        return pc.replace_substring(texts, "Infinity", "inf").cast(kind)
    pattern = _NUMBER if pa.types.is_decimal(kind) else _DATE if pa.types.is_date(kind) else _MOMENT
    fits = pc.match_substring_regex(texts, pattern)
    if not pa.types.is_decimal(kind):
        fits = pc.and_(fits, pc.invert(pc.starts_with(texts, "0000")))
    misfits = pc.indices_nonzero(pc.invert(fits)).to_pylist()
    for row in misfits:
        unfit.setdefault(row, {})[column.name] = texts[row].as_py()
    if misfits:
        texts = pc.if_else(fits, texts, pa.scalar(None, pa.string()))
    if pa.types.is_timestamp(kind):
        plain = pc.replace_substring_regex(texts, r"\+00$", "").cast(pa.timestamp("us"))
        return plain if kind.tz is None else pc.assume_timezone(plain, "UTC")
    return texts.cast(kind)


def needs_care(batch: pa.RecordBatch) -> bool:
    """Whether a typed batch holds a date or timestamp outside the years 1 to 9999 (infinities included)."""
    import pyarrow as pa

    pc = arrow_compute()
    for index, field in enumerate(batch.schema):
        if not (pa.types.is_date(field.type) or pa.types.is_timestamp(field.type)):
            continue
        stored = pa.int32() if pa.types.is_date(field.type) else pa.int64()
        bounds = pc.min_max(batch.column(index).view(stored)).as_py()
        if bounds["min"] is not None and not within_years(field.type, bounds["min"], bounds["max"]):
            return True
    return False


def zero_columns(batch: pa.RecordBatch, candidates: Iterable[int]) -> set[int]:
    """Which of the decimal columns hold a zero: the fast reader turns NaN into zero."""
    import pyarrow as pa

    pc = arrow_compute()
    zeros = ((i, pa.scalar(0, batch.column(i).type)) for i in candidates)
    return {i for i, zero in zeros if pc.any(pc.equal(batch.column(i), zero)).as_py()}
