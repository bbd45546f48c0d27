"""Every statement that Headrace gives a SQL warehouse. ``tests/assets/lakehouse/databricks_statements.sql`` lists them.

A table keeps what Headrace knows of it (the latest tags, the watermark, the Bronze version it follows) in one row of
its own, the state row: the only one whose ``_headrace_state`` is not NULL. Every commit changes that row in the
statement that brings the data, and raises an error when the row is no longer the one that was read, so that

- data and state are one commit;
- a repeat, a retry or a late statement of a dead attempt finds the row changed and does nothing;
- of two statements that run side by side one loses, as both change one row: "can conflict when modifying the same row"
  (docs.databricks.com/optimizations/isolation/row-level-concurrency), and a replaced table's metadata fail all others.

Values are bound as parameters, except in CREATE TABLE, where Databricks takes none before runtime 18
(docs.databricks.com/sql/language-manual/sql-ref-parameter-marker): there `text` quotes them. No secret is in either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from assets.lakehouse.databricks_types import CLUSTERED_TYPES
from assets.lakehouse.interface import DELETED_AT, LOADED_AT, OP, POSITION, RUN

STATE = "_headrace_state"
"""Text column: NULL in rows of data, in the state row the table's state as JSON."""
STATE_OP = "s"
STATE_MOVED = "HEADRACE_STATE_MOVED"
KEY_NOT_UNIQUE = "HEADRACE_KEY_NOT_UNIQUE"
MAX_CLUSTER_COLUMNS = 4
NEVER = "CAST('1970-01-01T00:00:00Z' AS TIMESTAMP)"
"""The state row's ``_headrace_deleted_at``: whoever reads live rows does not see it."""

Columns = Mapping[str, str]
"""Column name -> SQL type, in order."""


@dataclass(frozen=True)
class Statement:
    sql: str
    parameters: dict[str, str | None] = field(default_factory=dict)


def name(*parts: str) -> str:
    """Quoted identifier (docs.databricks.com/sql/language-manual/sql-ref-identifiers)."""
    return ".".join("`" + part.replace("`", "``") + "`" for part in parts)


def text(value: str) -> str:
    """String literal (docs.databricks.com/sql/language-manual/data-types/string-type): backslash escapes."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def create_schema(catalog: str, schema: str) -> Statement:
    return Statement(f"CREATE SCHEMA IF NOT EXISTS {name(catalog, schema)}")


def drop_table(table: str) -> Statement:
    return Statement(f"DROP TABLE IF EXISTS {table}")


def read_state(table: str, tag: str | None = None) -> Statement:
    """One row: the state, the rows of the table, and those that ``tag`` brought."""
    counts = f"(SELECT count(*) FROM {table} WHERE {name(STATE)} IS NULL) AS `total`"
    if tag is None:
        return Statement(f"SELECT {name(STATE)}, {counts} FROM {table} WHERE {name(STATE)} IS NOT NULL")
    added = f"(SELECT count(*) FROM {table} WHERE {name(RUN)} = :tag AND {name(STATE)} IS NULL) AS `added`"
    return Statement(
        f"SELECT {name(STATE)}, {counts}, {added} FROM {table} WHERE {name(STATE)} IS NOT NULL", {"tag": tag}
    )


def read_states(tables: Sequence[str]) -> Statement:
    """Number in the list, state and rows of each table; fails when one is missing."""
    texts = (read_state(table).sql.replace("SELECT", f"SELECT {n} AS `number`,", 1) for n, table in enumerate(tables))
    return Statement("\nUNION ALL\n".join(texts))


def count_live(table: str) -> Statement:
    return Statement(f"SELECT count(*) FROM {table} WHERE {name(DELETED_AT)} IS NULL AND {name(STATE)} IS NULL")


def select_rows(table: str, columns: Sequence[str], *, live: bool = False, tag: str | None = None) -> Statement:
    conditions = [f"{name(STATE)} IS NULL"]
    conditions += [f"{name(DELETED_AT)} IS NULL"] if live else []
    conditions += [f"{name(RUN)} = :tag"] if tag is not None else []
    listed = ", ".join(name(column) for column in columns)
    parameters: dict[str, str | None] = {"tag": tag} if tag is not None else {}
    return Statement(f"SELECT {listed} FROM {table} WHERE {' AND '.join(conditions)}", parameters)


# what a commit reads


def staged(uris: Sequence[str], columns: Columns) -> list[str]:
    """``read_files`` calls over exact files: one for each folder, its files in braces.

    docs.databricks.com/sql/language-manual/functions/read_files: the path may be a glob; nothing is inferred.
    """
    schema = ", ".join(f"{name(column)} {kind}" for column, kind in columns.items())
    calls = []
    for folder, files in groupby(sorted(uris), key=lambda uri: uri.rpartition("/")[0]):
        names = [uri.rpartition("/")[2] for uri in files]
        path = f"{folder}/{names[0]}" if len(names) == 1 else f"{folder}/{{{','.join(names)}}}"
        calls.append(f"read_files({text(path)}, format => 'parquet', schema => {text(schema)})")
    return calls


def rows_from_parts(uris: Sequence[str], columns: Columns, given: Columns | None = None) -> str | None:
    """A query of the staged rows under the table's columns; those that are not ``given`` are NULL."""
    given = columns if given is None else given
    listed = ", ".join(name(c) if c in given else f"CAST(NULL AS {kind}) AS {name(c)}" for c, kind in columns.items())
    return "\nUNION ALL\n".join(f"SELECT {listed} FROM {call}" for call in staged(uris, given)) or None


