"""Large PostgreSQL tables in ranges of pages: which there are, and which an earlier read still holds exactly.

Row versions never change and never leave their page while the table has the same file. So a range that holds, in a
later snapshot, no version that the earlier one could not see, and as many as were read then, holds the same rows.
"""

# SQL text is composed of quoted identifiers here, which is no LiteralString.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.sources.interface import MAX_CHUNKS
from assets.sync import Chunk, ChunkRead, SourceTable

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    from assets.sources.postgres_snapshot import SnapshotPosition

PARALLEL_BYTES = 64 << 20
PAGE_BYTES = 8192
PAGES_A_QUERY = 16_384
PAGE_RANGE_SCANS = 140_000  # server versions from 14 on read a range of pages without the rest
_BLOCK = "SELECT current_setting('block_size')::bigint"
_LEAVES = """
SELECT n.nspname, c.relname, pg_relation_size(c.oid), c.relkind = 'r' AND a.amname = 'heap'
       AND has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
       AND NOT (SELECT relrowsecurity FROM pg_class WHERE oid = %(table)s::regclass)
       AND (c.relispartition OR NOT EXISTS (SELECT 1 FROM pg_inherits WHERE inhparent = c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am a ON a.oid = c.relam
WHERE c.oid = %(table)s::regclass AND c.relkind = 'r'
   OR c.oid IN (SELECT relid FROM pg_partition_tree(%(table)s::regclass) WHERE isleaf)
ORDER BY c.oid
"""
_FILES = """
SELECT coalesce(json_agg(f ORDER BY f::text), '[]')
FROM (SELECT json_build_array(p.relid::oid::bigint, pg_relation_filenode(p.relid)) AS f
      FROM (SELECT %(oid)s::oid::regclass AS relid
            UNION SELECT relid FROM pg_partition_tree(%(oid)s::oid::regclass)) p) t
"""
_TIMELINE = "SELECT timeline_id FROM pg_control_checkpoint()"


@dataclass(frozen=True)
class Piece:
    """Rows of one relation under one condition."""

    relation: sql.Identifier
    where: sql.Composable


def _range(where: sql.Composable, first: int, end: int | None) -> sql.Composable:
    from psycopg import sql

    found = sql.SQL("({}) AND ctid >= {}::tid").format(where, sql.Literal(f"({first},0)"))
    # the last range is open: the table may have grown
    return found if end is None else sql.SQL("{} AND ctid < {}::tid").format(found, sql.Literal(f"({end},0)"))


def split_pages(connection: psycopg.Connection[Any], table: SourceTable, whole: Sequence[Piece]) -> Sequence[Piece]:
    """Ranges of pages that connections of one snapshot read side by side; the whole where the table is small."""
    size = table.estimated_bytes or 0
    if table.kind != "table" or size <= PARALLEL_BYTES or connection.info.server_version < PAGE_RANGE_SCANS:
        return whole
    pages = -(-size // PAGE_BYTES)
    starts = list(range(0, pages, PAGES_A_QUERY))
    return [
        Piece(piece.relation, _range(piece.where, start, None if start == starts[-1] else start + PAGES_A_QUERY))
        for piece in whole
        for start in starts
    ]


def page_chunks(connection: psycopg.Connection[Any], table: SourceTable, chunk_bytes: int) -> list[Chunk]:
    """A table's or its partitions' pages in chunks, small partitions together; empty where it cannot be cut.

    It cannot where servers are older than 14, where rows are not in a heap of their own (other access methods, foreign
    partitions, children by inheritance), or where a partition may not be read by itself (grants, row security).
    """
    from psycopg import sql

    if connection.info.server_version < PAGE_RANGE_SCANS:
        return []
    name = sql.Identifier(table.schema_name, table.table_name).as_string(connection)
    leaves = connection.execute(_LEAVES, {"table": name}).fetchall()
    total = sum(size for _, _, size, _ in leaves)
    if not all(fit for *_, fit in leaves) or total < 2 * chunk_bytes:
        return []
    (block,) = connection.execute(_BLOCK).fetchone() or (PAGE_BYTES,)
    chunk_bytes = max(chunk_bytes, -(-total // (MAX_CHUNKS // 2)))
    pages = max(1, chunk_bytes // block)
    chunks: list[list[list[Any]]] = []
    room = 0
    for schema, relation, size, _ in leaves:
        starts = range(0, max(1, -(-size // block)), pages)
        for start in starts:
            end = None if start == starts[-1] else start + pages
            taken = pages if end else max(1, -(-size // block) - start)
            if taken > room:
                chunks.append([])
                room = pages
            chunks[-1].append([schema, relation, start, end])
            room -= taken
    if len(chunks) < 2:
        return []
    return [Chunk(id=str(number), where={"ranges": ranges}) for number, ranges in enumerate(chunks)]


def pieces(chunk: Chunk, where: sql.Composable) -> list[Piece]:
    """What a chunk is, under the read's own condition."""
    from psycopg import sql

    return [
        Piece(sql.Identifier(schema, relation), _range(where, first, end))
        for schema, relation, first, end in chunk.where["ranges"]
    ]


def content_state(
    connection: psycopg.Connection[Any], relation: sql.Identifier, oid: int, position: SnapshotPosition
) -> dict[str, Any]:
    """The snapshot and the files it reads, whose rewriting moves rows to other pages. Locks the table against that."""
    import psycopg
    from psycopg import sql

    connection.execute(sql.SQL("SELECT FROM {} LIMIT 0").format(relation))
    row = connection.execute(_FILES, {"oid": oid}).fetchone()
    state = position.stored(oid) | {"files": row[0] if row else []}
    if position.system is not None:
        try:
            with connection.transaction():
                row = connection.execute(_TIMELINE).fetchone()
                state["timeline"] = row[0] if row else None
        except psycopg.errors.InsufficientPrivilege:
            state["timeline"] = None
    return state


def changed_chunks(
    connection: psycopg.Connection[Any], state: Mapping[str, Any], done: Sequence[ChunkRead], where: sql.Composable
) -> list[Chunk]:
    """Which of the chunks read in other snapshots are not the same in this connection's."""
    return [read.chunk for read in done if read.state != state and _changed(connection, state, read, where)]


def _changed(
    connection: psycopg.Connection[Any], state: Mapping[str, Any], read: ChunkRead, where: sql.Composable
) -> bool:
    from psycopg import sql

    from assets.sources.postgres_snapshot import unseen

    same = ("system", "database", "table", "files", "timeline")
    if any(read.state.get(name) != state.get(name) for name in same) or not _contains(state, read.state):
        return True
    new = unseen(connection, read.state)
    if new is None:
        return True
    rows = 0
    for piece in pieces(read.chunk, where):
        query = sql.SQL("SELECT count(*), count(*) FILTER (WHERE {}) FROM {} WHERE {}")
        row = connection.execute(query.format(new, piece.relation, piece.where)).fetchone()
        assert row is not None
        if row[1]:
            return True
        rows += row[0]
    return rows != read.rows


def _contains(later: Mapping[str, Any], earlier: Mapping[str, Any]) -> bool:
    """Whether the later snapshot sees every transaction that the earlier one saw; another standby may lag behind."""
    xmax = int(earlier["xmax"])
    hidden = {xid for xid in later["in_flight"] if (xmax - xid) % 2**32 < 2**31}
    return int(later["xmax"]) >= xmax and hidden <= set(earlier["in_flight"])
