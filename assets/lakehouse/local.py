"""The local engine: Delta tables on a folder or in S3, read by delta-rs, committed by Headrace's own log entries."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.errors import CommitConflictError, ConfigurationError, LakehouseError, OvertakenError
from assets.failpoints import failpoint
from assets.lakehouse.data_files import TouchedRows, file_batches, fit
from assets.lakehouse.deletion_vectors import DeletionVector, vector_prefix
from assets.lakehouse.delta_log import MASKS, DataFile, Snapshot, write_commit
from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION, RUN, Lakehouse, PartWriter, TableId, TableState
from assets.lakehouse.key_index import KeyIndexes
from assets.lakehouse.key_merge import TouchedKeys
from assets.lakehouse.parquet_parts import delta_statistics
from assets.lakehouse.retention import keep_up
from assets.lakehouse.snapshot_cache import SnapshotCache
from assets.lakehouse.staging import Staging
from assets.lakehouse.storage import FolderStorage, Storage
from assets.lakehouse.table_merge import FileMerge, MaskedRows, files_to_rewrite
from assets.naming import path_part, table_slug
from assets.sync import CommitInfo, Manifest, Part, Watermark

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.lakehouse.lakehouse_status import LakehouseStatus
    from assets.lakehouse.rehearsal import Rehearsal
    from assets.settings import Settings

TAGS, WATERMARK, FOLLOWS = "headrace.tags", "headrace.watermark", "headrace.follows"
KEPT_TAGS = 200
COMMIT_TRIES = 5
CATALOG = "headrace"


_log = logging.getLogger(__name__)


@dataclass
class _Change:
    """What one commit is to write, made for one snapshot of the table."""

    schema: pa.Schema
    add: list[dict[str, Any]]
    remove: list[DataFile]
    operation: str
    watermark: Watermark | None
    counts: dict[str, Any]
    masked: list[dict[str, Any]] = field(default_factory=list)
    """Actions of files that stay, under new deletion vectors: ``remove`` names them too."""

    @property
    def new_files(self) -> set[str]:
        vectors = {DeletionVector.from_log(action["deletionVector"]).file for action in self.masked}
        return {action["path"] for action in self.add} | {name for name in vectors if name}


class LocalLakehouse(Lakehouse):
    """Delta tables under ``root/<layer>/<connector>__<table>``, parts under ``staging``, both in one storage.

    Args:
        root: folder of the tables, an absolute path or ``s3://bucket/prefix``.
        staging: folder of the parts.
        scratch: local folder for what a merge cannot hold in memory.
        retention_hours: how long replaced data files and old log entries stay readable.
        rewrite_bytes: an upsert rewrites files of so many bytes; beyond, it marks rows by deletion vectors.
    """

    def __init__(
        self,
        root: str,
        staging: str,
        scratch: Path,
        *,
        storage: Storage | None = None,
        memory_limit: str = "256MB",
        retention_hours: float = 24,
        rewrite_bytes: int = 32 << 20,
    ) -> None:
        self.root = root
        self.storage = storage or FolderStorage()
        self._staging = Staging(self.storage, staging)
        self._snapshots = SnapshotCache(self.storage)
        self._scratch = scratch
        self._memory_limit = memory_limit
        self._retention_hours = retention_hours
        self._rewrite_bytes = rewrite_bytes

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalLakehouse:
        home, url, staging = settings.home_path, settings.lakehouse_url or "", settings.staging_url or ""
        kinds = {address.split("://")[0] if "://" in address else "folder" for address in (url, staging) if address}
        if kinds - {"folder", "s3"} or len(kinds) > 1:
            raise ConfigurationError(
                f"the local lakehouse cannot lie on {' and '.join(sorted(kinds))}",
                remedy="Set HEADRACE_LAKEHOUSE_URL and HEADRACE_STAGING_URL both to folders or both to s3://.",
            )
        storage: Storage
        if kinds == {"s3"}:
            from assets.lakehouse.s3_storage import S3Storage

            if not url:
                raise ConfigurationError(
                    "staging in S3 serves tables in S3 only", remedy="Set HEADRACE_LAKEHOUSE_URL to s3://BUCKET/PREFIX."
                )
            root, storage = url.rstrip("/"), S3Storage(settings)
            staged = staging.rstrip("/") or f"{root}/_staging"
        else:
            root = str(Path(url).expanduser().resolve()) if url else str(home / "lakehouse")
            staged = str(Path(staging).expanduser().resolve()) if staging else str(home / "staging")
            storage = FolderStorage()
        return cls(
            root,
            staged,
            home / "scratch",
            storage=storage,
            memory_limit=settings.memory_limit,
            retention_hours=settings.retention_hours,
            rewrite_bytes=settings.rewrite_mb << 20,
        )

    def initialise(self) -> list[str]:
        from assets.lakehouse.local_status import initialise

        return initialise(self)

    def examine(self) -> LakehouseStatus:
        from assets.lakehouse.local_status import examine

        return examine(self)

    def rehearsal(self) -> Rehearsal:
        from assets.lakehouse.local_rehearsal import LocalRehearsal

        return LocalRehearsal(self)

    @property
    def staging_root(self) -> str:
        return self._staging.root

    def table_format(self, table: TableId) -> tuple[int, int] | None:
        return self._existing(table).protocol

    def uri(self, table: TableId) -> str:
        return f"{self.root}/{table.layer}/{path_part(table.connector)}__{table_slug(table.table)}"

    def qualified_name(self, table: TableId) -> str:
        return f"{CATALOG}.{table.layer}.{table.connector}__{table_slug(table.table)}"

    def _snapshot(self, table: TableId) -> Snapshot | None:
        return self._snapshots.read(self.uri(table), DELETED_AT)

    def _existing(self, table: TableId) -> Snapshot:
        snapshot = self._snapshot(table)
        if snapshot is None:
            raise LakehouseError("the table does not exist", where=self.uri(table))
        return snapshot

    def state(self, table: TableId) -> TableState | None:
        snapshot = self._snapshot(table)
        if snapshot is None:
            return None
        stored = snapshot.configuration
        return TableState(
            version=snapshot.version,
            rows=sum(file.rows for file in snapshot.files),
            bytes=sum(file.size for file in snapshot.files),
            files=len(snapshot.files),
            tags=tuple(json.loads(stored.get(TAGS, "[]"))),
            watermark=Watermark.model_validate_json(stored[WATERMARK]) if WATERMARK in stored else None,
            follows=int(stored[FOLLOWS]) if FOLLOWS in stored else None,
        )

    def schema(self, table: TableId) -> pa.Schema:
        return self._existing(table).schema

    # staging

    def part_writer(
        self, connector: str, table: str, run_group: str, attempt: int, stream: str, schema: pa.Schema
    ) -> PartWriter:
        folder = self._staging.folder(connector, table, run_group)
        return self._staging.writer(f"{folder}/{path_part(stream)}-a{attempt}", schema)

    def write_manifest(self, manifest: Manifest) -> str:
        return self._staging.write_manifest(manifest)

    def read_manifest(self, uri: str) -> Manifest:
        return self._staging.read_manifest(uri)

    stages_notes = True
    stores_encoded_rows = True
    keeps_small_tables = True

    def latest_manifest(self, connector: str, table: str, run_group: str) -> str | None:
        return self._staging.latest_manifest(connector, table, run_group)

    def write_note(self, connector: str, table: str, run_group: str, name: str, text: str) -> str:
        return self._staging.write_note(connector, table, run_group, name, text)

    def read_note(self, uri: str) -> str | None:
        try:
            return self.storage.read_text(uri)
        except FileNotFoundError:
            return None

    def clear_staging(self, connector: str, table: str, run_group: str | None = None) -> None:
        self._staging.clear(connector, table, run_group)

    def read_parts(self, parts: Sequence[Part], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        for part in parts:
            with self.storage.open_input(part.uri) as opened, pq.ParquetFile(opened) as file:
                yield from file.iter_batches(columns=list(columns) if columns is not None else None)

    # commits

    def _repeated(self, table: TableId, snapshot: Snapshot | None, tag: str) -> CommitInfo | None:
        tags = json.loads(snapshot.configuration.get(TAGS, "[]")) if snapshot else []
        if snapshot is None or tag not in tags:
            return None
        if tags[-1] == tag:
            vectors = {file.vector.file or "" for file in snapshot.files if file.vector}
            self._clear_other_tries(table, tag, {file.path for file in snapshot.files} | vectors)
        return CommitInfo(version=snapshot.version, rows_total=sum(f.rows for f in snapshot.files), repeated=True)

    @staticmethod
    def _refuse_overtaken(table: TableId, snapshot: Snapshot | None, base_tag: str | None) -> None:
        tags = json.loads(snapshot.configuration.get(TAGS, "[]")) if snapshot else []
        if base_tag is not None and (tags[-1] if tags else "") != base_tag:
            raise OvertakenError(
                "another run has committed to the table since this one began",
                where=f"{table.connector}/{table.table}",
                remedy="Sync the table again.",
            )

    def _configuration(
        self, snapshot: Snapshot | None, tag: str, watermark: Watermark | None, follows: int | None
    ) -> dict[str, str]:
        stored = dict(snapshot.configuration) if snapshot else {}
        hours = f"interval {max(1, round(self._retention_hours))} hours"
        stored |= {"delta.logRetentionDuration": hours, "delta.deletedFileRetentionDuration": hours}
        stored["delta.dataSkippingNumIndexedCols"] = "-1"  # delta-rs reads the counts of all columns then, not of 32
        stored[TAGS] = json.dumps([*json.loads(stored.get(TAGS, "[]")), tag][-KEPT_TAGS:])
        if watermark is not None:
            stored[WATERMARK] = watermark.model_dump_json()
        if follows is not None:
            stored[FOLLOWS] = str(follows)
        return stored

    @staticmethod
    def _file_prefix(tag: str) -> str:
        return hashlib.sha256(tag.encode()).hexdigest()[:24] + "-"

    def _clear_other_tries(self, table: TableId, tag: str, committed: set[str]) -> None:
        """Remove files of tries that died. Safe once the tag is committed: a rival that has not seen it loses."""
        folder = self.uri(table)
        for prefix in (self._file_prefix(tag), vector_prefix(tag)):
            for file in list(self.storage.files(folder, prefix)):
                if file.name not in committed:
                    self.storage.delete(f"{folder}/{file.name}")

    def _adopt(self, folder: str, parts: Sequence[Part], tag: str, schema: pa.Schema) -> list[dict[str, Any]]:
        """Make staged parts data files of the table, under names of this try: a rival's files are never touched."""
        prefix = f"{self._file_prefix(tag)}{uuid.uuid4().hex[:12]}"
        actions = []
        for number, part in enumerate(parts):
            name = f"{prefix}-p{number}.parquet"
            self.storage.adopt(part.uri, f"{folder}/{name}")
            file = self.storage.stat(f"{folder}/{name}")
            with self.storage.open_input(part.uri) as opened:
                statistics = delta_statistics(opened, schema)
            actions.append(
                {
                    "path": name,
                    "partitionValues": {},
                    "size": file.size,
                    "modificationTime": int(file.changed * 1000),
                    "dataChange": True,
                    "stats": statistics,
                }
            )
        if actions:
            self.storage.settle(folder)
        return actions

    @staticmethod
    def _merged_schema(table: TableId, snapshot: Snapshot | None, wanted: pa.Schema) -> pa.Schema:
        """The table's schema after a commit: its columns, new ones at the end; a changed type is refused."""
        import pyarrow as pa

        where = f"{table.connector}/{table.table}"
        current = snapshot.schema if snapshot else pa.schema([])
        names = list(dict.fromkeys([*current.names, *wanted.names]))
        lowered = [name.lower() for name in names]
        twins = sorted({name for name in names if lowered.count(name.lower()) > 1})
        if twins:
            raise LakehouseError(f"Delta holds no names that differ only by case: {', '.join(twins)}", where=where)
        if snapshot is None:
            return wanted
        for column in wanted:
            if column.name in current.names and current.field(column.name).type != column.type:
                raise LakehouseError(
                    f"column {column.name} was {current.field(column.name).type} and is now {column.type}",
                    where=where,
                    remedy=f"Run: headrace sync {table.connector} {table.table} --mode full",
                )
        return pa.schema([*current, *(field for field in wanted if field.name not in current.names)])

    def _commit(
        self,
        table: TableId,
        tag: str,
        follows: int | None,
        prepare: Callable[[Snapshot | None], _Change],
        base_tag: str | None = None,
    ) -> CommitInfo:
        """Try ``prepare`` and the log entry until one wins: a rival's commit makes us read the table again."""
        folder = self.uri(table)
        for number in range(COMMIT_TRIES):
            snapshot = self._snapshot(table)
            if repeated := self._repeated(table, snapshot, tag):
                return repeated
            self._refuse_overtaken(table, snapshot, base_tag)
            try:
                change = prepare(snapshot)
            except FileNotFoundError:
                # a rival with our tag may have committed and cleared our files
                if repeated := self._repeated(table, self._snapshot(table), tag):
                    return repeated
                raise
            failpoint(f"during_{table.layer}_commit")
            try:
                version = write_commit(
                    self.storage,
                    folder,
                    snapshot,
                    change.schema,
                    self._configuration(snapshot, tag, change.watermark, follows),
                    tag=tag,
                    add=change.add + change.masked,
                    remove=change.remove,
                    operation=change.operation,
                )
            except CommitConflictError:
                for name in change.new_files:
                    self.storage.delete(f"{folder}/{name}")
                if number == COMMIT_TRIES - 1:
                    raise
                continue
            self._clear_other_tries(table, tag, change.new_files)
            try:
                keep_up(self.storage, folder, version, self._retention_hours)
            except Exception as error:  # the commit stands; the next checkpoint makes up for this one
                _log.warning("%s: no checkpoint or clean-up after version %s: %s", folder, version, error)
            return CommitInfo(version=version, **change.counts)
        raise AssertionError("unreachable")

    def commit(
        self,
        table: TableId,
        parts: Sequence[Part],
        schema: pa.Schema,
        *,
        tag: str,
        replace: bool,
        watermark: Watermark | None = None,
        follows: int | None = None,
        base_tag: str | None = None,
    ) -> CommitInfo:
        def prepare(snapshot: Snapshot | None) -> _Change:
            merged = self._merged_schema(table, None if replace else snapshot, schema)
            old = snapshot.files if snapshot else []
            add = self._adopt(self.uri(table), parts, tag, merged)
            rows, old_rows = sum(part.rows for part in parts), sum(file.rows for file in old)
            return _Change(
                schema=merged,
                add=add,
                remove=old if replace else [],
                operation="WRITE",
                watermark=watermark,
                counts={
                    "rows_added": rows,
                    "rows_removed": old_rows if replace else 0,
                    "bytes_added": sum(action["size"] for action in add),
                    "rows_total": rows + (0 if replace else old_rows),
                },
            )

        return self._commit(table, tag, follows, prepare, base_tag)

    def upsert(
        self,
        table: TableId,
        changes: Iterator[pa.RecordBatch],
        deletes: Iterator[pa.RecordBatch],
        schema: pa.Schema,
        *,
        key: Sequence[str],
        tag: str,
        follows: int | None = None,
        parts: Sequence[Part] = (),
    ) -> CommitInfo:
        first = self._snapshot(table)
        if repeated := self._repeated(table, first, tag):
            return repeated
        target = self._merged_schema(table, first, schema)
        folder = self.uri(table)
        work = f"{self._staging.folder(table.connector, table.table)}/merge-{uuid.uuid4().hex}"
        try:
            with TouchedKeys(key, target, memory_limit=self._memory_limit, scratch=self._scratch) as touched:
                if parts:
                    for batch in self.read_parts(parts, key):
                        touched.add(batch, gone=False)
                else:
                    with self._staging.writer(f"{work}/new", target) as new:
                        for batch in changes:
                            touched.add(batch, gone=False)
                            new.write(fit(batch, target))
                    parts = new.parts
                touched.require_unique(f"{table.connector}/{table.table}")
                stamp: dict[str, Any] = {}
                for batch in deletes:
                    touched.add(batch, gone=True)
                    stamp = stamp or {name: batch.column(name)[0] for name in (RUN, LOADED_AT, POSITION)}

                def prepare(snapshot: Snapshot | None) -> _Change:
                    merged = self._merged_schema(table, snapshot, target)
                    files = snapshot.files if snapshot else []
                    masked = MaskedRows(self.storage, folder)
                    hit = touched.rows_in(self.storage, folder, files, masked.of)
                    plain = snapshot is None or MASKS not in snapshot.features
                    anew = files_to_rewrite(files, hit, self._rewrite_bytes, plain=plain)
                    merge = FileMerge(self.storage, folder, snapshot.version if snapshot else 0, merged, masked, stamp)
                    with self._staging.writer(f"{work}/kept-{uuid.uuid4().hex}", merged) as kept:
                        for file in files:
                            rows = hit.get(file.path, TouchedRows.none())
                            if file.path in anew:
                                for batch in merge.rows_of(file, rows):
                                    kept.write(batch)
                            elif file.path in hit:
                                for batch in merge.mark(file, rows):
                                    kept.write(batch)
                    add = self._adopt(folder, [*parts, *kept.parts], tag, merged)
                    added = sum(part.rows for part in parts)
                    gone = sum(int((~rows.gone).sum()) for rows in hit.values())
                    return _Change(
                        schema=merged,
                        add=add,
                        masked=merge.actions(files, tag),
                        remove=[file for file in files if file.path in anew or file.path in merge.marked],
                        operation="MERGE",
                        watermark=None,
                        counts={
                            "rows_added": added,
                            "rows_removed": gone,
                            "bytes_added": sum(action["size"] for action in add),
                            "rows_total": sum(file.rows for file in files) - gone + added,
                        },
                    )

                return self._commit(table, tag, follows, prepare)
        finally:
            self.storage.delete_folder(work)

    def index_keys(self, table: TableId, key: Sequence[str]) -> None:
        import pyarrow as pa

        snapshot = self._existing(table)
        keys = pa.schema([snapshot.schema.field(name) for name in key])
        KeyIndexes(self.storage, self.uri(table), keys).add(snapshot.files)

    # reading

    def _stream(
        self, table: TableId, snapshot: Snapshot, files: Sequence[DataFile], columns: Sequence[str] | None, live: bool
    ) -> pa.RecordBatchReader:
        import pyarrow as pa

        pc = arrow_compute()
        schema = snapshot.schema
        filtered = live and DELETED_AT in schema.names
        wanted = list(columns) if columns is not None else schema.names
        read = [*wanted, DELETED_AT] if filtered and DELETED_AT not in wanted else wanted
        target = pa.schema([schema.field(name) for name in wanted])
        read_schema = pa.schema([schema.field(name) for name in read])
        folder = self.uri(table)
        masked = MaskedRows(self.storage, folder)

        def batches() -> Iterator[pa.RecordBatch]:
            for file in files:
                for batch in file_batches(self.storage, f"{folder}/{file.path}", read_schema, masked.of(file)):
                    kept = batch.filter(pc.is_null(batch.column(DELETED_AT))) if filtered else batch
                    if kept.num_rows:
                        yield kept.select(wanted)

        return pa.RecordBatchReader.from_batches(target, batches())

    @contextmanager
    def scan(
        self, table: TableId, columns: Sequence[str] | None = None, *, live: bool = True
    ) -> Iterator[pa.RecordBatchReader]:
        snapshot = self._existing(table)
        yield self._stream(table, snapshot, snapshot.files, columns, live)

    @contextmanager
    def rows_of_run(self, table: TableId, tag: str) -> Iterator[pa.RecordBatchReader]:
        snapshot = self._existing(table)
        prefix = self._file_prefix(tag)
        files = [file for file in snapshot.files if file.path.startswith(prefix)]
        yield self._stream(table, snapshot, files, None, False)

    def count_live(self, table: TableId) -> int:
        snapshot = self._existing(table)
        told = sum(file.rows - file.deleted_rows for file in snapshot.files if file.deleted_rows is not None)
        untold = [file for file in snapshot.files if file.deleted_rows is None]
        return told + sum(batch.num_rows for batch in self._stream(table, snapshot, untold, [DELETED_AT], True))

    def drop(self, table: TableId) -> None:
        self.storage.delete_folder(self.uri(table))
