"""Databricks SQL, as far as Headrace uses it: pysail for queries and merges, delta-rs for what pysail lacks."""

from __future__ import annotations

import glob
import itertools
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema, write_deltalake

from tests.standins.databricks import sql_text
from tests.standins.databricks.errors import ApiError, SqlError
from tests.standins.databricks.merges import merge
from tests.standins.databricks.other_loaders import LoaderSql, inserted_rows, nullable
from tests.standins.databricks.sql_text import NAME, closing, literal, parts_of, replace_calls, replace_names
from tests.standins.databricks.unity_catalog import UnityCatalog

_CLUSTERED = re.compile(r"\s*CLUSTER\s+BY\s*", re.I)
MAX_CLUSTER_COLUMNS = 4
NO_ROWS = pa.table({})


class SqlEngine:
    """One warehouse's SQL. Statements that write run one after the other; queries run beside them."""

    def __init__(self, catalog: UnityCatalog) -> None:
        os.environ["SAIL_CATALOG__LIST"] = '[{name="sail", type="memory", initial_database=["default"]}]'
        os.environ["SAIL_CATALOG__DEFAULT_CATALOG"] = "sail"
        os.environ["SAIL_SPARK__SESSION_TIMEOUT_SECS"] = "86400"  # by default an idle session ends after minutes
        os.environ.setdefault("RUST_LOG", "error")
        from pysail.spark import SparkConnectServer
        from pyspark.sql import SparkSession

        self._catalog = catalog
        self._server = SparkConnectServer()
        self._server.start()
        address = self._server.listening_address
        assert address is not None
        host, port = address
        # `remote` is of the Connect client; the name is made by its type checkers' stub of classic Spark too
        builder: Any = SparkSession.builder
        self._spark: Any = builder.remote(f"sc://{host}:{port}").getOrCreate()
        self._writing = threading.Lock()
        self._loaders = LoaderSql(catalog)
        self.external: list[dict[str, str]] = []
        """External locations: url (``s3://bucket/prefix`` or ``gs://``), endpoint, key and secret (of S3 only)."""

    def close(self) -> None:
        """Else the client waits at the interpreter's end for a server that has ended before."""
        self._spark.client.close()

    def execute(
        self,
        statement: str,
        default: tuple[str, str],
        parameters: list[dict[str, Any]],
        before_commit: Callable[[], None],
    ) -> pa.Table:
        """Run one statement.

        Args:
            default: catalog and schema of unqualified names.
            before_commit: called when a statement that writes is about to.

        Raises:
            SqlError: it failed; nothing was changed.
        """
        sql = statement.strip().rstrip(";").strip()
        verb = re.match(r"[A-Za-z]+", sql)
        kind = verb[0].upper() if verb else ""
        if kind in ("CREATE", "ALTER") and sql_text.has_markers(sql):
            # docs.databricks.com/sql/language-manual/sql-ref-parameter-marker: not in DDL (before runtime 18)
            raise SqlError(
                "[UNSUPPORTED_FEATURE.PARAMETER_MARKER_IN_UNEXPECTED_STATEMENT] The feature is not supported: "
                f"Parameter markers are not allowed in {kind}. SQLSTATE: 0A000"
            )
        sql = sql_text.bind(sql, parameters)
        try:
            if kind in ("SELECT", "WITH", "VALUES", "FROM"):
                return self.query(sql, default)
            with self._writing:
                before_commit()
                return self._write(kind, sql, default)
        except (SqlError, ApiError):
            raise
        except Exception as error:  # pysail's and delta-rs' own
            raise SqlError(_worded(str(error))) from error

    def query(self, sql: str, default: tuple[str, str]) -> pa.Table:
        found = self._loaders.query(sql)
        return plain(found if found is not None else self._spark.sql(self._resolved(sql, default)).toArrow())

    def _resolved(self, sql: str, default: tuple[str, str]) -> str:
        sql = replace_names(sql, self._catalog.known_tables(), default)
        return replace_calls(sql, "read_files", self._read_files)

    def _read_files(self, arguments: str) -> str:
        path, *options = sql_text.split_list(arguments)
        named = {key.strip().lower(): value.strip() for key, _, value in (o.partition("=>") for o in options)}
        if named.get("format", "").strip("'").lower() != "parquet":
            raise SqlError("[UNSUPPORTED_FEATURE] the stand-in reads parquet only")
        address = sql_text.unescaped(path)
        files = [file for pattern in _braces(address) for file in self._files(pattern)]
        if not files:
            raise SqlError(f"[PATH_NOT_FOUND] Path does not exist: {address}. SQLSTATE: 42K03")
        fields: list[list[str]] = []
        if "schema" in named:
            fields = [item.rsplit(" ", 1) for item in sql_text.split_list(sql_text.unescaped(named["schema"]))]
        return "(" + " UNION ALL ".join(self._read_file(file, fields) for file in files) + ")"

    @staticmethod
    def _read_file(file: str, fields: list[list[str]]) -> str:
        """As Spark reads Parquet under a given schema: columns by name, those that the file lacks are NULL."""
        there = {name.lower() for name in pq.read_schema(file).names}
        columns = ", ".join(
            f"CAST({name if parts_of(name)[0].lower() in there else 'NULL'} AS {kind}) AS {name}"
            for name, kind in fields
        )
        return f"SELECT {columns or '*'} FROM parquet.`{file}`"

    def _external(self, pattern: str) -> str:
        """A local copy of what an external location holds at a path. The location has the keys, no statement does."""
        place = next((p for p in self.external if pattern.startswith(f"{p['url']}/")), None)
        if place is None:
            raise SqlError(f"[PERMISSION_DENIED] no external location holds {pattern}. SQLSTATE: 42501")
        copies = self._catalog.folder / "external"
        address = pattern.partition("://")[2]
        content = (_s3_object if pattern.startswith("s3://") else _gcs_object)(place, address)
        if content is not None:
            (copies / address).parent.mkdir(parents=True, exist_ok=True)
            (copies / address).write_bytes(content)
        return str(copies / address)

    def _files(self, pattern: str) -> list[str]:
        if pattern.startswith(("s3://", "gs://")):
            pattern = self._external(pattern)
        elif pattern.startswith("/Volumes/"):
            pattern = str(self._catalog.volume_path(pattern))
        elif pattern.startswith("file://"):
            pattern = pattern.removeprefix("file://")
        else:
            raise SqlError(f"[UNSUPPORTED_FEATURE] the stand-in reads volumes, s3:// and gs:// only, not {pattern}")
        if os.path.isdir(pattern):
            pattern += "/**/*.parquet"
        return sorted(file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file))

    # statements that change something

    def _write(self, kind: str, sql: str, default: tuple[str, str]) -> pa.Table:
        for pattern, method in _COMMANDS:
            if match := re.match(pattern, sql, re.I | re.S):
                return getattr(self, method)(sql, match, default)
        found = self._loaders.write(sql, lambda name: self._location(name, default))
        if found is not None:
            return found
        if kind in ("MERGE", "INSERT", "UPDATE", "DELETE"):
            return self._change(kind, sql, default)
        if kind in ("SHOW", "EXPLAIN", "SET", "USE"):
            return self.query(sql, default)
        raise SqlError(f"[PARSE_SYNTAX_ERROR] Syntax error at or near '{kind}'. SQLSTATE: 42601")

    def _key(self, name: str, default: tuple[str, str]) -> tuple[str, ...]:
        parts = [part.lower() for part in parts_of(name)]
        return (*default[: 3 - len(parts)], *parts)

    def _location(self, name: str, default: tuple[str, str]) -> str:
        key = self._key(name, default)
        location = self._catalog.table_location(key)
        if location is None:
            raise SqlError(
                f"[TABLE_OR_VIEW_NOT_FOUND] The table or view `{'`.`'.join(key)}` cannot be found. SQLSTATE: 42P01"
            )
        return location

    def _columns(self, name: str, default: tuple[str, str]) -> dict[str, str]:
        table = self._catalog.table(".".join(self._key(name, default)))
        return {column["name"]: column["type_text"] for column in table["columns"]}

    def _create_namespace(self, sql: str, match: re.Match[str], default: tuple[str, str]) -> pa.Table:
        kind, exists_ok, parts = match[1].upper(), bool(match[2]), parts_of(match[3])
        try:
            if kind == "CATALOG":
                self._catalog.create_catalog(parts[0], exists_ok=exists_ok)
            elif kind == "VOLUME":
                catalog, schema, name = (*default[: 3 - len(parts)], *parts)
                self._catalog.create_volume(catalog, schema, name, exists_ok=exists_ok)
            else:
                catalog, name = parts if len(parts) == 2 else (default[0], parts[0])
                self._catalog.create_schema(catalog, name, exists_ok=exists_ok)
        except ApiError as error:
            raise SqlError(f"[{error.code}] {error.message}") from error
        return NO_ROWS

    def _create_table(self, sql: str, match: re.Match[str], default: tuple[str, str]) -> pa.Table:
        replace, exists_ok, name, rest = bool(match[1]), bool(match[2]), match[3], match[4]
        key = self._key(name, default)
        if key[1] not in self._catalog.catalogs.get(key[0], []):
            raise SqlError(f"[SCHEMA_NOT_FOUND] The schema `{key[0]}`.`{key[1]}` cannot be found. SQLSTATE: 42704")
        location = self._catalog.table_location(key)
        if location and not replace:
            if exists_ok:
                return NO_ROWS
            raise SqlError(f"[TABLE_OR_VIEW_ALREADY_EXISTS] {name} already exists. SQLSTATE: 42P07")
        facts, columns, query = _clauses(rest)
        if query is not None:
            content = self.query(query if location else f"SELECT * FROM ({query}) LIMIT 0", default)
        elif columns is not None:
            fields = ", ".join(
                f"CAST(NULL AS {nullable(kind)}) AS {column}" for column, kind in (c.split(None, 1) for c in columns)
            )
            content = self.query(f"SELECT {fields}", default).slice(0, 0)
        else:
            raise SqlError("[PARSE_SYNTAX_ERROR] a table needs columns or a query. SQLSTATE: 42601")
        names = {column.lower() for column in content.column_names}
        if len(names) < content.num_columns:
            raise SqlError("[COLUMN_ALREADY_EXISTS] columns that differ only by case. SQLSTATE: 42711")
        clustered = facts["cluster"]
        if len(clustered) > MAX_CLUSTER_COLUMNS or not {c.lower() for c in clustered} <= names:
            raise SqlError(f"[DELTA_CLUSTER_BY_INVALID_COLUMNS] CLUSTER BY {clustered}. SQLSTATE: 54000")
        if any(set(" ,;{}()\n\t=") & set(column) for column in content.column_names):
            raise SqlError("[DELTA_INVALID_CHARACTERS_IN_COLUMN_NAMES] Found invalid characters in a column name.")
        if location:
            write_deltalake(location, content, mode="overwrite", schema_mode="overwrite")
            count = content.num_rows
        else:
            location = str(self._catalog.folder / "tables" / Path(*key[:2]) / uuid.uuid4().hex)
            write_deltalake(location, content)
            count = self._fill(location, query, default) if query else 0
        self._catalog.add_table(key, location=location, created_at=int(time.time() * 1000), **facts)
        return _counts(num_affected_rows=count, num_inserted_rows=count)

    def _fill(self, location: str, query: str, default: tuple[str, str]) -> int:
        """Rows of a new table, written by pysail itself: through Arrow it takes three times as long."""
        self._spark.sql(self._resolved(query, default)).write.format("delta").mode("append").save(location)
        return DeltaTable(location).count()

    def _drop(self, sql: str, match: re.Match[str], default: tuple[str, str]) -> pa.Table:
        if not match[1] or self._catalog.table_location(self._key(match[2], default)):
            self._location(match[2], default)
            self._catalog.drop_table(self._key(match[2], default))
        return NO_ROWS

    def _alter(self, sql: str, match: re.Match[str], default: tuple[str, str]) -> pa.Table:
        location, rest = self._location(match[1], default), match[2].strip()
        facts = self._catalog.tables[".".join(self._key(match[1], default))]
        if found := re.match(r"ADD\s+COLUMNS?\s*\((.*)\)\Z", rest, re.I | re.S):
            self._add_columns(location, [c.split(None, 1) for c in sql_text.split_list(found[1])])
        elif found := re.match(r"SET\s+TBLPROPERTIES\s*\((.*)\)\Z", rest, re.I | re.S):
            facts["properties"] |= _properties(found[1])
        elif _CLUSTERED.match(rest):
            facts["cluster"] = _clauses(rest)[0]["cluster"]
        elif found := re.match(rf"ALTER\s+COLUMN\s+({NAME})\s+TYPE\s+(.*)\Z", rest, re.I | re.S):
            self._widen(location, parts_of(found[1])[0], found[2])
        else:
            raise SqlError(f"[PARSE_SYNTAX_ERROR] the stand-in has no ALTER TABLE ... {rest[:40]}. SQLSTATE: 42601")
        self._catalog.save()
        return NO_ROWS

    def _widen(self, location: str, column: str, kind: str) -> None:
        """A rewrite: delta-rs reads no table with Databricks' type widening."""
        table = DeltaTable(location)
        columns = ", ".join(
            f"CAST(`{f.name}` AS {kind}) AS `{f.name}`" if f.name.lower() == column.lower() else f"`{f.name}`"
            for f in table.schema().fields
        )
        content = plain(self._spark.sql(f"SELECT {columns} FROM delta.`{location}`").toArrow())
        write_deltalake(table, content, mode="overwrite", schema_mode="overwrite")

    def _add_columns(self, location: str, columns: list[list[str]]) -> None:
        fields = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in columns)
        schema = Schema.from_arrow(plain(self._spark.sql(f"SELECT {fields}").toArrow()).schema)
        DeltaTable(location).alter.add_columns(schema.fields)

    def _describe(self, sql: str, match: re.Match[str], default: tuple[str, str]) -> pa.Table:
        table = DeltaTable(self._location(match[2], default))
        if match[1].upper() == "DETAIL":
            actions = pa.table(table.get_add_actions(flatten=True))
            size = sum(actions.column("size_bytes").to_pylist())
            return pa.table({"format": ["delta"], "numFiles": [actions.num_rows], "sizeInBytes": [size]})
        entries = table.history(int(match[3]) if match[3] else None)
        metrics = [{str(k): str(v) for k, v in (e.get("operationMetrics") or {}).items()} for e in entries]
        return pa.table(
            {
                "version": pa.array([e["version"] for e in entries], pa.int64()),
                "timestamp": pa.array([e["timestamp"] for e in entries], pa.timestamp("ms", "UTC")),
                "operation": [str(e.get("operation")) for e in entries],
                "operationMetrics": pa.array([list(m.items()) for m in metrics], pa.map_(pa.string(), pa.string())),
            }
        )

    def _maintain(self, sql: str, match: re.Match[str], default: tuple[str, str]) -> pa.Table:
        table = DeltaTable(self._location(match[2], default))
        if match[1].upper() == "OPTIMIZE":
            table.optimize.compact()
        return NO_ROWS

    def _ignore(self, sql: str, match: re.Match[str], default: tuple[str, str]) -> pa.Table:
        return NO_ROWS

    def _change(self, kind: str, sql: str, default: tuple[str, str]) -> pa.Table:
        found = re.match(rf"(?:MERGE(?:\s+WITH\s+SCHEMA\s+EVOLUTION)?\s+INTO|INSERT\s+(?:INTO|OVERWRITE)(?:\s+TABLE)?"
                         rf"|UPDATE|DELETE\s+FROM)\s+({NAME})", sql, re.I)  # fmt: skip
        if found is None:
            raise SqlError(f"[PARSE_SYNTAX_ERROR] Syntax error at or near '{kind}'. SQLSTATE: 42601")
        location = self._location(found[1], default)
        if kind == "INSERT" and (rows := inserted_rows(sql, lambda name: self._columns(name, default))):
            content = self.query(rows, default)
            write_deltalake(location, content, mode="append")
            return _counts(num_affected_rows=content.num_rows, num_inserted_rows=content.num_rows)
        if kind == "MERGE" and re.match(r"MERGE\s+WITH\s+SCHEMA\s+EVOLUTION", sql, re.I):
            self._evolve(location, sql, default)
            sql = re.sub(r"\AMERGE\s+WITH\s+SCHEMA\s+EVOLUTION", "MERGE", sql, flags=re.I)
        for _ in range(3):
            try:
                resolved = self._resolved(sql, default)
                if kind == "MERGE":
                    merge(self._spark, resolved, location, self._catalog.folder / "scratch")
                else:
                    self._spark.sql(resolved).toArrow()
                break
            except Exception as error:
                if "Failed to commit transaction" not in str(error):
                    raise
        (entry,) = DeltaTable(location).history(1)
        metrics = entry.get("operationMetrics") or {}
        inserted, updated = int(metrics.get("numTargetRowsInserted", 0)), int(metrics.get("numTargetRowsUpdated", 0))
        deleted = int(metrics.get("numTargetRowsDeleted", metrics.get("numDeletedRows", 0)))
        if kind == "INSERT":
            inserted = int(metrics.get("numOutputRows", metrics.get("num_added_rows", 0)))
        return _counts(
            num_affected_rows=inserted + updated + deleted,
            num_updated_rows=updated,
            num_deleted_rows=deleted,
            num_inserted_rows=inserted,
        )

    def _evolve(self, location: str, sql: str, default: tuple[str, str]) -> None:
        """Add the columns that the merge inserts and the table lacks: pysail evolves for ``*`` only.

        Databricks does it in the merge's own commit; here it is a commit before.
        """
        using = re.search(r"\bUSING\s*\(", sql, re.I)
        inserted = re.search(r"\bTHEN\s+INSERT\s*\(", sql, re.I)
        if using is None or inserted is None:
            return
        source = sql[using.end() : closing(sql, using.end() - 1)]
        columns = sql_text.split_list(sql[inserted.end() : closing(sql, inserted.end() - 1)])
        present = {field.name.lower() for field in DeltaTable(location).schema().fields}
        missing = {name for c in columns if (name := parts_of(c)[-1]).lower() not in present}
        if not missing:
            return
        offered = plain(self._spark.sql(self._resolved(f"SELECT * FROM ({source}) LIMIT 0", default)).toArrow()).schema
        fields = [field.with_nullable(True) for field in offered if field.name in missing]
        DeltaTable(location).alter.add_columns(Schema.from_arrow(pa.schema(fields)).fields)


