"""Datasets: uploaded files as a connector of type ``upload``, with previews and summaries."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from assets.catalog.listing import Page
from assets.errors import ConfigurationError, ConflictError, NotFoundError
from assets.sync import Model

if TYPE_CHECKING:
    from assets.catalog.records import ConnectorRecord
    from assets.sources.upload import UploadConnector
    from assets.uploaded_files import UploadedFiles
    from orchestration.headrace import Headrace

PREVIEW_ROWS = 20
MAX_PREVIEW_ROWS = 1000
SAMPLES = 3
CHANGES = 20
"""How often an upload begins anew because another one of the same dataset came first."""
TYPE = "upload"


class DatasetFile(Model):
    """One file, or a sheet of one."""

    name: str
    table: str
    format: str
    bytes: int
    sha256: str
    sheet: str | None = None


class Dataset(Model):
    """One dataset."""

    name: str
    files: tuple[DatasetFile, ...]

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(file.table for file in self.files))


class ColumnSummary(Model):
    """What a column's values are like. Values are text."""

    name: str
    type: str
    nulls: int
    distinct: int
    min: str | None = None
    max: str | None = None
    samples: tuple[str, ...] = ()


class Preview(Model):
    """A table's first rows as text, and its columns over all rows."""

    dataset: str
    table: str
    rows: int
    columns: tuple[ColumnSummary, ...]
    first: tuple[dict[str, str | None], ...]


