"""One installation with the six steps called in a row, without Temporal: the promise at the level of the data."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
from databricks.sdk.errors import NotFound
from deltalake import DeltaTable

from assets.lakehouse.databricks import DatabricksLakehouse
from assets.lakehouse.databricks_sql import STATE
from assets.lakehouse.interface import DELETED_AT, TableId
from assets.settings import Settings
from assets.steps import SyncSteps
from assets.sync import Layer, TableResult, TableSync, VerifyLevel, VerifyResult
from assets.verify import verify_table
from orchestration.embedded_postgres import EmbeddedPostgres


class Installation:
    """``shop`` is the connector; tables are named as ``discover`` prints them."""

    def __init__(self, home: Path, server: EmbeddedPostgres, database: str, **settings: Any) -> None:
        self.server = server
        self.database = database
        self.settings = Settings(home=home, **settings)
        self.steps = SyncSteps.from_settings(self.settings)
        self.steps.catalog.add_connector("shop", "postgres", server.config(database))

    def reopened(self) -> Installation:
        """The same installation as a new process would open it."""
        again = Installation.__new__(Installation)
        again.server, again.database, again.settings = self.server, self.database, self.settings
        again.steps = SyncSteps.from_settings(self.settings)
        return again

    def execute(self, *statements: str) -> None:
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def connect(self) -> psycopg.Connection[Any]:
        return self.server.connect(self.database, autocommit=True)

    def work(self, table: str, **options: Any) -> TableSync:
        options = {"run_group": f"run-{uuid.uuid4().hex[:12]}"} | options
        return TableSync.model_validate({"connector": "shop", "table": table} | options)

    def sync(self, table: str, **options: Any) -> TableResult:
        work = self.work(table, **options)
        manifest = self.extract(work)
        bronze = self.steps.commit_bronze(work, manifest)
        silver = self.steps.merge_silver(work, manifest)
        return self.steps.record(work, self.steps.verify(work, manifest, bronze, silver))

    def extract(self, work: TableSync) -> str:
        """As the workflow does: in chunks where the plan says so."""
        plan = self.steps.open_window(work)
        if not plan.chunked:
            return self.steps.extract(work, plan, 1)
        read = self.steps.begin_chunks(work, plan, 1)
        for number in range(read.chunks):
            self.steps.extract_chunk(work, read.uri, number, 1)
        return self.steps.finish_chunks(work, read.uri, 1)

    def verify(self, table: str, level: VerifyLevel = "values") -> VerifyResult:
        return verify_table(self.steps, "shop", table, level)

    def source_rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return sorted(connection.execute(query.encode()).fetchall(), key=repr)

    def silver(self, table: str, columns: list[str], *, live: bool = True) -> list[tuple[Any, ...]]:
        """Silver's rows through a plain Delta reader, not through Headrace."""
        return self._rows("silver", table, columns, live)

    def silver_names(self, table: str) -> list[str]:
        return self._stored("silver", table).schema.names

    def bronze(self, table: str, columns: list[str]) -> list[tuple[Any, ...]]:
        return self._rows("bronze", table, columns, False)

    def _stored(self, layer: Layer, table: str) -> pa.Table:
        """A table's rows through a plain Delta reader, or a plain query where the files are out of reach."""
        lakehouse = self.steps.lakehouse
        id = TableId(layer=layer, connector="shop", table=table)
        if not isinstance(lakehouse, DatabricksLakehouse):
            return _read(DeltaTable(lakehouse.uri(id)))
        name = lakehouse.qualified_name(id)
        location = str(lakehouse.connection.client.tables.get(name).storage_location)
        if location.startswith("file://"):
            return DeltaTable(location.removeprefix("file://")).to_pyarrow_table()
        return pa.Table.from_batches(lakehouse.warehouse.stream(f"SELECT * FROM {name}"))

    def location(self, layer: Layer, table: str) -> str:
        """Where a plain Delta reader finds the table."""
        lakehouse, id = self.steps.lakehouse, TableId(layer=layer, connector="shop", table=table)
        if not isinstance(lakehouse, DatabricksLakehouse):
            return lakehouse.uri(id)
        found = lakehouse.connection.client.tables.get(lakehouse.qualified_name(id))
        return str(found.storage_location).removeprefix("file://")

    def staged_files(self) -> list[str]:
        """What lies in the staging area, of any table."""
        lakehouse = self.steps.lakehouse
        if isinstance(lakehouse, DatabricksLakehouse):
            found: list[str] = []
            folders = [lakehouse.staging_root]
            while folders:
                with contextlib.suppress(NotFound):
                    for entry in lakehouse.connection.client.files.list_directory_contents(folders.pop()):
                        (folders if entry.is_directory else found).append(str(entry.path))
            return found
        return [str(path) for path in (self.settings.home_path / "staging").rglob("*") if path.is_file()]

    def _rows(self, layer: Layer, table: str, columns: list[str], live: bool) -> list[tuple[Any, ...]]:
        stored = self._stored(layer, table).to_pylist()
        rows = [row for row in stored if row.get(STATE) is None and not (live and row.get(DELETED_AT) is not None)]
        return sorted((tuple(row[column] for column in columns) for row in rows), key=repr)


def _read(table: DeltaTable) -> pa.Table:
    """delta-rs has two readers: the one that gives Arrow's own types knows no deletion vectors."""
    if "deletionVectors" in (table.protocol().reader_features or ()):
        return pa.table(table.scan())
    return table.to_pyarrow_table()
