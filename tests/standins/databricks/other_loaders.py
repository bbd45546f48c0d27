"""What other loaders send and Headrace does not: sessions, PUT, REMOVE, COPY INTO, INFORMATION_SCHEMA, INSERT columns.

For ``bench/databricks_load.py``: dlt's destination through databricks-sql-connector, whose shapes these are.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake

from tests.standins.databricks.errors import ApiError, SqlError
from tests.standins.databricks.sql_text import NAME, closing, parts_of, split_list, unescaped
from tests.standins.databricks.unity_catalog import UnityCatalog

VOLUME_LINKS = "/volume-links"


class Sessions:
    """SQL sessions: the catalog and schema of unqualified names."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, str]] = {}

    def open(self, body: dict[str, Any]) -> dict[str, str]:
        id = str(uuid.uuid4())
        self._open[id] = (str(body.get("catalog") or "main").lower(), str(body.get("schema") or "default").lower())
        return {"session_id": id}

    def close(self, id: str) -> dict[str, str]:
        self._open.pop(id, None)
        return {}

    def names(self, body: dict[str, Any]) -> tuple[str, str]:
        """What unqualified names of a statement stand under."""
        given = body.get("session_id")
        if given and given not in self._open:
            raise ApiError(404, "NOT_FOUND", f"session {given} does not exist")
        default = self._open[given] if given else ("main", "default")
        return str(body.get("catalog") or default[0]).lower(), str(body.get("schema") or default[1]).lower()


class VolumeLinks:
    """Addresses for one upload or delete each, as PUT and REMOVE give them to a client."""

    def __init__(self) -> None:
        self._links: dict[str, str] = {}

    def made_for(self, path: str) -> str:
        id = uuid.uuid4().hex
        self._links[id] = path
        return f"{VOLUME_LINKS}/{id}"

    def path(self, id: str) -> str:
        if id not in self._links:
            raise ApiError(403, "PERMISSION_DENIED", "the link is not known")
        return self._links[id]


VOLUME_OPERATION = re.compile(
    r"(?:(PUT)\s+('(?:[^'\\]|\\.)*')\s+INTO|(REMOVE))\s+('(?:[^'\\]|\\.)*')(?:\s+OVERWRITE)?\Z", re.I | re.S
)


def volume_operation(sql: str, links: VolumeLinks, base_url: str) -> pa.Table | None:
    """What the client is to do, of a PUT or REMOVE."""
    found = VOLUME_OPERATION.match(sql.strip())
    if found is None:
        return None
    link = base_url + links.made_for(unescaped(found[4]))
    local = [unescaped(found[2])] if found[1] else pa.nulls(1, pa.string())
    kind = "PUT" if found[1] else "REMOVE"
    return pa.table({"operation": [kind], "localFile": local, "presignedUrl": [link], "headers": ["{}"]})


