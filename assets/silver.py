"""Silver under snake_case names, kept in one of four ways: merge, append, replace, scd2."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.bronze import DELETE, FILLED, UPSERT, bronze_names, split_operations
from assets.lakehouse.data_files import BATCH_ROWS, fit
from assets.lakehouse.interface import DELETED_AT, LOADED_AT, OP, POSITION, RUN, Lakehouse, TableId
from assets.naming import METADATA_PREFIX, column_names
from assets.net_changes import NetChanges
from assets.part_staging import Progress
from assets.silver_history import IS_CURRENT, VALID_FROM, VALID_TO, VersionChanges, history_schema
from assets.sources.interface import UNFIT_COLUMN
from assets.sync import STREAM, CommitInfo, Manifest, Part, TableShape

if TYPE_CHECKING:
    import pyarrow as pa


def silver_names(source_columns: Sequence[str]) -> dict[str, str]:
    """Map Bronze columns to Silver columns; metadata columns keep their names."""
    names = column_names([name for name in source_columns if not name.startswith(METADATA_PREFIX)])
    return {bronze: names.get(source, source) for source, bronze in bronze_names(source_columns).items()}


def silver_schema(bronze_schema: pa.Schema, names: dict[str, str]) -> pa.Schema:
    """The Bronze schema under Silver names, without the operation, with ``_headrace_deleted_at`` (NULL = live)."""
    import pyarrow as pa

    fields = [f.with_name(names.get(f.name, f.name)) for f in bronze_schema if f.name != OP]
    return pa.schema([*fields, pa.field(DELETED_AT, pa.timestamp("us", tz="UTC"))])


def _renamed(batches: Iterator[pa.RecordBatch], names: dict[str, str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    bronze_of = {silver: bronze for bronze, silver in names.items()}
    for batch in batches:
        present = set(batch.schema.names)
        arrays = [
            batch.column(source)
            if (source := bronze_of.get(f.name, f.name)) in present
            else pa.nulls(len(batch), f.type)
            for f in schema
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


Batches = Callable[[], Iterator["pa.RecordBatch"]]
FILL, SCHEMA, BACKFILL = "#fill", "#schema", "~backfill"
"""Parts of commit tags: an added column's values, a change of the schema alone, a backfill's run."""


@dataclass(frozen=True)
class _RunRows:
    """What one run brought to Bronze, to be read several times. ``parts``: its rows' staged files, if left."""

    upserts: Batches
    deletes: Batches
    parts: Sequence[Part] | None