_COMMANDS = (
    (rf"CREATE\s+(CATALOG|SCHEMA|DATABASE|VOLUME)\s+(IF\s+NOT\s+EXISTS\s+)?({NAME})", "_create_namespace"),
    (rf"CREATE\s+(OR\s+REPLACE\s+)?TABLE\s+(IF\s+NOT\s+EXISTS\s+)?({NAME})(.*)\Z", "_create_table"),
    (rf"DROP\s+TABLE\s+(IF\s+EXISTS\s+)?({NAME})", "_drop"),
    (rf"ALTER\s+TABLE\s+({NAME})(.*)\Z", "_alter"),
    (rf"DESCRIBE\s+(HISTORY|DETAIL)\s+({NAME})(?:\s+LIMIT\s+(\d+))?", "_describe"),
    (rf"(OPTIMIZE|VACUUM)\s+({NAME})", "_maintain"),
    (r"(COMMENT\s+ON|GRANT|REVOKE|ANALYZE)\b", "_ignore"),
)


def _s3_object(place: dict[str, str], address: str) -> bytes | None:
    from pyarrow import fs

    scheme, _, host = place["endpoint"].partition("://")
    store = fs.S3FileSystem(
        access_key=place["key"],
        secret_key=place["secret"],
        endpoint_override=host,
        scheme=scheme,
        region="us-east-1",
    )
    if store.get_file_info(address).type != fs.FileType.File:
        return None
    with store.open_input_stream(address) as found:
        return found.read()


