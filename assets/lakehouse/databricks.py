"""The Databricks engine: Unity Catalog tables, written by statements of a SQL warehouse from staged parts."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assets.errors import CommitConflictError, ConfigurationError, LakehouseError
from assets.failpoints import failpoint
from assets.lakehouse import databricks_sql as sql
from assets.lakehouse.data_files import fit
from assets.lakehouse.databricks_client import DatabricksConnection, MissingError, databricks_errors
from assets.lakehouse.databricks_sql import Statement
from assets.lakehouse.databricks_types import contract_type, databricks_type
from assets.lakehouse.interface import DELETED_AT, OP, Lakehouse, PartWriter, TableId, TableState
from assets.lakehouse.sql_warehouse import SqlWarehouse, StatementFailedError
from assets.lakehouse.staging import Staging
from assets.lakehouse.volume_storage import VolumePartWriter, VolumeStorage
from assets.naming import table_slug
from assets.sync import CommitInfo, Manifest, Part, Watermark

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.lakehouse.lakehouse_status import LakehouseStatus
    from assets.lakehouse.rehearsal import Rehearsal
    from assets.settings import Settings

KEPT_TAGS = 200
COMMIT_TRIES = 8
NO_TABLE = ("TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND", "NO_SUCH_CATALOG_EXCEPTION")
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")


@dataclass
class _Known:
    """A table as it was last read: its state, the rows, and the columns without the state's own."""

    state: TableState
    columns: dict[str, str]
    added: int = 0


class PlainStaging(Staging):
    """Folder names of plain characters only: the parts' paths stand in globs."""

    def folder(self, connector: str, table: str, run_group: str | None = None) -> str:
        folder = f"{self.root}/{connector}/{table_slug(table)}"
        return f"{folder}/{plain_name(run_group)}" if run_group else folder


