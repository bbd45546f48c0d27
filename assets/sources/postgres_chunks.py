"""Large PostgreSQL tables in ranges of pages: which there are, and which an earlier read still holds exactly.

Row versions never change and never leave their page while the table has the same file. So a range that holds, in a
later snapshot, no version that the earlier one could not see, and as many as were read then, holds the same rows.
"""

# SQL text is composed of quoted identifiers here, which is no LiteralString.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from assets.sources.interface import MAX_CHUNKS
from assets.sync import Chunk, ChunkRead, SourceTable

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    from assets.sources.postgres_snapshot import SnapshotPosition

PARALLEL_BYTES = 64 << 20
PAGE_BYTES = 8192
PAGES_A_QUERY = 4_096
"""About one row group."""
FIRST_PAGES = 256
"""A connection's first query is short: how fast its rows come decides how the others are read."""
LAST_PART = 4
"""The last queries are so many times shorter, so that all connections are busy to the end."""
PAGE_RANGE_SCANS = 140_000  # server versions from 14 on read a range of pages without the rest
_BLOCK = "SELECT current_setting('block_size')::bigint"
_LEAVES = """
SELECT n.nspname, c.relname, pg_relation_size(c.oid), c.relkind = 'r' AND a.amname = 'heap'
       AND has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
       AND (%(secured)s OR NOT (SELECT relrowsecurity FROM pg_class WHERE oid = %(table)s::regclass))
       AND (c.relispartition OR NOT EXISTS (SELECT 1 FROM pg_inherits WHERE inhparent = c.oid)),
       coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0)
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
    """Rows of one relation under one condition, in a range of its pages.

    Args:
        end: the page after the last; None: to the relation's end, however far that has moved.
        size: about the bytes of the pages, where they were counted.
    """

    name: tuple[str, str]
    wanted: sql.Composable
    first: int = 0
    end: int | None = None
    size: int = 0

    @property
    def relation(self) -> sql.Identifier:
        from psycopg import sql

        return sql.Identifier(*self.name)

    @property
    def where(self) -> sql.Composable:
        from psycopg import sql

        if self.first == 0 and self.end is None:
            return self.wanted
        found = sql.SQL("({}) AND ctid >= {}::tid").format(self.wanted, _page(self.first))
        return found if self.end is None else sql.SQL("{} AND ctid < {}::tid").format(found, _page(self.end))


def _page(number: int) -> sql.Literal:
    from psycopg import sql

    return sql.Literal(f"({number},0)")


@dataclass(frozen=True)
class _Leaf:
    """A relation that holds rows itself. Sizes in bytes; ``aside``: of values too large for a page."""

    name: tuple[str, str]
    size: int
    aside: int


def _leaves(connection: psycopg.Connection[Any], table: SourceTable, *, secured: bool) -> list[_Leaf]:
    """A table or its partitions; empty where ranges of their pages cannot be read.

    ``secured``: whether they can where the table has row security.
    """
    from psycopg import sql

    if connection.info.server_version < PAGE_RANGE_SCANS:
        return []
    name = sql.Identifier(table.schema_name, table.table_name).as_string(connection)
    found = connection.execute(_LEAVES, {"table": name, "secured": secured}).fetchall()
    fit = all(fit for _, _, _, fit, _ in found)
    return [_Leaf((schema, relation), size, aside) for schema, relation, size, _, aside in found] if fit else []


@dataclass(frozen=True)
class PageRanges:
    """How pieces are read.

    Args:
        small: whether a piece takes little more than its pages: few values are stored aside.
    """

    pieces: Sequence[Piece]
    small: bool = False

    @property
    def size(self) -> int:
        """Bytes of all pieces together; 0 where they could not be cut."""
        return sum(piece.size for piece in self.pieces)


def cut(connection: psycopg.Connection[Any], table: SourceTable, whole: Sequence[Piece], readers: int) -> PageRanges:
    """Cut pieces into ranges of about ``PAGES_A_QUERY`` pages that ``readers`` connections of one snapshot read."""
    if table.kind not in ("table", "partitioned"):
        return PageRanges(whole)
    leaves = {leaf.name: leaf for leaf in _leaves(connection, table, secured=table.kind == "table")}
    if not all(piece.name in leaves for piece in whole):
        return PageRanges(whole)
    (block,) = connection.execute(_BLOCK).fetchone() or (PAGE_BYTES,)
    pasts = [piece.end or max(piece.first + 1, -(-leaves[piece.name].size // block)) for piece in whole]
    left = sum(past - piece.first for piece, past in zip(whole, pasts, strict=True))
    last = max(1, PAGES_A_QUERY // LAST_PART)
    cuts: list[Piece] = []
    for piece, past in zip(whole, pasts, strict=True):
        first = piece.first
        while first < past:
            pages = FIRST_PAGES if len(cuts) < readers else PAGES_A_QUERY
            if 1 < readers <= len(cuts) and left <= readers * PAGES_A_QUERY:
                pages = last
            end = first + pages
            if past - end < last:
                end = past  # no small rest
            cuts.append(replace(piece, first=first, end=end if end < past else piece.end, size=(end - first) * block))
            left -= end - first
            first = end
    small = all(leaves[piece.name].aside * 4 <= leaves[piece.name].size for piece in whole)
    return PageRanges(cuts, small)


def page_chunks(connection: psycopg.Connection[Any], table: SourceTable, chunk_bytes: int, readers: int) -> list[Chunk]:
    """A table's or its partitions' pages in chunks, small partitions together; empty where it cannot be cut.

    Chunks are of one size, as many as keep all readers busy to the end. A table cannot be cut where servers are older
    than 14, where rows are not in a heap of their own (other access methods, foreign partitions, children by
    inheritance), or where a partition may not be read by itself (grants), nor under row security.
    """
    leaves = _leaves(connection, table, secured=False)
    total = sum(leaf.size for leaf in leaves)
    if total < 2 * chunk_bytes:
        return []
    (block,) = connection.execute(_BLOCK).fetchone() or (PAGE_BYTES,)
    number = -(-total // chunk_bytes)
    if number > readers:
        number = -(-number // readers) * readers
    pages = max(1, -(-total // (min(number, MAX_CHUNKS // 2) * block)))
    chunks: list[list[list[Any]]] = []
    room = 0
    for leaf in leaves:
        leaf_pages = max(1, -(-leaf.size // block))
        starts = range(0, leaf_pages, pages)
        for start in starts:
            end = None if start == starts[-1] else start + pages
            taken = pages if end else leaf_pages - start
            if taken > room:
                chunks.append([])
                room = pages
            chunks[-1].append([*leaf.name, start, end])
            room -= taken
    if len(chunks) < 2:
        return []
    return [Chunk(id=str(number), where={"ranges": ranges}) for number, ranges in enumerate(chunks)]


def pieces(chunk: Chunk, where: sql.Composable) -> list[Piece]:
    """What a chunk is, under the read's own condition."""
    return [Piece((schema, relation), where, first, end) for schema, relation, first, end in chunk.where["ranges"]]


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