def _gcs_object(place: dict[str, str], address: str) -> bytes | None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    bucket, _, name = address.partition("/")
    options = {"api_endpoint": place["endpoint"]}
    client = storage.Client(project="standin", credentials=AnonymousCredentials(), client_options=options)
    found = client.bucket(bucket).get_blob(name)
    return found.download_as_bytes() if found else None


def _braces(pattern: str) -> list[str]:
    """``a{b,c}`` -> ``["ab", "ac"]``."""
    pieces = [part.split(",") if i % 2 else [part] for i, part in enumerate(re.split(r"\{([^{}]*)\}", pattern))]
    return ["".join(choice) for choice in itertools.product(*pieces)]


def _properties(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in sql_text.split_list(text))
    return {sql_text.unescaped(key.strip()): sql_text.unescaped(value.strip()) for key, _, value in pairs}


def _clauses(rest: str) -> tuple[dict[str, Any], list[str] | None, str | None]:
    """Read the clauses between a table's name and its query: facts, column definitions, the query."""
    facts: dict[str, Any] = {"cluster": [], "properties": {}}
    columns = None
    rest = rest.strip()
    while rest:
        if found := re.match(r"AS\s+(?=\(|SELECT|WITH|VALUES)", rest, re.I):
            return facts, columns, rest[found.end() :]
        if rest.startswith("("):
            end = closing(rest, 0)
            columns, rest = sql_text.split_list(rest[1:end]), rest[end + 1 :].strip()
        elif found := re.match(r"(USING\s+DELTA|CLUSTER\s+BY\s+(AUTO|NONE))\b", rest, re.I):
            rest = rest[found.end() :].strip()
        elif found := re.match(r"(CLUSTER\s+BY|TBLPROPERTIES)\s*\(", rest, re.I):
            end = closing(rest, found.end() - 1)
            inner = rest[found.end() : end]
            if found[1].upper().startswith("CLUSTER"):
                facts["cluster"] = [parts_of(item)[0] for item in sql_text.split_list(inner)]
            else:
                facts["properties"] = _properties(inner)
            rest = rest[end + 1 :].strip()
        elif found := re.match(r"COMMENT\s+'(?:[^'\\]|\\.)*'", rest, re.I | re.S):
            rest = rest[found.end() :].strip()
        else:
            raise SqlError(f"[PARSE_SYNTAX_ERROR] Syntax error at or near '{rest[:30]}'. SQLSTATE: 42601")
    return facts, columns, None