def rows_from_bronze(bronze: str, tag: str, columns: Columns, bronze_of: Mapping[str, str], *, quoted: bool) -> str:
    """A query of what one run added to Bronze, under Silver's names. ``quoted``: the tag as a literal, not a marker."""
    listed = ", ".join(
        f"{name(bronze_of[c])} AS {name(c)}" if c in bronze_of else f"CAST(NULL AS {kind}) AS {name(c)}"
        for c, kind in columns.items()
    )
    wanted = text(tag) if quoted else ":tag"
    return f"SELECT {listed} FROM {bronze} WHERE {name(RUN)} = {wanted} AND {name(STATE)} IS NULL"


# commits


def _state_row(columns: Columns, table: str | None, expected: str, tag: str, state: str, *, guarded: str) -> str:
    """The query of the state row.

    Args:
        columns: of the query.
        table: whose state row is looked at; None for the first commit.
        expected: the tag that this row must hold, as SQL text.
        tag, state: what the row is to hold, as SQL text.
        guarded: the error that is raised where it holds another.
    """
    values = {
        RUN: tag,
        LOADED_AT: "current_timestamp()",
        OP: text(STATE_OP),
        DELETED_AT: NEVER,
        STATE: state,
    }
    if table is not None:
        found = f"(SELECT max({name(RUN)}) FROM {table} WHERE {name(STATE)} IS NOT NULL)"
        values[STATE] = f"CASE WHEN {found} <=> {expected} THEN {state} ELSE raise_error({text(guarded)}) END"
    listed = ", ".join(
        f"{values[c]} AS {name(c)}" if c in values else f"CAST(NULL AS {kind}) AS {name(c)}"
        for c, kind in columns.items()
    )
    return f"SELECT {listed}"