class LoaderSql:
    """Statements that the engine has no need of itself. `write` answers None for all others."""

    def __init__(self, catalog: UnityCatalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._loaded: dict[str, set[str]] = {}
        """Table location -> files that COPY INTO loaded: they are loaded once."""

    def query(self, sql: str) -> pa.Table | None:
        """A query of INFORMATION_SCHEMA."""
        if not re.search(r"information_schema\.", sql, re.I):
            return None
        rows = [
            (*full.split("."), column["name"], column["type_text"].upper(), "YES", column["position"] + 1)
            for full in self._catalog.tables
            for column in self._catalog.table(full)["columns"]
        ]
        schemata = [(catalog, schema) for catalog, names in self._catalog.catalogs.items() for schema in names]
        with duckdb.connect() as connection:
            connection.execute(
                "CREATE TABLE columns_ (table_catalog text, table_schema text, table_name text, column_name text, full_"
                "data_type text, is_nullable text, ordinal_position int, numeric_precision int, numeric_scale int)"
            )
            connection.execute("CREATE TABLE schemata_ (catalog_name text, schema_name text)")
            if rows:
                connection.executemany("INSERT INTO columns_ VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)", rows)
            if schemata:
                connection.executemany("INSERT INTO schemata_ VALUES (?, ?)", schemata)
            connection.execute(
                "CREATE VIEW tables_ AS SELECT DISTINCT table_catalog, table_schema, table_name FROM columns_"
            )
            text = re.sub(r"(?i)(?:`?\w+`?\.)?`?information_schema`?\.`?(\w+)`?", lambda m: f"{m[1].lower()}_", sql)
            return connection.execute(text.replace("`", '"')).to_arrow_table()

    def write(self, sql: str, location: Callable[[str], str]) -> pa.Table | None:
        """Args: location: folder of a table's name."""
        if found := re.match(rf"COPY\s+INTO\s+({NAME})\s+FROM\s+('(?:[^'\\]|\\.)*')(.*)\Z", sql, re.I | re.S):
            return self._copy(location(found[1]), unescaped(found[2]), found[3])
        if found := re.match(rf"TRUNCATE\s+TABLE\s+({NAME})\s*\Z", sql, re.I):
            DeltaTable(location(found[1])).delete()
            return pa.table({})
        return None

    def _copy(self, location: str, path: str, rest: str) -> pa.Table:
        if not re.match(r"\s*FILEFORMAT\s*=\s*PARQUET\b", rest, re.I):
            raise SqlError("[UNSUPPORTED_FEATURE] the stand-in copies parquet only")
        folder = self._catalog.volume_path(path)
        files = sorted(str(f) for f in ([folder] if folder.is_file() else folder.rglob("*")) if f.is_file())
        with self._lock:
            new = [file for file in files if file not in self._loaded.setdefault(location, set())]
            rows = 0
            table = DeltaTable(location)
            schema = pa.schema(table.schema().to_arrow())
            names = {field.name.lower() for field in schema}
            for file in new:
                extra = [name for name in pq.read_schema(file).names if name.lower() not in names]
                if extra:
                    raise SqlError(f"[COPY_INTO_SCHEMA_MISMATCH_WITH_TARGET_TABLE] {extra}. SQLSTATE: 42KDG")
            content = [_fitted(pq.read_table(file), schema) for file in new]
            if content:
                whole = pa.concat_tables(content)
                write_deltalake(location, whole, mode="append")
                rows = whole.num_rows
            self._loaded[location] |= set(new)
        counts = {"num_affected_rows": rows, "num_inserted_rows": rows, "num_skipped_corrupt_files": 0}
        return pa.table({name: pa.array([value], pa.int64()) for name, value in counts.items()})


def _fitted(found: pa.Table, schema: pa.Schema) -> pa.Table:
    there = {name.lower(): name for name in found.column_names}
    columns = [
        found.column(there[f.name.lower()]).cast(f.type)
        if f.name.lower() in there
        else pa.nulls(found.num_rows, f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


def nullable(definition: str) -> str:
    """A column's type without its constraint: the stand-in's tables have none."""
    return re.sub(r"\s+NOT\s+NULL\b.*", "", definition, flags=re.I | re.S)


def inserted_rows(sql: str, columns_of: Callable[[str], Mapping[str, str]]) -> str:
    """The query of what an INSERT with a column list adds, under all columns of the table; empty: it has no list.

    Args:
        columns_of: column name -> SQL type of a table's name.
    """
    found = re.match(rf"INSERT\s+INTO\s+(?:TABLE\s+)?({NAME})\s*(\()", sql, re.I)
    if found is None:
        return ""
    end = closing(sql, found.start(2))
    given = [parts_of(item)[0].lower() for item in split_list(sql[found.start(2) + 1 : end])]
    names = ", ".join(f"c{i}" for i in range(len(given)))
    listed = ", ".join(
        f"CAST({f'src.c{given.index(name.lower())}' if name.lower() in given else 'NULL'} AS {kind}) AS `{name}`"
        for name, kind in columns_of(found[1]).items()
    )
    return f"SELECT {listed} FROM ({sql[end + 1 :].strip()}) AS src({names})"


def removed(files: Any, path: str) -> None:
    """REMOVE takes files, and folders that are empty."""
    try:
        files.delete(path)
    except ApiError:
        files.delete_directory(path)