def plain_name(text: str) -> str:
    if _SAFE.match(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:60].strip("_")
    return f"{readable}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class DatabricksLakehouse(Lakehouse):
    """Tables ``<catalog>.bronze.*`` and ``<catalog>.silver.*`` of one workspace.

    Args:
        connection: to the workspace.
        warehouse: what runs the statements.
        catalog: Unity Catalog catalog of the tables.
        staging: where parts and manifests are put, readable by the warehouse.
        prefix: of the schemas' names.
        volume: ``schema.volume`` to make at need; None where staging lies elsewhere.
    """

    def __init__(
        self,
        connection: DatabricksConnection,
        warehouse: SqlWarehouse,
        catalog: str,
        staging: Staging,
        *,
        volume: str | None,
        prefix: str = "",
    ) -> None:
        self.connection = connection
        self.warehouse = warehouse
        self.catalog = catalog
        self.volume = volume
        self.prefix = prefix
        self._staging = staging
        self._known: dict[TableId, _Known | None] = {}
        """Tables as they were last read; None: there was none."""
        self._prepared: set[str] = set()

    @classmethod
    def from_settings(cls, settings: Settings) -> DatabricksLakehouse:
        if not settings.databricks_warehouse_id:
            raise ConfigurationError("no SQL warehouse is set", remedy="Set HEADRACE_DATABRICKS_WAREHOUSE_ID.")
        if settings.databricks_volume.count(".") != 1:
            raise ConfigurationError(
                f"{settings.databricks_volume} names no volume",
                remedy="Set HEADRACE_DATABRICKS_VOLUME to SCHEMA.VOLUME.",
            )
        connection = DatabricksConnection(settings)
        warehouse = SqlWarehouse(connection, settings.databricks_warehouse_id, settings.databricks_statement_seconds)
        url = settings.staging_url or ""
        staging: Staging
        if url.startswith("s3://"):
            from assets.lakehouse.s3_storage import S3Storage

            staging = PlainStaging(S3Storage(settings), url.rstrip("/"))
        elif url.startswith("gs://"):
            from assets.lakehouse.gcs_storage import GcsStorage

            staging = PlainStaging(GcsStorage(settings), url.rstrip("/"))
        elif url:
            raise ConfigurationError(
                f"the warehouse cannot read parts staged in {url}",
                remedy="Leave HEADRACE_STAGING_URL out (a volume is used), or set it to s3:// or gs:// of an external "
                "location.",
            )
        else:
            storage = VolumeStorage(connection, settings.home_path / "scratch")
            place = settings.databricks_volume.replace(".", "/")
            staging = PlainStaging(storage, f"/Volumes/{settings.databricks_catalog}/{place}/staging")
        return cls(
            connection,
            warehouse,
            settings.databricks_catalog,
            staging,
            volume=None if url else settings.databricks_volume,
            prefix=settings.databricks_schema_prefix,
        )

    def initialise(self) -> list[str]:
        from assets.lakehouse.databricks_status import initialise

        return initialise(self)

    def examine(self) -> LakehouseStatus:
        from assets.lakehouse.databricks_status import examine

        return examine(self)

    def rehearsal(self) -> Rehearsal:
        from assets.lakehouse.databricks_rehearsal import DatabricksRehearsal

        return DatabricksRehearsal(self)

    @property
    def staging_root(self) -> str:
        return self._staging.root

    # names

    def _names(self, table: TableId) -> tuple[str, str, str]:
        return self.catalog, f"{self.prefix}{table.layer}", f"{table.connector}__{table_slug(table.table)}"

    def _quoted(self, table: TableId) -> str:
        return sql.name(*self._names(table))

    def uri(self, table: TableId) -> str:
        """The table's page in the Catalog Explorer."""
        return f"{self.connection.host}/explore/data/{'/'.join(self._names(table))}"

    def qualified_name(self, table: TableId) -> str:
        return ".".join(self._names(table))

    @property
    def schemas(self) -> list[str]:
        """Those of the tables, and the volume's."""
        found = [f"{self.prefix}{layer}" for layer in ("bronze", "silver")]
        return list(dict.fromkeys([*found, *([self.volume.split(".")[0]] if self.volume else [])]))

    def prepare(self, layer: str = "") -> None:
        """Make the schemas and the volume that are missing, once; that of another ``layer`` when it is written to.

        Raises:
            LakehouseError: the catalog is missing, or a grant is.
        """
        wanted = [*self.schemas, *([f"{self.prefix}{layer}"] if layer else [])]
        missing = [schema for schema in wanted if schema not in self._prepared]
        if not missing:
            return
        from databricks.sdk.service.catalog import VolumeType

        client = self.connection.client
        for schema in missing:
            full = f"{self.catalog}.{schema}"
            _make_missing(
                full,
                lambda full=full: client.schemas.get(full),
                lambda s=schema: client.schemas.create(s, self.catalog),
            )
        if self.volume and not self._prepared:
            schema, volume = self.volume.split(".")
            full = f"{self.catalog}.{schema}.{volume}"
            _make_missing(
                full,
                lambda: client.volumes.read(full),
                lambda: client.volumes.create(self.catalog, schema, volume, VolumeType.MANAGED),
            )
        self._prepared |= {*missing}

    # state

    def _read(self, table: TableId, tag: str | None = None) -> _Known | None:
        statement = sql.read_state(self._quoted(table), tag)
        try:
            rows = self.warehouse.run(statement.sql, statement.parameters)
        except StatementFailedError as error:
            if error.error_class in NO_TABLE:
                self._known[table] = None
                return None
            raise
        if not rows:
            raise LakehouseError(
                "the table exists, but holds no state of Headrace",
                where=self.qualified_name(table),
                remedy="Another program made it: rename it, or set another HEADRACE_DATABRICKS_CATALOG.",
            )
        state = stored_state(rows[0][0] or "{}", int(rows[0][1] or 0))
        known = _Known(state, {}, int(rows[0][2] or 0) if tag is not None else 0)
        self._known[table] = known
        return known

    def state(self, table: TableId) -> TableState | None:
        known = self._read(table)
        return known.state if known else None

    def refresh(self, tables: Sequence[TableId]) -> None:
        statement = sql.read_states([self._quoted(table) for table in tables])
        try:
            rows = self.warehouse.run(statement.sql)
        except StatementFailedError as error:
            if error.error_class not in NO_TABLE:
                raise
            rows = []
        found = {int(row[0] or 0): row[1:] for row in rows}
        for number, table in enumerate(tables):
            if number in found:
                text, total = found[number]
                self._known[table] = _Known(stored_state(text or "{}", int(total or 0)), {})
            else:  # one of them is missing, or no table of ours
                self._read(table)

    def known_state(self, table: TableId) -> TableState | None:
        known = self._known[table] if table in self._known else self._read(table)
        return known.state if known else None

    def _columns(self, table: TableId) -> dict[str, str]:
        """Column -> SQL type, from Unity Catalog, without the state's column."""
        where = self.qualified_name(table)
        try:
            with databricks_errors(where):
                found = self.connection.client.tables.get(where).columns or []
        except MissingError as error:
            raise LakehouseError("the table does not exist", where=where) from error
        return {str(c.name): str(c.type_text).upper() for c in found if c.name != sql.STATE}

    def schema(self, table: TableId) -> pa.Schema:
        import pyarrow as pa

        where = self.qualified_name(table)
        return pa.schema([pa.field(n, contract_type(kind, where)) for n, kind in self._columns(table).items()])

    # staging

    def part_writer(
        self, connector: str, table: str, run_group: str, attempt: int, stream: str, schema: pa.Schema
    ) -> PartWriter:
        self.prepare()
        return self._writer(
            f"{self._staging.folder(connector, table, run_group)}/{plain_name(stream)}-a{attempt}", schema
        )

    def _writer(self, folder: str, schema: pa.Schema) -> PartWriter:
        storage = self._staging.storage
        if isinstance(storage, VolumeStorage):
            storage.delete_folder(folder)  # an abandoned try under the same attempt number
            return VolumePartWriter(storage, folder, schema)
        return self._staging.writer(folder, schema)

    def _remove_staged(self, folder: str) -> None:
        self._staging.storage.delete_folder(folder)

    def write_manifest(self, manifest: Manifest) -> str:
        return self._staging.write_manifest(manifest)

    def read_manifest(self, uri: str) -> Manifest:
        return self._staging.read_manifest(uri)

    stages_notes = True

    def write_note(self, connector: str, table: str, run_group: str, name: str, text: str) -> str:
        return self._staging.write_note(connector, table, run_group, name, text)

    def read_note(self, uri: str) -> str | None:
        try:
            return self._staging.storage.read_text(uri)
        except FileNotFoundError:
            return None

    def clear_staging(self, connector: str, table: str, run_group: str | None = None) -> None:
        self._staging.clear(connector, table, run_group)

    def read_parts(self, parts: Sequence[Part], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        for part in parts:
            with self._staging.storage.open_input(part.uri) as opened, pq.ParquetFile(opened) as file:
                yield from file.iter_batches(columns=list(columns) if columns is not None else None)

    # commits

    def _commit(
        self,
        table: TableId,
        tag: str,
        watermark: Watermark | None,
        follows: int | None,
        prepare: Callable[[_Known | None, str], Statement],
        earlier: Sequence[str] = (),
    ) -> CommitInfo:
        """Run the statement that ``prepare`` makes for the table as it was last read, until it is in or was in before.

        What was last read may be old: then the statement's guard refuses, and the table is read again.
        """
        known, before = self._known.get(table), 0
        for number in range(COMMIT_TRIES):
            if table not in self._known or number:
                known = self._read(table)
            if known and tag in known.state.tags:
                return CommitInfo(version=known.state.version, rows_total=known.state.rows, repeated=True)
            before = known.state.rows if known else 0
            statement = prepare(known, self._next_state(known, tag, watermark, follows, earlier))
            failpoint(f"during_{table.layer}_commit")
            try:
                self.warehouse.run(statement.sql, statement.parameters)
                break
            except StatementFailedError as error:
                if sql.KEY_NOT_UNIQUE in error.message:
                    raise _not_unique(table, error.message) from error
                moved = sql.STATE_MOVED in error.message or "ALREADY_EXISTS" in error.error_class
                dropped = error.error_class in NO_TABLE and known is not None and self._read(table) is None
                if not (moved or dropped or error.conflict):
                    raise
                time.sleep(random.uniform(0, 0.1 * 2**number))
        else:
            raise CommitConflictError(
                "other writers committed first, again and again", where=self.qualified_name(table)
            )
        after = self._read(table, tag)
        if after is None or tag not in after.state.tags:
            raise CommitConflictError("the commit is gone: the table was changed", where=self.qualified_name(table))
        return CommitInfo(
            version=after.state.version,
            rows_added=after.added,
            rows_removed=before + after.added - after.state.rows,
            rows_total=after.state.rows,
        )

    def _next_state(
        self,
        known: _Known | None,
        tag: str,
        watermark: Watermark | None,
        follows: int | None,
        earlier: Sequence[str] = (),
    ) -> str:
        state = known.state if known else None
        mark = watermark if watermark is not None else state.watermark if state else None
        return sql.state_text(
            [*dict.fromkeys([*(state.tags if state else ()), *earlier]), tag][-KEPT_TAGS:],
            mark.model_dump_json() if mark else None,
            follows if follows is not None else state.follows if state else None,
            state.version + 2 if state else 1,
        )

    def _types(self, schema: pa.Schema, where: str) -> dict[str, str]:
        return {field.name: databricks_type(field.type, f"{where}, column {field.name}") for field in schema}

    def _merged_columns(self, table: TableId, wanted: dict[str, str]) -> dict[str, str]:
        """The table's columns after an append or a merge: its own, new ones at the end; a changed type is refused."""
        where = f"{table.connector}/{table.table}"
        current = self._columns(table)
        for column, kind in wanted.items():
            if column in current and current[column].replace(" ", "") != kind:
                raise LakehouseError(
                    f"column {column} was {current[column]} and is now {kind}",
                    where=where,
                    remedy=f"Run: headrace sync {table.connector} {table.table} --mode full",
                )
        merged = {**current, **{column: kind for column, kind in wanted.items() if column not in current}}
        _refuse_twins(merged, where)
        return merged

    def commit(
        self,
        table: TableId,
        parts: Sequence[Part],
        schema: pa.Schema,
        *,
        tag: str,
        replace: bool,
        watermark: Watermark | None = None,
        follows: int | None = None,
        base_tag: str | None = None,  # only for small tables, which this engine does not keep
        earlier: Sequence[str] = (),
    ) -> CommitInfo:
        """``earlier``: tags of the commits that a copied table's content comes from."""
        self.prepare(table.layer)
        where = f"{table.connector}/{table.table}"
        given, uris, target = self._types(schema, where), [part.uri for part in parts], self._quoted(table)
        _refuse_twins(given, where)

        def prepare(known: _Known | None, state: str) -> Statement:
            if known is None or replace:
                return self._swap(table, known, given, sql.rows_from_parts(uris, given), (), tag, state)
            columns = self._merged_columns(table, given)
            rows = sql.rows_from_parts(uris, columns, given)
            return sql.append(target, columns, rows, expected=_last_tag(known), tag=tag, state=state)

        done = self._commit(table, tag, watermark, follows, prepare, earlier)
        return done.model_copy(update={"bytes_added": sum(part.bytes for part in parts)})

    def _swap(
        self,
        table: TableId,
        known: _Known | None,
        columns: dict[str, str],
        rows: str | None,
        key: Sequence[str],
        tag: str,
        state: str,
    ) -> Statement:
        target, source = self._quoted(table), f"{table.connector}/{table.table}"
        if known is None:
            return sql.create_table(target, columns, rows, key=key, tag=tag, state=state, source=source)
        expected = _last_tag(known)
        return sql.replace_table(target, columns, rows, key=key, expected=expected, tag=tag, state=state, source=source)

    def upsert(
        self,
        table: TableId,
        changes: Iterator[pa.RecordBatch],
        deletes: Iterator[pa.RecordBatch],
        schema: pa.Schema,
        *,
        key: Sequence[str],
        tag: str,
        follows: int | None = None,
        parts: Sequence[Part] = (),
    ) -> CommitInfo:
        """Stages both streams and merges them: rows that are in Bronze already are merged by `load_run` instead."""
        self.prepare(table.layer)
        where = f"{table.connector}/{table.table}"
        given = self._types(schema, where)
        folder = f"{self._staging.folder(table.connector, table.table, tag)}/merge-{table.layer}"
        queries, size = [], 0
        for op, batches in (("u", changes), ("d", deletes)):
            with self._writer(f"{folder}-{op}", schema) as writer:
                for batch in batches:
                    writer.write(fit(batch, schema))
            size += sum(part.bytes for part in writer.parts)
            if query := sql.rows_from_parts([part.uri for part in writer.parts], given):
                queries.append(f"SELECT *, '{op}' AS {sql.name(OP)} FROM (\n{query}\n) AS {op}")

        def prepare(known: _Known | None, state: str) -> Statement:
            if known is None:
                raise LakehouseError("the table does not exist", where=where)
            merged = self._merged_columns(table, given)
            gone = {c: kind for c, kind in merged.items() if c not in given}
            nulls = "".join(f", CAST(NULL AS {kind}) AS {sql.name(c)}" for c, kind in gone.items())
            union = "\nUNION ALL\n".join(queries)
            rows = f"SELECT *{nulls} FROM (\n{union}\n) AS a" if queries else None
            expected = _last_tag(known)
            return sql.upsert(
                self._quoted(table), merged, rows, key=key, expected=expected, tag=tag, state=state, closes=True
            )

        try:
            if self.state(table) is None:
                self._commit(table, f"{tag}/empty", None, None, lambda _, s: self._swap(
                    table, None, given, None, key, f"{tag}/empty", s))  # fmt: skip
            done = self._commit(table, tag, None, follows, prepare)
        finally:
            for op in "ud":
                self._remove_staged(f"{folder}-{op}")
        return done.model_copy(update={"bytes_added": size})

    def load_run(
        self,
        silver: TableId,
        bronze: TableId,
        schema: pa.Schema,
        *,
        tag: str,
        names: Mapping[str, str],
        key: Sequence[str],
        replace: bool,
        follows: int | None = None,
    ) -> CommitInfo | None:
        where = f"{silver.connector}/{silver.table}"
        given, source = self._types(schema, where), self._quoted(bronze)
        bronze_of = {s: b for b, s in names.items()} | {c: c for c in given if c.startswith("_headrace_")}
        bronze_of.pop(DELETED_AT, None)

        def prepare(known: _Known | None, state: str) -> Statement:
            if known is None or replace:
                live = f" AND {sql.name(OP)} = 'u'"
                rows = sql.rows_from_bronze(source, tag, given, bronze_of, quoted=True) + live
                return self._swap(silver, known, given, rows, key, tag, state)
            merged = self._merged_columns(silver, given)
            data = {c: kind for c, kind in merged.items() if c != DELETED_AT} | {OP: "STRING"}
            rows = sql.rows_from_bronze(source, tag, data, {**bronze_of, OP: OP}, quoted=False)
            return sql.upsert(
                self._quoted(silver),
                merged,
                rows,
                key=key,
                expected=_last_tag(known),
                tag=tag,
                state=state,
                binds={"tag": tag},
            )

        return self._commit(silver, tag, None, follows, prepare)

    # reading

    @contextmanager
    def _stream(
        self, table: TableId, columns: Sequence[str] | None, *, live: bool = False, tag: str | None = None
    ) -> Iterator[pa.RecordBatchReader]:
        import pyarrow as pa

        schema = self.schema(table)
        wanted = list(columns) if columns is not None else schema.names
        target = pa.schema([schema.field(column) for column in wanted])
        filtered = live and DELETED_AT in schema.names
        statement = sql.select_rows(self._quoted(table), wanted, live=filtered, tag=tag)
        batches = self.warehouse.stream(statement.sql, statement.parameters)
        yield pa.RecordBatchReader.from_batches(target, (fit(batch, target) for batch in batches))

    @contextmanager
    def scan(
        self, table: TableId, columns: Sequence[str] | None = None, *, live: bool = True
    ) -> Iterator[pa.RecordBatchReader]:
        with self._stream(table, columns, live=live) as reader:
            yield reader

    @contextmanager
    def rows_of_run(self, table: TableId, tag: str) -> Iterator[pa.RecordBatchReader]:
        with self._stream(table, None, tag=tag) as reader:
            yield reader

    def count_live(self, table: TableId) -> int:
        return int(self.warehouse.run(sql.count_live(self._quoted(table)).sql)[0][0] or 0)

    def drop(self, table: TableId) -> None:
        self._known.pop(table, None)
        self.warehouse.run(sql.drop_table(self._quoted(table)).sql)


def stored_state(text: str, rows: int) -> TableState:
    """What a state row's JSON says."""
    stored = json.loads(text)
    return TableState(
        version=stored["commits"] - 1,  # the first is 0, as in Delta's own log
        rows=rows,
        tags=tuple(stored["tags"]),
        watermark=Watermark.model_validate(stored["watermark"]) if stored["watermark"] else None,
        follows=stored["follows"],
    )


def _last_tag(known: _Known) -> str:
    """What the state row's ``_headrace_run`` holds: the tag of the last commit."""
    return known.state.tags[-1]


def _make_missing(full_name: str, look: Callable[[], object], make: Callable[[], object]) -> None:
    from databricks.sdk.errors import AlreadyExists, BadRequest

    try:
        with databricks_errors(full_name):
            look()
            return
    except MissingError:
        pass
    with databricks_errors(full_name):
        try:
            make()
        except (AlreadyExists, BadRequest):
            look()  # another worker made it meanwhile; what else was wrong, this says again


def _refuse_twins(columns: Mapping[str, str], where: str) -> None:
    lowered = [column.lower() for column in columns]
    twins = sorted(column for column in columns if lowered.count(column.lower()) > 1)
    if twins:
        raise LakehouseError(f"Delta holds no names that differ only by case: {', '.join(twins)}", where=where)


def _not_unique(table: TableId, message: str) -> LakehouseError:
    found = re.search(rf"{sql.KEY_NOT_UNIQUE} (\{{.*?\}})", message, re.S)
    example = f", for example {found[1]}" if found else ""
    return LakehouseError(
        f"the key is not unique in the source{example}",
        where=f"{table.connector}/{table.table}",
        remedy="Name columns that identify a row with --key, or sync with --mode full.",
    )