def _clauses(columns: Columns, key: Sequence[str], source: str) -> str:
    """Clustering on the key, statistics on what is looked for, and the features that the types need.

    docs.databricks.com/sql/language-manual/sql-ref-syntax-ddl-create-table-using, /delta/clustering (at most four
    columns), /delta/data-skipping (dataSkippingStatsColumns), /delta/type-widening.
    """
    clustered = [c for c in key if columns[c].split("(")[0] in CLUSTERED_TYPES][:MAX_CLUSTER_COLUMNS]
    metadata = [c for c in (RUN, LOADED_AT, OP, POSITION, DELETED_AT, STATE) if c in columns]
    properties = {
        "delta.enableDeletionVectors": "true",
        "delta.enableTypeWidening": "true",
        "delta.feature.timestampNtz": "supported",
        "delta.dataSkippingStatsColumns": ",".join(name(c) for c in [*dict.fromkeys([*clustered, *metadata])]),
        "headrace.source": source,
    }
    listed = ", ".join(f"{text(key)} = {text(value)}" for key, value in properties.items())
    cluster = f"CLUSTER BY ({', '.join(name(c) for c in clustered)})\n" if clustered else ""
    return f"{cluster}TBLPROPERTIES ({listed})"


def create_table(
    table: str, columns: Columns, rows: str | None, *, key: Sequence[str], tag: str, state: str, source: str
) -> Statement:
    """The first commit. Fails where the table exists: docs.databricks.com/.../sql-ref-syntax-ddl-create-table-using."""
    stored = {**columns, STATE: "STRING"}
    own = _state_row(stored, None, "", text(tag), text(state), guarded="")
    return Statement(f"CREATE TABLE {table}\n{_clauses(stored, key, source)}\nAS {_with_data(stored, rows, own)}")


def replace_table(
    table: str,
    columns: Columns,
    rows: str | None,
    *,
    key: Sequence[str],
    expected: str,
    tag: str,
    state: str,
    source: str,
) -> Statement:
    """Swap content and schema in one commit; readers see the old or the new table."""
    stored = {**columns, STATE: "STRING"}
    own = _state_row(stored, table, text(expected), text(tag), text(state), guarded=STATE_MOVED)
    clauses = _clauses(stored, key, source)
    return Statement(f"CREATE OR REPLACE TABLE {table}\n{clauses}\nAS {_with_data(stored, rows, own)}")


def _with_data(columns: Columns, rows: str | None, own: str) -> str:
    if rows is None:
        return own
    listed = ", ".join(
        f"CAST(NULL AS STRING) AS {name(STATE)}" if column == STATE else name(column) for column in columns
    )
    return f"SELECT {listed} FROM (\n{rows}\n) AS d\nUNION ALL\n{own}"


def append(
    table: str,
    columns: Columns,
    rows: str | None,
    *,
    expected: str,
    tag: str,
    state: str,
    binds: Mapping[str, str] = {},
) -> Statement:
    """Add rows, and change the state row. ``rows`` gives ``columns`` in their order.

    docs.databricks.com/sql/language-manual/delta-merge-into: with schema evolution, columns that the table lacks and
    the insert names are added. The table's side of the condition is the state row alone, which statistics find; rows of
    data are NULL in the first comparison, so that a hash join drops them and never pairs them.
    """
    stored = {**columns, STATE: "STRING"}
    own = _state_row(stored, table, ":expected", ":run", ":state", guarded=STATE_MOVED)
    source = own if rows is None else _with_data(stored, rows, own)
    same = " = ".join(f"CASE WHEN {side}.{name(STATE)} IS NOT NULL THEN 1 END" for side in "ts")
    listed = ", ".join(name(column) for column in stored)
    values = ", ".join(f"s.{name(column)}" for column in stored)
    return Statement(
        f"MERGE WITH SCHEMA EVOLUTION INTO {table} AS t\nUSING (\n{source}\n) AS s\n"
        f"ON {same} AND t.{name(STATE)} IS NOT NULL\n"
        f"WHEN MATCHED THEN UPDATE SET {_changed(STATE, RUN, LOADED_AT)}\n"
        f"WHEN NOT MATCHED THEN INSERT ({listed}) VALUES ({values})",
        {"expected": expected, "run": tag, "state": state, **binds},
    )


