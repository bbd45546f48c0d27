"""Parquet files as DuckDB decodes them: syncs decode with pyarrow, and ``verify`` compares with another decoder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.scratch_database import quoted
from assets.sources.file_values import contract_column
from assets.sources.interface import BATCH_ROWS
from assets.sources.object_store import unreadable
from assets.sources.text_files import typed_batch

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.sync import Column

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_PLAIN = {*_INTEGERS, "bool", "float", "double", "string", "large_string", "binary", "date32[day]", "timestamp[us]"}


def serves(schema: pa.Schema, columns: Sequence[Column], int96: Sequence[str]) -> bool:
    """Whether DuckDB gives the columns in the file's own types: none nested, no INT96, no unit but microseconds."""
    import pyarrow.types as types

    names = [name.lower() for name in schema.names]
    wanted = [schema.field(column.name) for column in columns if column.name in schema.names]
    zoned = {"timestamp[us, tz=UTC]", "timestamp[us, tz=+00:00]"}
    plain = all(str(f.type) in _PLAIN | zoned or types.is_decimal128(f.type) for f in wanted)
    return bool(wanted) and plain and not int96 and len(set(names)) == len(names)


def duckdb_pieces(
    open_file: Callable[[], Any], names: Sequence[str], columns: Sequence[Column], scratch: Path | None, where: str
) -> Iterator[tuple[int, list[pa.Array], list[dict[str, str]] | None]]:
    """The file's rows in order, by batches: rows, columns under the contract, misfits.

    Args:
        open_file: opens the file for reading, what it is compressed with taken off.
        scratch: folder for a copy of it, for as long as it is read.
    """
    import duckdb

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        copy = Path(folder) / "file.parquet"
        with copy.open("wb") as target, open_file() as content:
            shutil.copyfileobj(content, target, 1 << 20)
        there = [column.name for column in columns if column.name in names]
        query = f"SELECT {', '.join(map(quoted, there))} FROM read_parquet(?)"  # nosec: names are quoted
        try:
            with duckdb.connect(config={"memory_limit": "512MB", "threads": 1, "temp_directory": folder}) as database:
                database.execute("SET TimeZone = 'UTC'")
                for batch in database.execute(query, [str(copy)]).to_arrow_reader(BATCH_ROWS):
                    yield batch.num_rows, *typed_batch(columns, batch.num_rows, _of(batch, there))
        except duckdb.Error as error:
            raise unreadable(error, where, "Parquet file") from None


def _of(
    batch: pa.RecordBatch, there: Sequence[str]
) -> Callable[[Column, pa.DataType], tuple[pa.Array, dict[int, str]] | None]:
    def column(wanted: Column, kind: pa.DataType) -> tuple[pa.Array, dict[int, str]] | None:
        if wanted.name not in there:
            return None
        return contract_column(batch.column(there.index(wanted.name)), wanted.arrow_type)

    return column
