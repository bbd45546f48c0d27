"""Silver: one current row a key, snake_case names, deletes soft with the last values kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from assets.bronze import DELETE, UPSERT, bronze_names, split_operations
from assets.lakehouse.interface import DELETED_AT, LOADED_AT, OP, POSITION, RUN, Lakehouse, TableId
from assets.naming import METADATA_PREFIX, column_names
from assets.sync import CommitInfo, Manifest

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[int, int], None]


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


class SilverTable:
    """The Silver table of one source table, and how it follows its Bronze table."""

    def __init__(self, lakehouse: Lakehouse, connector: str, table: str, columns: Sequence[str]) -> None:
        self.lakehouse = lakehouse
        self.bronze = TableId(layer="bronze", connector=connector, table=table)
        self.silver = TableId(layer="silver", connector=connector, table=table)
        self.bronze_of = bronze_names(columns)
        self.names = silver_names(columns)

    def key(self, key: Sequence[str]) -> list[str]:
        """The key's Silver columns."""
        return [self.names[self.bronze_of[column]] for column in key]

    def _replace(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, tag: str, follows: int) -> CommitInfo:
        with self.lakehouse.part_writer(self.silver.connector, self.silver.table, tag, 1, "silver", schema) as writer:
            for batch in batches:
                writer.write(batch)
        return self.lakehouse.commit(self.silver, writer.parts, schema, tag=tag, replace=True, follows=follows)

    def load(self, manifest: Manifest, bronze_schema: pa.Schema, follows: int) -> CommitInfo:
        """Bring this manifest's rows into Silver: a full read swaps the content, an incremental one merges by key."""
        schema = silver_schema(bronze_schema, self.names)
        replace = manifest.mode == "full"
        if done := self._load_in_place(schema, manifest.tag, manifest.key, replace, follows):
            return done
        if replace:
            if all(bronze == silver for bronze, silver in self.names.items()):
                # same names, same types: Bronze's parts serve as Silver's own data files, unread
                return self.lakehouse.commit(
                    self.silver, manifest.parts, schema, tag=manifest.tag, replace=True, follows=follows
                )
            rows = _renamed(self.lakehouse.read_parts(manifest.parts), self.names, schema)
            return self._replace(rows, schema, manifest.tag, follows)
        return self.lakehouse.upsert(
            self.silver,
            _renamed(self.lakehouse.read_parts(manifest.parts), self.names, schema),
            self._key_rows(self.lakehouse.read_parts(manifest.deletes), manifest.key),
            schema,
            key=self.key(manifest.key),
            tag=manifest.tag,
            follows=follows,
        )

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

    def catch_up(self, key: Sequence[str], progress: Progress | None = None) -> int:
        """Merge what earlier runs committed to Bronze and did not live to merge. Returns how many runs were merged."""
        bronze, silver = self.lakehouse.state(self.bronze), self.lakehouse.state(self.silver)
        if bronze is None:
            return 0
        merged = set(silver.tags) if silver else set()
        # runs older than Silver's newest merged run are covered by it
        newest = max((i for i, tag in enumerate(bronze.tags) if tag in merged), default=-1)
        pending = [tag for tag in bronze.tags[newest + 1 :] if tag not in merged]
        base = bronze.watermark.base_run if bronze.watermark else None
        if base in pending:
            pending = pending[pending.index(base) :]
        if not pending:
            return 0
        schema = silver_schema(self.lakehouse.schema(self.bronze), self.names)
        for tag in pending:
            if self._load_in_place(schema, tag, key, tag == base, bronze.version):
                pass
            elif tag == base:
                with self.lakehouse.rows_of_run(self.bronze, tag) as rows:
                    self._replace(_renamed(iter(rows), self.names, schema), schema, tag, bronze.version)
            else:
                with (
                    self.lakehouse.rows_of_run(self.bronze, tag) as rows,
                    self.lakehouse.rows_of_run(self.bronze, tag) as again,
                ):
                    self.lakehouse.upsert(
                        self.silver,
                        _renamed(split_operations(iter(rows), UPSERT), self.names, schema),
                        self._key_rows(split_operations(iter(again), DELETE), key),
                        schema,
                        key=self.key(key),
                        tag=tag,
                        follows=bronze.version,
                    )
            if progress:
                progress(0, 0)
        return len(pending)