def upsert(
    table: str,
    columns: Columns,
    changes: str | None,
    *,
    key: Sequence[str],
    expected: str,
    tag: str,
    state: str,
    binds: Mapping[str, str] = {},
    closes: bool = False,
) -> Statement:
    """Merge by key, in one commit. ``changes`` gives ``columns`` but ``_headrace_deleted_at``, and ``_headrace_op``.

    ``closes``: it gives ``_headrace_deleted_at`` too, which is stored: versions that end (``scd2``).

    Of several changes of a key the one with the highest position counts; two upserts of one key at one position are
    refused. Keys compare NULL-safe. Deletes are soft: values stay, and a row that was deleted before keeps its date.
    """
    data = {c: kind for c, kind in columns.items() if c != DELETED_AT}
    source = {**data, DELETED_AT: "TIMESTAMP", OP: "STRING", STATE: "STRING"}
    own = _state_row(source, table, ":expected", ":run", ":state", guarded=STATE_MOVED)
    using = own if changes is None else f"{_latest(data, key, changes, closes)}\nUNION ALL\n{own}"
    same = " AND ".join(f"t.{name(column)} <=> s.{name(column)}" for column in key)
    stored = {**columns, STATE: "STRING"}
    listed = ", ".join(name(column) for column in stored)
    values = ", ".join(f"s.{name(column)}" for column in stored)
    deleted = f"t.{name(DELETED_AT)} = s.{name(LOADED_AT)}"
    return Statement(
        f"MERGE WITH SCHEMA EVOLUTION INTO {table} AS t\nUSING (\n{using}\n) AS s\n"
        f"ON {same} AND (t.{name(STATE)} IS NULL) <=> (s.{name(STATE)} IS NULL)\n"
        f"WHEN MATCHED AND s.{name(OP)} = {text(STATE_OP)} THEN UPDATE SET {_changed(STATE, RUN, LOADED_AT)}\n"
        f"WHEN MATCHED AND s.{name(OP)} = 'd' AND t.{name(DELETED_AT)} IS NULL"
        f" THEN UPDATE SET {_changed(RUN, LOADED_AT, POSITION)}, {deleted}\n"
        f"WHEN MATCHED AND s.{name(OP)} = 'u' THEN UPDATE SET {_changed(*columns)}\n"
        f"WHEN NOT MATCHED AND s.{name(OP)} = 'u' THEN INSERT ({listed}) VALUES ({values})",
        {"expected": expected, "run": tag, "state": state, **binds},
    )


def _latest(data: Columns, key: Sequence[str], changes: str, closes: bool) -> str:
    partition = ", ".join(name(column) for column in key)
    shown = f"to_json(named_struct({', '.join(f'{text(c)}, {name(c)}' for c in key)}))"
    run = (
        f"CASE WHEN `_row` > 1 THEN raise_error(concat({text(KEY_NOT_UNIQUE + ' ')}, {shown}))"
        f" ELSE {name(RUN)} END AS {name(RUN)}"
    )
    listed = ", ".join(run if column == RUN else name(column) for column in data)
    # one window for both, so the changes are sorted once; a second row of the first rank is a tie
    window = f"OVER (PARTITION BY {partition} ORDER BY {name(POSITION)} DESC, {name(OP)} DESC)"
    ranked = f"SELECT *, rank() {window} AS `_rank`, row_number() {window} AS `_row` FROM (\n{changes}\n) AS c"
    deleted = name(DELETED_AT) if closes else f"CAST(NULL AS TIMESTAMP) AS {name(DELETED_AT)}"
    return (
        f"SELECT {listed}, {deleted}, {name(OP)},"
        f" CAST(NULL AS STRING) AS {name(STATE)}"
        f" FROM (\n{ranked}\n) AS r WHERE `_rank` = 1"
    )


def _changed(*columns: str) -> str:
    return ", ".join(f"t.{name(column)} = s.{name(column)}" for column in columns)


def state_text(tags: Sequence[str], watermark: str | None, follows: int | None, commits: int) -> str:
    """The state row's JSON."""
    return json.dumps(
        {
            "commits": commits,
            "tags": list(tags),
            "watermark": json.loads(watermark) if watermark else None,
            "follows": follows,
        }
    )
