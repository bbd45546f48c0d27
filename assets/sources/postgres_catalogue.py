"""What a PostgreSQL database holds, by a handful of catalogue queries for all tables at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from assets.errors import NotFoundError
from assets.naming import table_label
from assets.sources.cursor_columns import CURSOR_NAMES
from assets.sources.postgres_snapshot import CURSOR_TYPES
from assets.sync import Column, SourceTable
from assets.types import postgres_contract

if TYPE_CHECKING:
    import psycopg

KINDS = {"r": "table", "p": "partitioned", "v": "view", "m": "materialized_view", "f": "foreign"}

_TABLES = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.reltuples::float8,
       CASE WHEN c.relkind NOT IN ('r', 'm') THEN NULL
            WHEN %(names)s::text[] IS NOT NULL THEN pg_relation_size(c.oid)
            ELSE c.relpages::bigint * current_setting('block_size')::bigint END,
       c.relispopulated, CASE WHEN c.relrowsecurity THEN row_security_active(c.oid) ELSE false END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  AND n.nspname !~ '^pg_(toast|temp|catalog)' AND n.nspname <> 'information_schema'
  AND (%(schemas)s::text[] IS NULL OR n.nspname = ANY(%(schemas)s))
  AND has_schema_privilege(n.oid, 'USAGE')
  AND (%(names)s::text[] IS NULL OR
       CASE WHEN n.nspname ~ '[."]' THEN '"' || replace(n.nspname, '"', '""') || '"' ELSE n.nspname END
       || '.' || c.relname = ANY(%(names)s))
ORDER BY 2, 3
"""
_COLUMNS = """
WITH RECURSIVE base(domain, type, modifier) AS (
    SELECT oid, typbasetype, typtypmod FROM pg_type WHERE typtype = 'd'
    UNION ALL
    SELECT b.domain, t.typbasetype, CASE WHEN b.modifier = -1 THEN t.typtypmod ELSE b.modifier END
    FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT a.attrelid::bigint, a.attname, format_type(a.atttypid, a.atttypmod), t.typname,
       coalesce(b.modifier, a.atttypmod), t.typnamespace = 'pg_catalog'::regnamespace, a.attnotnull,
       a.attnum
FROM pg_attribute a
LEFT JOIN base b ON b.domain = a.atttypid
     AND NOT EXISTS (SELECT 1 FROM pg_type d WHERE d.oid = b.type AND d.typtype = 'd')
JOIN pg_type t ON t.oid = coalesce(b.type, a.atttypid)
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""
_KEYS = """
SELECT i.indrelid::bigint, array_agg(a.attname ORDER BY k.n)
FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indisprimary AND k.n <= i.indnkeyatts AND i.indrelid = ANY(%s::oid[])
GROUP BY 1
"""
_MONEY_SCALE = "SELECT scale('1'::money::numeric)"


def list_tables(
    connection: psycopg.Connection[Any], connector: str, schemas: Sequence[str] | None, names: Sequence[str] | None
) -> list[tuple[int, SourceTable]]:
    """Tables with their oids, ordered as ``names``, or by schema and name.

    Raises:
        NotFoundError: one of ``names`` is not there, or not visible to this role.
    """
    wanted = {
        "schemas": None if names is not None or schemas is None else list(schemas),
        "names": None if names is None else list(names),
    }
    rows = connection.execute(_TABLES, wanted).fetchall()
    if names is not None:
        by_label = {table_label(row[1], row[2]): row for row in rows}
        missing = [name for name in names if name not in by_label]
        if missing:
            raise NotFoundError(
                f"no such table, or no right to see it: {', '.join(missing[:5])}",
                where=connector,
                remedy=f"Run: headrace connectors discover {connector}",
            )
        rows = [by_label[name] for name in names]
    oids = [row[0] for row in rows]
    money = connection.execute(_MONEY_SCALE).fetchone()
    columns: dict[int, list[Column]] = defaultdict(list)
    for oid, name, full_type, base_type, modifier, built_in, not_null, number in connection.execute(_COLUMNS, [oids]):
        kind, rule = postgres_contract(base_type, modifier, built_in=built_in, money_scale=money[0] if money else None)
        columns[oid].append(
            Column(
                name=name,
                source_type=full_type,
                arrow_type=kind,
                rule=rule,
                nullable=not not_null,
                id=f"{oid}.{number}",
            )
        )
    keys = {oid: tuple(key) for oid, key in connection.execute(_KEYS, [oids])}
    return [(row[0], _table(row, tuple(columns[row[0]]), keys.get(row[0], ()))) for row in rows]


def _table(row: Any, columns: tuple[Column, ...], key: tuple[str, ...]) -> SourceTable:
    _, schema, name, relkind, estimate, size, populated, limited = row
    refusal = None
    if not columns:
        refusal = "the table has no columns, so there is nothing to store"
    elif not populated:
        refusal = "the materialized view was never filled: run REFRESH MATERIALIZED VIEW"
    elif reserved := [c.name for c in columns if c.name.lower().startswith("_headrace_")]:
        refusal = f"columns named as Headrace's own: {', '.join(reserved)}"
    return SourceTable(
        name=table_label(schema, name),
        schema_name=schema,
        table_name=name,
        kind=KINDS[relkind],  # type: ignore[arg-type]
        tracks="row_versions" if relkind in "rp" else "none",
        columns=columns,
        primary_key=key,
        cursor_candidates=tuple(
            c.name for c in columns if c.name.lower() in CURSOR_NAMES and c.arrow_type in CURSOR_TYPES
        ),
        estimated_rows=None if estimate < 0 or relkind == "v" else int(estimate),
        estimated_bytes=size,
        refusal=refusal,
        limited="row-level security shows this login some of the rows only" if limited else "",
    )
