"""One file of any format: what it holds (`object_facts`), and its rows under the plan's columns (`object_batches`)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.encoded_rows import EncodedRows
from assets.errors import HeadraceError, SourceAccessError
from assets.sources.file_tables import Compression, FileTable, Format
from assets.sources.file_values import contract_column, contract_of
from assets.sources.interface import BATCH_ROWS, UNFIT_COLUMN
from assets.sources.object_store import (
    WHOLE_BYTES,
    ObjectStore,
    ObjectStream,
    StoredObject,
    opened,
    unreadable,
)
from assets.sources.parquet_int96 import finest, int96_columns
from assets.sources.text_files import (
    chunked,
    csv_batches,
    csv_columns,
    csv_facts,
    json_columns,
    json_facts,
    json_lines,
    json_rows,
    typed_batch,
)
from assets.text_columns import ColumnFacts
from assets.types import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.row_filter import RowFilter
    from assets.sync import Column

Piece = tuple[int, "list[pa.Array] | None", "list[dict[str, str]] | None"]
"""A number of rows, their columns, and what of them fits no column type. No columns: these rows are left out."""
MAX_WORKBOOK_BYTES = 256 << 20
TAIL_BYTES = 64 << 10
"""Of a Parquet file: most footers are shorter."""
FILE, ROW, VERSION = "_file", "_row", "_file_version"


@dataclass
class ObjectFacts:
    """Rows and columns of one file. A column has a contract type (Parquet) or what its texts have shown."""

    rows: int = 0
    columns: dict[str, str | ColumnFacts] = field(default_factory=dict)

    def dump(self) -> str:
        columns = {n: f if isinstance(f, str) else f.dump() for n, f in self.columns.items()}
        return json.dumps({"rows": self.rows, "columns": columns})

    @classmethod
    def load(cls, text: str) -> ObjectFacts:
        stored = json.loads(text)
        columns = {n: f if isinstance(f, str) else ColumnFacts.load(f) for n, f in stored["columns"].items()}
        return cls(stored["rows"], columns)


def _data(columns: Sequence[Column]) -> list[Column]:
    return [c for c in columns if c.name not in (FILE, ROW, VERSION)]


class TableFile:
    """One object as a file of a table."""

    def __init__(
        self, store: ObjectStore, found: StoredObject, table: FileTable, kind: Format, compression: Compression
    ) -> None:
        self.store, self.found, self.table = store, found, table
        self.kind: Format = kind
        self.compression: Compression = compression
        self.where = f"{store.where}/{found.key}"
        self._held: bytes | None = None

    def held(self) -> TableFile:
        """With the content in memory, where it is fetched whole: the store is asked once for all looks at it."""
        if self.compression != "none" or self.found.size > WHOLE_BYTES:
            return self
        file = TableFile(self.store, self.found, self.table, self.kind, self.compression)
        file._held = self.store.read(self.found, 0, self.found.size)
        return file

    def _open(self) -> Any:
        return opened(self.store, self.found, self.compression)

    def facts(self) -> ObjectFacts:
        """Parquet and its like: from the footer. Text: from all values."""
        if self.kind == "parquet":
            with self._parquet(self._footer()) as file:
                schema = file.schema_arrow
                self._require_unique(schema.names)
                return ObjectFacts(file.metadata.num_rows, {f.name: contract_of(f.type) for f in schema})
        if self.kind in ("csv", "tsv"):
            return ObjectFacts(*csv_facts(self._csv()))  # type: ignore[arg-type]
        return ObjectFacts(*json_facts(self._rows()))  # type: ignore[arg-type]

    def batches(
        self,
        columns: Sequence[Column],
        *,
        again: bool = False,
        scratch: Path | None = None,
        row_filter: RowFilter | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """All rows: file, row number and version, the given data columns, the misfits' column.

        Args:
            row_filter: rows that it surely leaves out need not come: row groups of Parquet by their statistics.
            again: for a comparison: by another decoder than that of a sync, where there is one.
            scratch: folder for what such a decoder needs on disk.
        """
        data = _data(columns)
        yield from self._placed(
            columns, (again and self._pieces_again(data, scratch)) or self._pieces(data, row_filter), 0
        )

    def encoded_batches(self, columns: Sequence[Column]) -> Iterator[pa.RecordBatch | EncodedRows]:
        """As `batches`; row groups of Parquet that can be stored as they are come encoded."""
        if self.kind != "parquet" or self.compression != "none":
            yield from self.batches(columns)
            return
        from assets.sources.parquet_chunks import encoded_groups

        source, data = self._source(), _data(columns)
        names = {c.name for c in columns}
        constants = {FILE: self.found.key, VERSION: self.found.version}
        told = {name: value for name, value in constants.items() if name in names}
        width = 8 + sum(len(value) + 4 for value in told.values())
        row = groups = 0
        for rows in encoded_groups(source, self.found.size, data):
            numbers = {ROW: row} if ROW in names else {}
            yield replace(rows, nbytes=rows.nbytes + width * rows.num_rows, constants=told, numbers=numbers)
            row, groups = row + rows.num_rows, groups + 1
        yield from self._placed(columns, self._parquet_pieces(data, None, source, groups), row)

    def _placed(self, columns: Sequence[Column], pieces: Iterator[Piece], row: int) -> Iterator[pa.RecordBatch]:
        """Data columns beside the file's own ones; ``row``: the number of the first row."""
        import pyarrow as pa

        schema = pa.schema([*((c.name, arrow_type(c.arrow_type)) for c in columns), (UNFIT_COLUMN, pa.string())])
        for count, arrays, misfits in pieces:
            if arrays is None:
                row += count
                continue
            made = {
                FILE: lambda n: pa.repeat(pa.scalar(self.found.key), n),
                VERSION: lambda n: pa.repeat(pa.scalar(self.found.version), n),
                ROW: lambda n: pa.arange(row, row + n),  # noqa: B023
            }
            typed = iter(arrays)
            placed = [made[c.name](count) if c.name in made else next(typed) for c in columns]
            texts = [json.dumps(m, ensure_ascii=False) if m else None for m in misfits] if misfits else None
            placed.append(pa.array(texts, pa.string()) if texts else pa.nulls(count, pa.string()))
            yield pa.RecordBatch.from_arrays(placed, schema=schema)
            row += count

    def _pieces(self, columns: Sequence[Column], row_filter: RowFilter | None) -> Iterator[Piece]:
        if self.kind == "parquet":
            yield from self._parquet_pieces(columns, row_filter)
        elif self.kind in ("csv", "tsv"):
            for batch in self._csv():
                yield batch.num_rows, *csv_columns(batch, columns)
        else:
            for chunk in chunked(self._rows()):
                yield len(chunk), *json_columns(chunk, columns)

    def _pieces_again(self, columns: Sequence[Column], scratch: Path | None) -> Iterator[Piece] | None:
        from assets.sources.duckdb_parquet import duckdb_pieces, serves

        if self.kind != "parquet":
            return None
        with self._parquet(self._footer()) as file:
            schema = file.schema_arrow
            self._require_unique(schema.names)
            if not serves(schema, columns, int96_columns(file)):
                return None
        return duckdb_pieces(self._open, schema.names, columns, scratch, self.where)

    # formats

    def _csv(self) -> Iterator[pa.RecordBatch]:
        return csv_batches(self._open, self.table.csv, self.kind == "tsv", self.where)

    def _rows(self) -> Iterator[dict[str, Any]]:
        if self.kind == "jsonl":
            return json_lines(self._open, self.where)
        if self.kind == "json":
            return json_rows(self._open, self.where)
        from assets.sources.excel_files import sheet_rows

        return sheet_rows(self._content(MAX_WORKBOOK_BYTES), self.table.sheet, self.where)

    def _content(self, limit: int) -> io.BytesIO:
        if self.found.size > limit:
            raise SourceAccessError(f"the file is larger than {limit >> 20} MiB", where=self.where)
        return io.BytesIO(self.store.read(self.found, 0, self.found.size))

    def _parquet(self, source: Any = None, int96: str = "us") -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(source or self._source(), coerce_int96_timestamp_unit=int96, pre_buffer=True)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(error, self.where, "Parquet file") from None

    def _source(self) -> Any:
        import pyarrow as pa

        if self._held is not None:
            return pa.BufferReader(self._held)
        if self.compression != "none":
            with self._open() as stream:
                content = stream.read(MAX_WORKBOOK_BYTES + 1)
            if len(content) > MAX_WORKBOOK_BYTES:
                raise SourceAccessError("a compressed Parquet file is larger than 256 MiB", where=self.where)
            return pa.BufferReader(content)
        if self.found.size <= WHOLE_BYTES:
            return pa.BufferReader(self.store.read(self.found, 0, self.found.size))
        return pa.PythonFile(ObjectStream(self.store, self.found), mode="r")

    def _footer(self) -> Any:
        """The end of the file: all that is asked for where only columns and numbers of rows are wanted."""
        import pyarrow as pa

        size = self.found.size
        if self.compression != "none" or self._held is not None or size <= TAIL_BYTES:
            return None
        tail = self.store.read(self.found, size - TAIL_BYTES, TAIL_BYTES)
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if length > min(size, WHOLE_BYTES):
            return pa.PythonFile(ObjectStream(self.store, self.found), mode="r")
        if length > TAIL_BYTES:
            tail = self.store.read(self.found, size - length, length)
        return pa.BufferReader(tail[-length:])

    def _require_unique(self, names: list[str]) -> None:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceAccessError(f"several columns are named {', '.join(twice)}", where=self.where)

    def _parquet_pieces(
        self, columns: Sequence[Column], row_filter: RowFilter | None, source: Any = None, first: int = 0
    ) -> Iterator[Piece]:
        """From the row group ``first`` on; ``source``: the file, where it is open already."""
        import pyarrow as pa

        from assets.sources.parquet_groups import group_runs

        with self._parquet(source) as file:
            names = {name: i for i, name in enumerate(file.schema_arrow.names)}
            self._require_unique(list(file.schema_arrow.names))
            left = list(range(first, file.num_row_groups)) if first else None
            if left == []:
                return
            runs = [(0, left)] if row_filter is None else group_runs(file, row_filter, columns)
            try:
                for skipped, batch in self._batches_of(file, runs):
                    if batch is None:
                        yield skipped, None, None
                        continue

                    def column(wanted: Column, kind: pa.DataType) -> tuple[pa.Array, dict[int, str]] | None:
                        at = names.get(wanted.name)
                        return None if at is None else contract_column(batch.column(at), wanted.arrow_type)  # noqa: B023

                    yield batch.num_rows, *typed_batch(columns, batch.num_rows, column)
            except HeadraceError:
                raise
            except (pa.ArrowException, OSError) as error:
                raise unreadable(error, self.where, "Parquet file") from None

    def _batches_of(self, file: Any, runs: Sequence[tuple[int, list[int] | None]]) -> Iterator[tuple[int, Any]]:
        """Batches of the runs of row groups, and a number of rows alone where such are left out."""
        for skipped, groups in runs:
            if skipped:
                yield skipped, None
            for batch in self._exact_batches(file, groups):
                yield 0, batch

    def _exact_batches(self, file: Any, groups: list[int] | None) -> Iterator[pa.RecordBatch]:
        """Batches of row groups (None: all), INT96 columns in the unit that holds all their values."""
        batches = file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups)
        names = int96_columns(file)
        if not names:
            yield from batches
            return
        with self._parquet(int96="ns") as exact:
            again = exact.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=names)
            for batch, finer in zip(batches, again, strict=True):
                for name in names:
                    at = batch.schema.names.index(name)
                    column = finest(batch.column(at), finer.column(name), f"{self.where}, column {name}")
                    batch = batch.set_column(at, name, column)
                yield batch
