"""Row events of one table as change batches: collected by layout and kind, and taken apart many at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from assets.arrow_compute import arrow_compute
from assets.errors import SchemaChangedError, StreamLostError, UnsupportedTableError
from assets.row_filter import RowFilter
from assets.sources import mysql_binlog_events as log
from assets.sources.filtered_changes import gone, passing
from assets.sources.interface import BATCH_ROWS, UNFIT_COLUMN, ChangeBatch
from assets.sources.mysql_binlog_rows import (
    Convert,
    Images,
    LoggedColumn,
    Values,
    declared_size,
    decoded,
    tells_members,
)
from assets.sources.mysql_capture import ColumnFacts
from assets.sources.mysql_connection import quoted
from assets.sources.mysql_text import RowParser
from assets.types import arrow_type

BATCH_BYTES = 8 << 20


@dataclass(frozen=True)
class TableNow:
    """The followed table as it is now.

    Args:
        columns: the wanted ones.
        facts: all of its columns, in order.
        same_columns: whether they are those of the last sync; a log without names can be read only then.
        row_filter: only these rows; a changed one is judged before and after the change.
    """

    where: str
    remedy: str
    schema: str
    table: str
    fold: bool
    key: tuple[str, ...]
    columns: tuple[LoggedColumn, ...]
    facts: tuple[ColumnFacts, ...]
    same_columns: bool
    row_filter: RowFilter | None = None


class _Layout:
    """One description of the table in the log, and where the wanted columns are in it."""

    def __init__(self, described: log.TableMap, now: TableNow, altered: bool) -> None:
        self.described = described
        names = described.names
        if names is None:
            if altered or not now.same_columns or len(described.types) != len(now.facts):
                raise SchemaChangedError(
                    "the table was altered, and the log names no columns (SET GLOBAL binlog_row_metadata = 'FULL')",
                    where=now.where,
                    remedy=now.remedy,
                )
            names = tuple(facts.name for facts in now.facts)
        self._require_known_times(names, now)
        places = {name.lower(): place for place, name in enumerate(names)}
        self.place_of: dict[str, int] = {}
        for logged in now.columns:
            place = places.get(logged.column.name.lower())
            if place is None:
                continue
            if not logged.is_logged_as(described.types[place]):
                raise SchemaChangedError(
                    f"the type of column {logged.column.name} changed since the last sync",
                    where=now.where,
                    remedy=now.remedy,
                )
            if logged.data_type in ("enum", "set") and described.members[place] is None:
                _require_known_members(logged, now)
            self.place_of[logged.column.name] = place
        if untold := [name for name in now.key if name not in self.place_of]:
            raise SchemaChangedError(
                f"the key column {untold[0]} was added since the last sync", where=now.where, remedy=now.remedy
            )

    def _require_known_times(self, names: tuple[str, ...], now: TableNow) -> None:
        """MariaDB's format of before MySQL 5.6 does not tell how long a fraction of a second is."""
        sizes = {facts.name.lower(): declared_size(facts.column_type) for facts in now.facts}
        for name, kind in zip(names, self.described.types, strict=True):
            if kind in (log.TIME, log.DATETIME, log.TIMESTAMP) and sizes.get(name.lower()):
                relation = f"{quoted(now.schema)}.{quoted(now.table)}"
                raise UnsupportedTableError(
                    f"the fractions of a second of column {name} are stored in MariaDB's old format",
                    where=now.where,
                    remedy=f"SET GLOBAL mysql56_temporal_format = ON; ALTER TABLE {relation} FORCE; then --reset.",
                )


def _require_known_members(logged: LoggedColumn, now: TableNow) -> None:
    if not tells_members(logged.column.source_type):
        raise UnsupportedTableError(
            f"column {logged.column.name} has a member with a question mark, which the catalogue writes for characters "
            "that it cannot hold, too, and the log names no members",
            where=now.where,
            remedy="SET GLOBAL binlog_row_metadata = 'FULL' (MySQL 8.0, MariaDB 10.5), or leave the column out.",
        )