def _counts(**values: int) -> pa.Table:
    return pa.table({name: pa.array([value], pa.int64()) for name, value in values.items()})


def plain(table: pa.Table) -> pa.Table:
    """Arrow types as the service sends them: no views, no large types, everything nullable."""

    def kind(given: pa.DataType) -> pa.DataType:
        if pa.types.is_string_view(given) or pa.types.is_large_string(given):
            return pa.string()
        if pa.types.is_binary_view(given) or pa.types.is_large_binary(given):
            return pa.binary()
        if pa.types.is_timestamp(given) and given.tz:
            return pa.timestamp("us", "UTC")
        return given

    schema = pa.schema([pa.field(f.name, kind(f.type), nullable=True) for f in table.schema])
    return table.cast(schema)


def _worded(text: str) -> str:
    """pysail's message under the error class that Databricks gives."""
    if "HEADRACE_" in text:
        return f"[USER_RAISED_EXCEPTION] {text} SQLSTATE: P0001"
    if "TABLE_OR_VIEW_NOT_FOUND" in text:
        return f"[TABLE_OR_VIEW_NOT_FOUND] {text} SQLSTATE: 42P01"
    return text if text.startswith("[") else f"[STANDIN_SQL_ERROR] {text}"


__all__ = ["SqlEngine", "literal", "plain"]
