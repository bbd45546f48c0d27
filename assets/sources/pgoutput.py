"""PostgreSQL's ``pgoutput`` messages as Arrow batches: rows are taken apart column by column, many at once.

Format: PostgreSQL's documentation, "Logical Replication Message Formats", protocol version 1. Values come as text,
as the server's output functions print them under the session's settings; ``assets/types.py`` says what they become.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.errors import SchemaChangedError, StreamLostError, UnsupportedTableError
from assets.row_filter import RowFilter
from assets.sources.filtered_changes import gone, passing
from assets.sources.interface import BATCH_ROWS, UNFIT_COLUMN, ChangeBatch
from assets.sources.postgres_text import typed_column, unfit_array

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.sync import Column

BATCH_BYTES = 8 << 20
_BEGIN, _RELATION, _INSERT, _UPDATE, _DELETE, _TRUNCATE = b"BRIUDT"
_NEW, _KEY, _OLD = b"NKO"
_TEXT, _UNCHANGED = b"tu"
Texts = Callable[["pa.Array"], "pa.Array"]


@dataclass(frozen=True)
class RelationColumn:
    """A column as the log describes it at one point."""

    name: str
    identity: bool
    type_oid: int


@dataclass(frozen=True)
class Relation:
    """A table as the log describes it at one point. ``identity``: d default, n nothing, f full, i index."""

    oid: int
    schema_name: str
    table_name: str
    identity: str
    columns: tuple[RelationColumn, ...]


def parse_relation(message: bytes) -> Relation:
    """A ``R`` message."""
    (oid,) = struct.unpack_from(">I", message, 1)
    schema, place = _text(message, 5)
    table, place = _text(message, place)
    identity = chr(message[place])
    (count,) = struct.unpack_from(">H", message, place + 1)
    place += 3
    columns = []
    for _ in range(count):
        flags = message[place]
        name, place = _text(message, place + 1)
        (type_oid,) = struct.unpack_from(">I", message, place)
        place += 8
        columns.append(RelationColumn(name, bool(flags & 1), type_oid))
    return Relation(oid, schema, table, identity, tuple(columns))


def _text(message: bytes, start: int) -> tuple[str, int]:
    end = message.index(0, start)
    return message[start:end].decode(), end + 1


@dataclass
class _Group:
    """Messages of one shape, not yet taken apart: one description of the table, one kind, one form of old row."""

    messages: list[bytes] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class TableShape:
    """What the decoder has to know of the table as it is now.

    Args:
        type_oids: the type of each column now; another one in the log is a change of schema.
        texts: by column, how its printed text becomes what the contract's text is, where they differ.
        parts: oids of the table, or of its partitions, that a truncate has to name to remove every row.
        row_filter: only these rows; a changed one is judged before and after the change.
    """

    where: str
    remedy: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    type_oids: dict[str, int]
    texts: dict[str, Texts] = field(default_factory=dict)
    parts: frozenset[int] = frozenset()
    row_filter: RowFilter | None = None


class PgoutputDecoder:
    """Takes the messages of one table in order, and gives its changes in batches.

    Args:
        wanted: whether a transaction counts, by the position of its commit and its id.
        last: the last position that was given to a change; every change gets a greater one.
    """

    def __init__(self, shape: TableShape, wanted: Callable[[int, int], bool], last: int) -> None:
        import pyarrow as pa

        from assets.types import arrow_type

        self._shape = shape
        self._wanted = wanted
        self.last = last
        self.truncates: list[int] = []
        self.unfit = 0
        self.commit_position = 0
        self._taking = False
        self._described: dict[int, int] = {}  # by oid: which of the layouts is in force
        self._layouts: list[_Layout] = []
        self._groups: dict[tuple[int, int, int], _Group] = {}
        self._rows = self._bytes = 0
        fields = [pa.field(c.name, arrow_type(c.arrow_type)) for c in shape.columns]
        self.schema = pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())])

    @property
    def full(self) -> bool:
        return self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES

    def feed(self, message: bytes) -> None:
        """Take one message.

        Raises:
            UnsupportedTableError: the log does not carry the old key.
            SchemaChangedError: a column had another type.
            StreamLostError: a partition was truncated alone.
        """
        kind = message[0]
        if kind in (_INSERT, _UPDATE, _DELETE):
            if self._taking:
                self._hold(kind, message)
        elif kind == _BEGIN:
            self.commit_position, _, transaction = struct.unpack_from(">QqI", message, 1)
            self._taking = self._wanted(self.commit_position, transaction)
            if self._taking:
                self.last = max(self.last, self.commit_position - 1)
        elif kind == _TRUNCATE:
            if self._taking:
                self._truncated(message)
        elif kind == _RELATION:
            relation = parse_relation(message)
            self._described[relation.oid] = len(self._layouts)
            self._layouts.append(_Layout(relation))

    def _hold(self, kind: int, message: bytes) -> None:
        (oid,) = struct.unpack_from(">I", message, 1)
        layout, form = self._described[oid], message[5]
        group = self._groups.get((layout, kind, form))
        if group is None:
            self._layouts[layout].settle(self._shape)
            group = self._groups[layout, kind, form] = _Group()
        group.messages.append(message)
        # an update that carries the old row may have changed the key: a delete, and an upsert after it
        self.last += 2 if kind == _UPDATE and form != _NEW else 1
        group.positions.append(self.last)
        self._rows += 1
        self._bytes += len(message)

    def _truncated(self, message: bytes) -> None:
        (count,) = struct.unpack_from(">I", message, 1)
        oids = set(struct.unpack_from(f">{count}I", message, 6))
        if not self._shape.parts & oids:
            return
        if not self._shape.parts <= oids:
            raise StreamLostError(
                "a partition was truncated, and the log does not tell which rows that removed",
                where=self._shape.where,
                remedy=self._shape.remedy,
            )
        self.last += 1
        self.truncates.append(self.last)

    def take(self) -> Iterator[ChangeBatch]:
        """What was fed so far. The order of the batches is no matter: each row has its position."""
        groups, self._groups = self._groups, {}
        self._rows = self._bytes = 0
        for (layout, kind, form), group in groups.items():
            yield from self._batches(self._layouts[layout], kind, form, group)

    # taking apart

    def _batches(self, layout: _Layout, kind: int, form: int, group: _Group) -> Iterator[ChangeBatch]:
        import numpy as np

        walk, row_filter = _Tuples(group.messages, len(layout.relation.columns)), self._shape.row_filter
        positions = np.array(group.positions, np.int64)
        every = np.arange(len(positions))
        if kind == _DELETE:
            yield passing(self._plain(layout, walk.next_row(), every, positions, "d"), row_filter)
            return
        if kind == _INSERT or form == _NEW:
            for batch in self._upserts(layout, walk.next_row(), None, None, positions):
                yield passing(batch, row_filter)
            return
        old, new = walk.next_row(), walk.next_row()
        # what the new row leaves out as unchanged: REPLICA IDENTITY FULL tells all of it, else the key alone is told
        new.take_unchanged(
            old, range(len(new.kinds)) if form == _OLD else [layout.place_of[name] for name in self._shape.key]
        )
        moved = self._key_moved(layout, old, new)

        def whole(row: _Row) -> pa.RecordBatch:
            return self._plain(layout, row, every, positions, "u").rows

        left = gone(row_filter, moved, lambda: whole(old), lambda: whole(new))
        if left.any():
            rows = np.flatnonzero(left)
            yield self._plain(layout, old, rows, positions[rows] - 1, "d")
        for batch in self._upserts(layout, new, old, moved, positions):
            yield passing(batch, row_filter)

    def _key_moved(self, layout: _Layout, old: _Row, new: _Row) -> Any:
        """Which rows have another key than before."""
        import numpy as np

        pc = arrow_compute()
        moved = np.zeros(len(new.kinds[0]), bool)
        for name in self._shape.key:
            place = layout.place_of[name]
            before, after = old.texts(place), new.texts(place)
            same = pc.or_(pc.fill_null(pc.equal(before, after), False), pc.and_(pc.is_null(before), pc.is_null(after)))
            moved |= pc.invert(same).to_numpy(zero_copy_only=False)
        return moved

    def _upserts(
        self, layout: _Layout, new: _Row, old: _Row | None, moved: Any, positions: Any
    ) -> Iterator[ChangeBatch]:
        """Split by the set of columns that the log leaves out, TOASTed and unchanged."""
        import numpy as np

        left_out = [
            (name, mask) for name, place in layout.place_of.items() if (mask := new.kinds[place] == _UNCHANGED).any()
        ]
        if not left_out:
            yield self._plain(layout, new, np.arange(len(positions)), positions, "u")
            return
        patterns = np.zeros(len(positions), np.int64)
        for _, mask in left_out:  # made small again each time: there may be more columns than bits
            _, patterns = np.unique(patterns * 2 + mask, return_inverse=True)
        for pattern in np.unique(patterns):
            rows = np.flatnonzero(patterns == pattern)
            missing = tuple(name for name, mask in left_out if mask[rows[0]])
            batch = self._plain(layout, new, rows, positions[rows], "u")
            if missing:
                batch = self._lacking(batch, missing, layout, new, old, moved, rows)
            yield batch

    def _lacking(
        self,
        batch: ChangeBatch,
        missing: tuple[str, ...],
        layout: _Layout,
        new: _Row,
        old: _Row | None,
        moved: Any,
        rows: Any,
    ) -> ChangeBatch:
        """The batch with the keys its rows had before; the old key where it moved."""
        import pyarrow as pa

        by_name = {c.name: c for c in self._shape.columns}
        before, positions = [], batch.positions
        for name in self._shape.key:
            texts = new.texts(layout.place_of[name], rows)
            if old is not None:
                texts = arrow_compute().if_else(pa.array(moved[rows]), old.texts(layout.place_of[name], rows), texts)
            before.append(self._typed(by_name[name], texts, {}))
        if moved is not None:
            positions = pa.array(positions.to_numpy() - moved[rows], pa.int64())
        keys = pa.RecordBatch.from_arrays(before, names=list(self._shape.key))
        return ChangeBatch(batch.rows, "u", batch.positions, missing, keys, positions)

    def _plain(self, layout: _Layout, row: _Row, rows: Any, positions: Any, op: str) -> ChangeBatch:
        import pyarrow as pa

        unfit: dict[int, dict[str, str]] = {}
        arrays = []
        for index, column in enumerate(self._shape.columns):
            place = layout.place_of.get(column.name)
            if place is None:  # the column did not exist then
                arrays.append(pa.nulls(len(rows), self.schema.field(index).type))
            else:
                arrays.append(self._typed(column, row.texts(place, rows), unfit))
        self.unfit += sum(len(values) for values in unfit.values())
        arrays.append(unfit_array(unfit, len(rows)))
        batch = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        return ChangeBatch(batch, op, pa.array(positions, pa.int64()))

    def _typed(self, column: Column, texts: pa.Array, unfit: dict[int, dict[str, str]]) -> pa.Array:
        convert = self._shape.texts.get(column.name)
        return typed_column(convert(texts) if convert else texts, column, unfit)


class _Layout:
    """One description of the table in the log, and where the wanted columns are in it."""

    def __init__(self, relation: Relation) -> None:
        self.relation = relation
        self.place_of: dict[str, int] = {}

    def settle(self, shape: TableShape) -> None:
        """Compare with the table as it is now.

        Raises:
            UnsupportedTableError: the log does not carry the old key.
            SchemaChangedError: a column had another type.
        """
        columns = {column.name: index for index, column in enumerate(self.relation.columns)}
        for column in self.relation.columns:
            if shape.type_oids.get(column.name, column.type_oid) != column.type_oid:
                raise SchemaChangedError(
                    f"the type of column {column.name} changed since the last sync",
                    where=shape.where,
                    remedy=shape.remedy,
                )
        self.place_of = {c.name: columns[c.name] for c in shape.columns if c.name in columns}
        identity = self.relation.identity
        if shape.row_filter and identity != "f":
            raise UnsupportedTableError(
                "the log did not carry the old values that the row filter needs: the replica identity was another",
                where=shape.where,
                remedy=shape.remedy,
            )
        told = {column.name for column in self.relation.columns if column.identity or identity == "f"}
        if untold := [name for name in shape.key if name not in told]:
            raise UnsupportedTableError(
                f"the log did not carry the old value of key column {untold[0]}: the replica identity was another",
                where=shape.where,
                remedy=shape.remedy,
            )


class _Row:
    """One row of every message of a group: by column its kind, and where its text lies in the buffer."""

    def __init__(self, buffer: Any, columns: int) -> None:
        self.buffer = buffer
        self.kinds: list[Any] = [None] * columns
        self.starts: list[Any] = [None] * columns
        self.lengths: list[Any] = [None] * columns

    def take_unchanged(self, old: _Row, columns: Iterable[int]) -> None:
        """Take from the old row what this one leaves out as unchanged."""
        import numpy as np

        for column in columns:
            kinds = self.kinds[column]
            unchanged = kinds == _UNCHANGED
            if unchanged.any():
                self.kinds[column] = np.where(unchanged, old.kinds[column], kinds)
                self.starts[column] = np.where(unchanged, old.starts[column], self.starts[column])
                self.lengths[column] = np.where(unchanged, old.lengths[column], self.lengths[column])

    def texts(self, column: int, rows: Any = None) -> pa.Array:
        """A column's text, of all rows or some; NULL where there is none."""
        import numpy as np
        import pyarrow as pa

        kinds, starts, lengths = self.kinds[column], self.starts[column], self.lengths[column]
        if rows is not None and len(rows) != len(kinds):
            kinds, starts, lengths = kinds[rows], starts[rows], lengths[rows]
        there = kinds == _TEXT
        lengths = np.where(there, lengths, 0)
        offsets = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        buffers = [
            pa.py_buffer(np.packbits(there, bitorder="little")),
            pa.py_buffer(offsets),
            pa.py_buffer(self.buffer[places]),
        ]
        return pa.Array.from_buffers(pa.string(), len(lengths), buffers)


class _Tuples:
    """Walks the rows inside the messages of a group, all messages at a time."""

    def __init__(self, messages: Sequence[bytes], columns: int) -> None:
        import numpy as np

        self._buffer = np.frombuffer(b"".join(messages) + b"\0" * 8, np.uint8)
        sizes = np.fromiter((len(m) for m in messages), np.int64, len(messages))
        self._at = np.cumsum(sizes) - sizes + 5  # kind and relation come first
        self._columns = columns

    def next_row(self) -> _Row:
        import numpy as np

        row = _Row(self._buffer, self._columns)
        at, buffer = self._at + 3, self._buffer  # the row's letter and its number of columns
        for column in range(self._columns):
            kinds = buffer[at]
            valued = (kinds == _TEXT) | (kinds == b"b"[0])
            size = np.zeros(len(at), np.int64)
            for byte in range(1, 5):
                size = (size << 8) | buffer[at + byte]
            lengths = np.where(valued, size, 0)
            row.kinds[column], row.starts[column], row.lengths[column] = kinds, at + 5, lengths
            at = at + np.where(valued, lengths + 5, 1)
        self._at = at
        return row