class SilverTable:
    """The Silver table of one source table, and how it follows its Bronze table.

    Args:
        columns: the source's columns that are stored, under its names, those that left it included.
        shape: how Silver is kept.
        memory_limit, scratch: for the comparison of versions (``append``, ``scd2``).
    """

    def __init__(
        self,
        lakehouse: Lakehouse,
        connector: str,
        table: str,
        columns: Sequence[str],
        shape: TableShape | None = None,
        *,
        memory_limit: str = "256MB",
        scratch: Path | None = None,
    ) -> None:
        self.lakehouse = lakehouse
        self.bronze = TableId(layer="bronze", connector=connector, table=table)
        self.silver = TableId(layer="silver", connector=connector, table=table)
        self.shape = shape or TableShape()
        names = list(dict.fromkeys([*columns, *(c.name for c in self.shape.kept)]))
        self.bronze_of = bronze_names(names)
        self.names = silver_names(names)
        self._memory_limit, self._scratch = memory_limit, scratch or Path(tempfile.gettempdir())

    def key(self, key: Sequence[str]) -> list[str]:
        """The key's Silver columns."""
        return [self.names[self.bronze_of[column]] for column in key]

    def schema(self, bronze_schema: pa.Schema) -> pa.Schema:
        schema = silver_schema(bronze_schema, self.names)
        return history_schema(schema) if self.shape.write == "scd2" else schema

    def load(self, manifest: Manifest, bronze_schema: pa.Schema, follows: int) -> CommitInfo:
        """Bring this manifest's rows into Silver, in one commit."""
        rows = _RunRows(
            lambda: self.lakehouse.read_parts(manifest.parts),
            lambda: self.lakehouse.read_parts(manifest.deletes),
            manifest.parts,
        )
        if manifest.mode == "cdc":
            return self._bring_changes(
                lambda: self.lakehouse.read_parts(manifest.parts), bronze_schema, manifest.key, manifest.tag, follows
            )
        if manifest.fills:
            self._fill(lambda: self.lakehouse.read_parts(manifest.fills), manifest.shape.filled, manifest.tag, follows)
        anew = manifest.mode == "full" and manifest.tag == manifest.shape.epoch
        return self._bring(rows, bronze_schema, manifest.key, manifest.tag, follows, manifest.mode == "full", anew)

    def _bring_changes(
        self, changes: Batches, bronze_schema: pa.Schema, key: Sequence[str], tag: str, follows: int
    ) -> CommitInfo:
        """Bring a log's changes, of which one key may have several: the last one counts, or each where all are kept."""
        if self.shape.write == "append":
            schema = self.schema(bronze_schema)
            parts = self._write(self._every(changes(), schema), schema, tag)
            return self.lakehouse.commit(self.silver, parts, schema, tag=tag, replace=False, follows=follows)
        columns = [self.bronze_of[column] for column in key]
        with NetChanges(changes, columns, memory_limit=self._memory_limit, scratch=self._scratch) as net:
            rows = _RunRows(net.upserts, net.deletes, None)
            return self._bring(rows, bronze_schema, key, tag, follows, False, False)

    def _bring(
        self,
        rows: _RunRows,
        bronze_schema: pa.Schema,
        key: Sequence[str],
        tag: str,
        follows: int,
        whole: bool,
        anew: bool,
    ) -> CommitInfo:
        schema, write = self.schema(bronze_schema), self.shape.write
        # an old answer would lose history; merge and replace look when they commit
        stored = self.lakehouse.state(self.silver) if write in ("append", "scd2") else None
        if write == "scd2":
            if stored is None or anew:
                return self._replace(self._opened(rows.upserts(), schema, None), schema, tag, follows)
            return self._new_versions(rows, schema, key, tag, follows, whole)
        if write == "append" and stored is not None and not anew:
            if whole or tag.endswith(BACKFILL):
                return self._append_new(rows, schema, key, tag, follows, whole)
            return self._append(rows, schema, tag, follows)
        if write != "append" and not self.shape.filled:
            done = self._load_in_place(schema, tag, key, whole, follows)
            if done is not None:
                return done
        own = self._own_parts(rows)
        if whole or write == "append":
            if own is not None:
                return self.lakehouse.commit(self.silver, own, schema, tag=tag, replace=True, follows=follows)
            return self._replace(_renamed(rows.upserts(), self.names, schema), schema, tag, follows)
        return self.lakehouse.upsert(
            self.silver,
            _renamed(rows.upserts(), self.names, schema),
            self._key_rows(rows.deletes(), key),
            schema,
            key=self.key(key),
            tag=tag,
            follows=follows,
            parts=own or (),
        )

    def _own_parts(self, rows: _RunRows) -> Sequence[Part] | None:
        """Bronze's parts, where they serve as Silver's own data files, unread: the same names, the same types."""
        return rows.parts if all(bronze == silver for bronze, silver in self.names.items()) else None

    def _write(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, tag: str) -> tuple[Part, ...]:
        with self.lakehouse.part_writer(self.silver.connector, self.silver.table, tag, 1, "silver", schema) as writer:
            for batch in batches:
                writer.write(batch)
        return writer.parts

    def _replace(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, tag: str, follows: int) -> CommitInfo:
        parts = self._write(batches, schema, tag)
        return self.lakehouse.commit(self.silver, parts, schema, tag=tag, replace=True, follows=follows)

    def _load_in_place(
        self, schema: pa.Schema, tag: str, key: Sequence[str], replace: bool, follows: int
    ) -> CommitInfo | None:
        return self.lakehouse.load_run(
            self.silver,
            self.bronze,
            schema,
            tag=tag,
            names=self.names,
            key=self.key(key),
            replace=replace,
            follows=follows,
        )

    def _key_rows(self, batches: Iterator[pa.RecordBatch], key: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Deletes as the merge takes them: key columns under Silver names, and the run's metadata."""
        columns = [*(self.bronze_of[column] for column in key), RUN, LOADED_AT, POSITION]
        for batch in batches:
            rows = batch.select(columns)
            yield rows.rename_columns([self.names.get(name, name) for name in rows.schema.names])

    # append

    def _append(self, rows: _RunRows, schema: pa.Schema, tag: str, follows: int) -> CommitInfo:
        """Every row that was read, and every delete, as it came."""
        own = self._own_parts(rows)
        if own is not None:
            parts = tuple(own) + self._write(self._ends(rows.deletes(), schema), schema, tag)
        else:
            upserts = _renamed(rows.upserts(), self.names, schema)
            parts = self._write(chain(upserts, self._ends(rows.deletes(), schema)), schema, tag)
        return self.lakehouse.commit(self.silver, parts, schema, tag=tag, replace=False, follows=follows)

    def _ends(self, deletes: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Deletes as rows of their own: the key, and when it was found gone."""
        for batch in _renamed(deletes, self.names, schema):
            index = schema.get_field_index(DELETED_AT)
            yield batch.set_column(index, schema.field(index), batch.column(LOADED_AT))

    def _every(self, changes: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Changes as they came; those that delete say when that was found."""
        pc = arrow_compute()
        index = schema.get_field_index(DELETED_AT)
        for batch in changes:
            gone = pc.if_else(pc.equal(batch.column(OP), DELETE), batch.column(LOADED_AT), None)
            (rows,) = _renamed(iter([batch]), self.names, schema)
            yield rows.set_column(index, schema.field(index), gone)

    def _append_new(
        self, rows: _RunRows, schema: pa.Schema, key: Sequence[str], tag: str, follows: int, whole: bool
    ) -> CommitInfo:
        """Of a snapshot only what differs from the newest version of its key (without a key: from any row)."""
        with self._changes(rows, schema, key, live=False) as changes:
            changes.decide(whole=whole)
            fresh = changes.opened(_renamed(rows.upserts(), self.names, schema))
            position, _ = changes.newest()
            stamp = {RUN: tag, LOADED_AT: datetime.now(UTC), POSITION: position}
            ended = (_stamped(fit(keys, schema), stamp) for keys in changes.ended_keys(BATCH_ROWS))
            parts = self._write(chain(fresh, ended), schema, tag)
        return self.lakehouse.commit(self.silver, parts, schema, tag=tag, replace=False, follows=follows)

    # scd2

    def _new_versions(
        self, rows: _RunRows, schema: pa.Schema, key: Sequence[str], tag: str, follows: int, whole: bool
    ) -> CommitInfo:
        """Close the versions that ended, open the new ones: one upsert by key and ``valid_from``."""
        with self._changes(rows, schema, key, live=True) as changes:
            changes.decide(whole=whole)
            moment = self._moment(rows)
            opened = self._opened(rows.upserts(), schema, moment)
            with self.lakehouse.scan(self.silver) as stored:
                closed = (_closed(batch, moment) for batch in changes.closed(fit(b, schema) for b in stored))
                return self.lakehouse.upsert(
                    self.silver,
                    chain(closed, changes.opened(opened)),
                    iter(()),
                    schema,
                    key=[*self.key(key), VALID_FROM],
                    tag=tag,
                    follows=follows,
                )

    def _moment(self, rows: _RunRows) -> datetime:
        """When the versions of this run begin: its load time, but after every version that is stored."""
        loaded = [b.column(LOADED_AT)[0].as_py() for b in chain(rows.upserts(), rows.deletes()) if b.num_rows][:1]
        moment = loaded[0] if loaded else datetime.now(UTC)
        with self.lakehouse.scan(self.silver, [VALID_FROM], live=False) as stored:
            latest = [v for b in stored if (v := arrow_compute().max(b.column(0)).as_py()) is not None]
        return max([moment, *(value + timedelta(microseconds=1) for value in latest)])

    def _opened(
        self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, moment: datetime | None
    ) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in _renamed(batches, self.names, schema):
            start = batch.column(LOADED_AT) if moment is None else _constant(moment, schema, VALID_FROM, len(batch))
            values = {VALID_FROM: start, IS_CURRENT: pa.repeat(True, len(batch))}
            yield _with_columns(batch, values)

    # shared by append and scd2

    @contextmanager
    def _changes(
        self, rows: _RunRows, schema: pa.Schema, key: Sequence[str], *, live: bool
    ) -> Iterator[VersionChanges]:
        import pyarrow as pa

        own = [f for f in schema if f.name == UNFIT_COLUMN or not f.name.startswith(METADATA_PREFIX)]
        compared = pa.schema(own)
        silver_key = self.key(key)
        with VersionChanges(silver_key, compared, memory_limit=self._memory_limit, scratch=self._scratch) as changes:
            for batch in _renamed(rows.upserts(), self.names, schema):
                changes.add_fresh(batch)
            for batch in self._key_rows(rows.deletes(), key):
                changes.add_left(batch.select(silver_key))
            there = set(self.lakehouse.schema(self.silver).names)
            wanted = [n for n in (*compared.names, POSITION, LOADED_AT, DELETED_AT) if n in there]
            with self.lakehouse.scan(self.silver, wanted, live=live) as stored:
                for batch in stored:
                    changes.add_stored(batch)
            yield changes

    def _fill(self, fills: Batches, columns: Sequence[str], tag: str, follows: int) -> None:
        """Give stored rows the values of columns that were added: a commit of its own before the run's."""
        import pyarrow as pa

        from assets.column_fill import ColumnFill

        key = self.key(self.shape.key)
        added = [self.names[self.bronze_of[name]] for name in columns]
        schema = self.lakehouse.schema(self.silver)
        first = next(iter(fills()), None)
        if first is None:
            return
        new = [pa.field(n, first.schema.field(self.bronze_of[c]).type) for n, c in zip(added, columns, strict=True)]
        wider = pa.schema([*(f for f in schema if f.name not in added), *new])
        with ColumnFill(key, pa.schema(new), wider, memory_limit=self._memory_limit, scratch=self._scratch) as fill:
            for batch in fills():
                fill.add(batch.rename_columns([self.names.get(n, n) for n in batch.schema.names]))
            with self.lakehouse.scan(self.silver) as stored:
                merge_key = [*key, VALID_FROM] if self.shape.write == "scd2" else key
                filled = fill.applied(fit(batch, wider) for batch in stored)
                self.lakehouse.upsert(
                    self.silver, filled, iter(()), wider, key=merge_key, tag=f"{tag}{FILL}", follows=follows
                )

    def catch_up(self, key: Sequence[str], progress: Progress | None = None) -> int:
        """Merge what earlier runs committed to Bronze and did not live to merge. Returns how many runs were merged.

        Goes by what the lakehouse was asked last: `Lakehouse.refresh` comes before.
        """
        bronze, silver = self.lakehouse.known_state(self.bronze), self.lakehouse.known_state(self.silver)
        if bronze is None:
            return 0
        merged = set(silver.tags) if silver else set()
        # runs older than Silver's newest merged run are covered by it
        newest = max((i for i, tag in enumerate(bronze.tags) if tag in merged), default=-1)
        pending = [tag for tag in bronze.tags[newest + 1 :] if tag not in merged and SCHEMA not in tag]
        base = bronze.watermark.base_run if bronze.watermark else None
        anew = self.shape.epoch in pending
        if base in pending:
            pending = pending[pending.index(base) :]
        if not pending:
            return 0
        schema = self.lakehouse.schema(self.bronze)
        for tag in pending:
            if tag != base and bronze.watermark and STREAM in bronze.watermark.position:
                self._bring_changes(lambda tag=tag: self._of_run(tag), schema, key, tag, bronze.version)
                continue
            rows = _RunRows(lambda tag=tag: self._of_run(tag, UPSERT), lambda tag=tag: self._of_run(tag, DELETE), None)
            if self.shape.filled and tag == pending[-1]:
                self._fill(lambda tag=tag: self._of_run(tag, FILLED), self.shape.filled, tag, bronze.version)
            self._bring(rows, schema, key, tag, bronze.version, tag == base, anew and tag == base)
            if progress:
                progress(0, 0)
        return len(pending)

    def _of_run(self, tag: str, operation: str | None = None) -> Iterator[pa.RecordBatch]:
        with self.lakehouse.rows_of_run(self.bronze, tag) as rows:
            yield from split_operations(iter(rows), operation) if operation else rows


@contextmanager
def stored_rows(silver: SilverTable, columns: Sequence[str]) -> Iterator[Iterator[pa.RecordBatch]]:
    """Silver's rows for a comparison with the source: ``columns`` under the source's names. Where Silver appends, all
    versions, followed by the metadata that tells the newest of a key."""
    stored = [silver.names[silver.bronze_of[name]] if name != UNFIT_COLUMN else name for name in columns]
    appends = silver.shape.write == "append"
    extra = [POSITION, LOADED_AT, DELETED_AT] if appends else []
    with silver.lakehouse.scan(silver.silver, [*stored, *extra], live=not appends) as rows:
        yield (batch.rename_columns([*columns, *extra]) for batch in rows)


def _constant(value: Any, schema: pa.Schema, name: str, rows: int) -> pa.Array:
    import pyarrow as pa

    return pa.repeat(pa.scalar(value, schema.field(name).type), rows)


def _with_columns(batch: pa.RecordBatch, values: dict[str, pa.Array]) -> pa.RecordBatch:
    import pyarrow as pa

    arrays = [values.get(f.name, batch.column(i)) for i, f in enumerate(batch.schema)]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _stamped(batch: pa.RecordBatch, stamp: dict[str, Any]) -> pa.RecordBatch:
    """A row that says "this key is gone", of this run."""
    named = stamp | {DELETED_AT: stamp[LOADED_AT]}
    return _with_columns(batch, {n: _constant(v, batch.schema, n, len(batch)) for n, v in named.items()})


def _closed(batch: pa.RecordBatch, moment: datetime) -> pa.RecordBatch:
    import pyarrow as pa

    ends = {name: _constant(moment, batch.schema, name, len(batch)) for name in (VALID_TO, DELETED_AT)}
    return _with_columns(batch, ends | {IS_CURRENT: pa.repeat(False, len(batch))})