class _Group:
    """Rows of one layout and kind, not yet taken apart. Of an update two images a row, before and after."""

    def __init__(self, layout: _Layout) -> None:
        self.layout = layout
        self.images = Images(layout.described)
        self.positions: list[int] = []


class ChangeDecoder:
    """Takes the events of a log in order, and gives the table's changes in batches.

    Args:
        last: the last position that was given to a change; every change gets a greater one.
    """

    def __init__(self, table: TableNow, convert: Convert, last: int) -> None:
        self.table = table
        self.last = last
        self.truncates: list[int] = []
        self.added: set[str] = set()
        self.dropped: set[str] = set()
        self.redefined: list[str] = []
        fields = [pa.field(c.column.name, arrow_type(c.column.arrow_type)) for c in table.columns]
        self.schema = pa.schema([*fields, pa.field(UNFIT_COLUMN, pa.string())])
        self._name = (self._folded(table.schema), self._folded(table.table))
        columns = [logged.column for logged in table.columns]
        self._parser = RowParser(table.where, columns, self.schema, table.key)
        self._convert = convert
        self._altered = False
        self._bodies: dict[int, bytes] = {}  # table maps of the followed table by their ids
        self._layouts: dict[log.TableMap, _Layout] = {}
        self._groups: dict[tuple[log.TableMap, int], _Group] = {}
        self._rows = self._bytes = 0

    def _folded(self, name: str) -> str:
        return name.lower() if self.table.fold else name

    @property
    def unfit_values(self) -> int:
        return self._parser.unfit_values

    @property
    def pending(self) -> bool:
        """Whether rows were fed and not yet taken."""
        return self._rows > 0

    @property
    def full(self) -> bool:
        return self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES

    # events

    def describe(self, body: bytes) -> None:
        """A table map: which table an id means from here on."""
        schema, table = (name.decode() for name in log.table_name(body))
        number = log.table_id(body)
        if (self._folded(schema), self._folded(table)) == self._name:
            self._bodies[number] = body
        else:
            self._bodies.pop(number, None)

    def forget(self) -> None:
        """Another file: ids mean other tables there."""
        self._bodies.clear()

    def feed(self, event: log.Event) -> bool:
        """Take a row event; whether it is of the followed table.

        Raises:
            SchemaChangedError, StreamLostError, UnsupportedTableError: its rows cannot be read as the table is now.
        """
        body = self._bodies.get(log.table_id(event.body))
        if body is None:
            return False
        found = log.parse_rows(event)
        described = log.parse_table_map(body)
        layout = self._layouts.get(described)
        if layout is None:
            layout = self._layouts[described] = _Layout(described, self.table, self._altered)
        self._require_whole(found, layout)
        kind = 0 if event.kind in log.INSERTS else 1 if event.kind in log.UPDATES else 2
        group = self._groups.get((described, kind))
        if group is None:
            group = self._groups[described, kind] = _Group(layout)
        images = group.images.add(found.data)
        rows, step = (images // 2, 2) if kind == 1 else (images, 1)
        # an update may have changed the key: a delete, and an upsert after it
        group.positions.extend(range(self.last + step, self.last + step * rows + 1, step))
        self.last += step * rows
        self._rows += rows
        self._bytes += len(found.data)
        return True

    def _require_whole(self, found: log.Rows, layout: _Layout) -> None:
        whole = (1 << found.columns) - 1
        for present in found.present:
            if int.from_bytes(present, "little") & whole != whole:
                raise StreamLostError(
                    "a change was logged without all columns (SET GLOBAL binlog_row_image = 'FULL')",
                    where=self.table.where,
                )
        if found.columns != len(layout.described.types):
            raise log.MalformedEventError("rows have other columns than their table")

    def truncated(self) -> None:
        self.last += 1
        self.truncates.append(self.last)

    def altered(self, added: set[str], dropped: set[str], redefined: list[str]) -> None:
        self._altered = True
        self.added |= added
        self.dropped |= dropped
        self.redefined += redefined
        for described, layout in self._layouts.items():
            if described.names is None and layout:
                raise SchemaChangedError(
                    "the table was altered, and the log names no columns (SET GLOBAL binlog_row_metadata = 'FULL')",
                    where=self.table.where,
                    remedy=self.table.remedy,
                )

    # batches

    def take(self) -> Iterator[ChangeBatch]:
        """What was fed so far. The order of the batches is no matter: each row has its position."""
        groups, self._groups = self._groups, {}
        self._rows = self._bytes = 0
        for (_, kind), group in groups.items():
            yield from self._batches(kind, group)

    def _batches(self, kind: int, group: _Group) -> Iterator[ChangeBatch]:
        columns = group.images.columns(list(group.layout.place_of.values()))
        positions = np.array(group.positions, np.int64)
        if kind != 1:
            batch = self._rows_of(group.layout, columns, None)
            yield passing(ChangeBatch(batch, "ud"[kind > 0], pa.array(positions)), self.table.row_filter)
            return
        every = np.arange(0, 2 * len(positions), 2)
        after = self._rows_of(group.layout, columns, every + 1)
        moved = self._moved(group.layout, columns, every, after)
        rows_of = partial(self._rows_of, group.layout, columns)
        left = gone(self.table.row_filter, moved, partial(rows_of, every), lambda: after)
        if left.any():
            yield ChangeBatch(rows_of(every[left]), "d", pa.array(positions[left] - 1))
        yield passing(ChangeBatch(after, "u", pa.array(positions)), self.table.row_filter)

    def _moved(self, layout: _Layout, columns: dict[int, Values], before: Any, after: pa.RecordBatch) -> Any:
        """Which rows have another key than before."""
        pc = arrow_compute()
        moved = np.zeros(len(before), bool)
        by_name = {logged.column.name: logged for logged in self.table.columns}
        for name in self.table.key:
            values = columns[layout.place_of[name]]
            same_bytes = values.of(before).bytes().equals(values.of(before + 1).bytes())
            if same_bytes:
                continue
            logged = by_name[name]
            old, lossy = decoded(values.of(before), logged, self._convert)
            parser = RowParser(
                self.table.where,
                [logged.column],
                pa.schema([self.schema.field(name), self.schema.field(UNFIT_COLUMN)]),
                self.table.key,
            )
            batch = parser.batch([_for_parser(old, self.schema.field(name).type)], [lossy] if lossy is not None else [])
            new = after.column(self.schema.get_field_index(name))
            old = batch.column(0)
            same = pc.or_(pc.fill_null(pc.equal(old, new), False), pc.and_(pc.is_null(old), pc.is_null(new)))
            moved |= pc.invert(same).to_numpy(zero_copy_only=False)
        return moved

    def _rows_of(self, layout: _Layout, columns: dict[int, Values], rows: Any) -> pa.RecordBatch:
        arrays, lossy = [], []
        count = len(rows) if rows is not None else len(next(iter(columns.values())).begin)
        for index, logged in enumerate(self.table.columns):
            kind = self.schema.field(index).type
            place = layout.place_of.get(logged.column.name)
            if place is None:  # the column was not there then
                arrays.append(pa.nulls(count, kind))
                lost = None
            else:
                values = columns[place] if rows is None else columns[place].of(rows)
                array, lost = decoded(values, logged, self._convert)
                arrays.append(_for_parser(array, kind))
            if logged.column.rule == "converted":
                lossy.append(pa.nulls(count, pa.binary()) if lost is None else lost)
        return self._parser.batch(arrays, lossy)


def _for_parser(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Text is binary to the parser, but where it has its type already."""
    if array.type == kind or array.type == pa.binary():
        return array
    return array.cast(pa.string()).cast(pa.binary())