class Datasets:
    """The datasets of one installation."""

    def __init__(self, headrace: Headrace) -> None:
        self._headrace = headrace

    def upload(
        self,
        name: str,
        files: Sequence[str | Path | tuple[str, IO[bytes]]],
        *,
        table: str | None = None,
        replace: bool = False,
    ) -> Dataset:
        """Add files to a dataset, which is made at need. Sync it like any connector.

        Args:
            name: name of the dataset, which is a connector's name.
            files: paths, or pairs of a name and an open binary file. Up to 1 GiB each.
            table: the one table of all these files; default: each file (of a workbook, each sheet) is a table.
            replace: a file takes the place of one with the same name; default: it gets a table of its own.

        Raises:
            ConfigurationError: a file's name, format or size; nothing is added then.
            ConflictError: the name belongs to another connector.
        """
        from assets.uploaded_files import UploadedFiles

        self._record(name, missing_ok=True)
        stored = UploadedFiles(self._headrace.settings.home_path)
        received = []
        for file in files:
            if isinstance(file, tuple):
                received.append(_received(*file, stored))
            else:
                try:
                    with Path(file).open("rb") as opened:
                        received.append(_received(Path(file).name, opened, stored))
                except OSError as error:
                    raise ConfigurationError(f"the file cannot be read ({error.strerror}).", where=str(file)) from None
        for attempt in range(CHANGES):
            try:
                return self._extended(name, received, table, replace)
            except ConflictError:  # another upload came first: what it added stays
                if attempt == CHANGES - 1:
                    raise
        raise AssertionError("unreachable")

    def _extended(self, name: str, received: Sequence[_Received], table: str | None, replace: bool) -> Dataset:
        record = self._record(name, missing_ok=True)
        known = record.config if record else {}
        entries = list(known.get("files", []))
        for file in received:
            entries = file.added_to(entries, table, replace)
        since = record.updated_at if record else None
        added = self._headrace.catalog.add_connector(
            name, TYPE, known | {"files": entries}, replace=record is not None, unchanged_since=since
        )
        return _dataset(added)

    def _record(self, name: str, missing_ok: bool = False) -> ConnectorRecord | None:
        try:
            record = self._headrace.catalog.connector_record(name)
        except NotFoundError:
            if missing_ok:
                return None
            raise
        if record.type != TYPE:
            raise ConflictError(f"{name} is a connector of type {record.type}.", remedy="Choose another name.")
        return record

    def list(self) -> list[Dataset]:
        return [_dataset(record) for record in self._headrace.connectors.list() if record.type == TYPE]

    def page(self, *, search: str | None = None, limit: int = 50, offset: int = 0) -> Page[Dataset]:
        """One page of the datasets."""
        found = self._headrace.connectors.page(type=TYPE, search=search, limit=limit, offset=offset)
        items = tuple(_dataset(record) for record in found.items)
        return Page(items=items, total=found.total, limit=found.limit, offset=found.offset)

    def show(self, name: str) -> Dataset:
        """One dataset.

        Raises:
            NotFoundError: there is none of that name.
        """
        record = self._record(name)
        assert record is not None
        return _dataset(record)

    def preview(self, name: str, table: str | None = None, rows: int = PREVIEW_ROWS) -> Preview:
        """The first rows of a table, and a summary of each column over all its rows, without a sync.

        Raises:
            NotFoundError: there is no such dataset or table.
            SourceAccessError: a file cannot be read.
        """
        from assets.sources.interface import UNFIT_COLUMN
        from assets.sync import WindowPlan

        dataset = self.show(name)
        chosen = table or (dataset.tables[0] if len(dataset.tables) == 1 else None)
        if chosen is None:
            raise ConfigurationError(
                "name one of its tables.", where=name, remedy=f"Tables: {', '.join(dataset.tables)}."
            )
        connector: UploadConnector = self._headrace.catalog.connector(name)  # type: ignore[assignment]
        (found,) = connector.discover([f"files.{chosen}"])
        types = {column.name: column.arrow_type for column in found.columns}
        with connector.open_read(WindowPlan(table=found, mode="full", key=found.primary_key)) as read:
            shown = [column for column in read.schema.names if column != UNFIT_COLUMN]
            return _summarised(dataset.name, chosen, read, shown, types, min(rows, MAX_PREVIEW_ROWS))

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a dataset and the files that no other one has; synced tables stay.

        Raises:
            ConflictError: pipelines use it and ``force`` is not set.
        """
        from assets.uploaded_files import UploadedFiles

        hashes = {file.sha256 for file in self.show(name).files}
        self._headrace.connectors.remove(name, force=force)
        kept = {file.sha256 for dataset in self.list() for file in dataset.files}
        stored = UploadedFiles(self._headrace.settings.home_path)
        for sha256 in hashes - kept:
            stored.remove(sha256)


@dataclass(frozen=True)
class _Received:
    """A file that is stored by its content, and not yet in the dataset."""

    name: str
    kind: str
    compression: str
    sha256: str
    size: int
    sheets: tuple[str | None, ...]

    def added_to(self, entries: list[dict[str, Any]], table: str | None, replace: bool) -> list[dict[str, Any]]:
        if any(entry["sha256"] == self.sha256 and table in (None, entry["table"]) for entry in entries):
            return entries  # the same content again
        if replace:
            entries = [entry for entry in entries if entry["name"] != self.name]
        entries = list(entries)
        label, tables = self.name, {entry["table"] for entry in entries}
        if label in {entry["name"] for entry in entries}:
            label = f"{self.sha256[:8]}-{self.name}"
        for sheet in self.sheets:
            stem = self.name.partition(".")[0] + (f"_{sheet}" if len(self.sheets) > 1 and sheet else "")
            made = _table_name(stem)
            wanted, number = table or made, 1
            while table is None and wanted in tables:
                number += 1
                wanted = f"{made}_{number}"
            tables.add(wanted)
            entry = {"name": label, "sha256": self.sha256, "size": self.size, "table": wanted, "format": self.kind}
            entries.append(entry | {"compression": self.compression, "sheet": sheet})
        return entries


def _received(given: str, content: IO[bytes], stored: UploadedFiles) -> _Received:
    from assets.sources.excel_files import sheet_names
    from assets.sources.file_reading import MAX_WORKBOOK_BYTES
    from assets.sources.file_tables import FORMATS, FileTable, file_kind
    from assets.uploaded_files import plain_name

    own = plain_name(given)
    kind, compression = file_kind(own, FileTable(name="any", glob="*"))
    if kind is None:
        known = ", ".join(sorted(FORMATS))
        raise ConfigurationError("the file's format is not known.", where=own, remedy=f"Known: {known}.")
    sha256, size = stored.store(content, own, compression)
    sheets: list[str | None] = [None]
    if kind == "excel":
        if size > MAX_WORKBOOK_BYTES:
            raise ConfigurationError("the workbook is larger than 256 MiB.", where=own, remedy="Export it as CSV.")
        sheets = list(sheet_names(io.BytesIO(stored.path(sha256).read_bytes()), own))
    return _Received(own, kind, compression, sha256, size, tuple(sheets))


def _dataset(record: ConnectorRecord) -> Dataset:
    files = [
        DatasetFile(
            name=entry["name"],
            table=entry["table"],
            format=entry["format"],
            bytes=entry["size"],
            sha256=entry["sha256"],
            sheet=entry.get("sheet"),
        )
        for entry in record.config.get("files", [])
    ]
    return Dataset(name=record.name, files=tuple(files))


def _table_name(stem: str) -> str:
    name = re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_").lower()[:80] or "table"
    return f"_{name}" if name[0].isdigit() else name


def _summarised(
    dataset: str, table: str, read: Any, shown: Sequence[str], types: dict[str, str], limit: int
) -> Preview:
    """One pass: DuckDB aggregates the batches as they come, the first rows are kept on the way."""
    import duckdb
    import pyarrow as pa

    from assets.scratch_database import quoted

    first: list[dict[str, str | None]] = []

    def batches() -> Any:
        for batch in read.batches():
            if len(first) < limit:
                head = batch.slice(0, limit - len(first)).select(list(shown)).to_pylist()
                first.extend({name: None if v is None else _text(v) for name, v in row.items()} for row in head)
            yield batch.select(list(shown))

    schema = pa.schema([read.schema.field(name) for name in shown])
    reader = pa.RecordBatchReader.from_batches(schema, batches())
    parts = ["count(*)"]
    for name in shown:
        column = quoted(name)
        parts += [f"count({column})", f"approx_count_distinct({column})"]
        parts += [f"min({column})::VARCHAR", f"max({column})::VARCHAR"]
    with duckdb.connect(config={"memory_limit": "256MB", "threads": 2}) as database:
        database.execute("SET TimeZone = 'UTC'")
        database.register("uploaded", reader)
        row = database.execute(f"SELECT {', '.join(parts)} FROM uploaded").fetchone()
    assert row is not None
    total = int(row[0])
    columns = []
    for place, name in enumerate(shown):
        filled, distinct, low, high = row[1 + 4 * place : 5 + 4 * place]
        samples = tuple(dict.fromkeys(text for line in first if (text := line[name]) is not None))[:SAMPLES]
        columns.append(
            ColumnSummary(
                name=name,
                type=types[name],
                nulls=total - filled,
                distinct=min(int(distinct), filled),
                min=low,
                max=high,
                samples=samples,
            )
        )
    return Preview(dataset=dataset, table=table, rows=total, columns=tuple(columns), first=tuple(first))


def _text(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, bool | dict | list) else str(value)
