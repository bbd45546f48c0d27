"""The local engine: Delta tables on a folder, read by delta-rs, committed by Headrace's own log entries."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions at import: no checker sees them.
from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from assets.errors import CommitConflictError, ConfigurationError, LakehouseError
from assets.failpoints import failpoint
from assets.lakehouse.data_files import file_batches, fit, rewritten
from assets.lakehouse.delta_log import DataFile, Snapshot, read_snapshot, table_schema, write_commit
from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION, RUN, Lakehouse, PartWriter, TableId, TableState
from assets.lakehouse.key_merge import TouchedKeys
from assets.lakehouse.parquet_parts import BackgroundPartWriter, delta_statistics
from assets.naming import path_part, table_slug
from assets.settings import Settings
from assets.sync import CommitInfo, Manifest, Part, Watermark

if TYPE_CHECKING:
    import pyarrow as pa

TAGS, WATERMARK, FOLLOWS = "headrace.tags", "headrace.watermark", "headrace.follows"
KEPT_TAGS = 200
COMMIT_TRIES = 5
CATALOG = "headrace"


class LocalLakehouse(Lakehouse):
    """Delta tables under ``root/<layer>/<connector>__<table>``; parts are staged on the same file system."""

    def __init__(self, root: Path, staging: Path, *, memory_limit: str = "256MB") -> None:
        self.root = root
        self.staging = staging
        self._memory_limit = memory_limit

    @classmethod
    def from_settings(cls, settings: object) -> LocalLakehouse:
        settings = cast(Settings, settings)
        for url in (settings.lakehouse_url, settings.staging_url):
            if url and "://" in url:
                raise ConfigurationError(f"the local lakehouse takes a folder, not {url.split('://')[0]}://")
        home = settings.home_path
        root = Path(settings.lakehouse_url).expanduser().resolve() if settings.lakehouse_url else home / "lakehouse"
        staging = Path(settings.staging_url).expanduser().resolve() if settings.staging_url else home / "staging"
        return cls(root, staging, memory_limit=settings.memory_limit)

    def _folder(self, table: TableId) -> Path:
        return self.root / table.layer / f"{path_part(table.connector)}__{table_slug(table.table)}"

    def uri(self, table: TableId) -> str:
        return str(self._folder(table))

    def qualified_name(self, table: TableId) -> str:
        return f"{CATALOG}.{table.layer}.{table.connector}__{table_slug(table.table)}"

    def _snapshot(self, table: TableId) -> Snapshot | None:
        return read_snapshot(self._folder(table), DELETED_AT)

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
        return table_schema(self._folder(table))

    # staging

    def _staging_folder(self, connector: str, table: str, run_group: str | None = None) -> Path:
        folder = self.staging / path_part(connector) / table_slug(table)
        return folder / path_part(run_group) if run_group else folder

    def part_writer(
        self, connector: str, table: str, run_group: str, attempt: int, stream: str, schema: pa.Schema
    ) -> PartWriter:
        folder = self._staging_folder(connector, table, run_group) / f"{path_part(stream)}-a{attempt}"
        shutil.rmtree(folder, ignore_errors=True)  # an abandoned try under the same attempt number
        return BackgroundPartWriter(folder, schema)

    def write_manifest(self, manifest: Manifest) -> str:
        folder = self._staging_folder(manifest.connector, manifest.table, manifest.run_group)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"manifest-a{manifest.attempt}.json"
        draft = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
        draft.write_text(manifest.model_dump_json())
        os.replace(draft, path)
        return str(path)

    def read_manifest(self, uri: str) -> Manifest:
        try:
            return Manifest.model_validate_json(Path(uri).read_text())
        except FileNotFoundError as error:
            raise LakehouseError(
                "the manifest of this run is gone", where=uri, remedy="Sync the table again."
            ) from error

    def clear_staging(self, connector: str, table: str, run_group: str | None = None) -> None:
        folder = self._staging_folder(connector, table, run_group)
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents:
            if parent == self.staging or self.staging not in parent.parents:
                break
            try:
                parent.rmdir()
            except OSError:
                break  # another table or run still uses it

    def read_parts(self, parts: Sequence[Part], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        for part in parts:
            with pq.ParquetFile(part.uri) as file:
                yield from file.iter_batches(columns=list(columns) if columns is not None else None)

    # commits

    def _repeated(self, table: TableId, snapshot: Snapshot | None, tag: str) -> CommitInfo | None:
        tags = json.loads(snapshot.configuration.get(TAGS, "[]")) if snapshot else []
        if snapshot is None or tag not in tags:
            return None
        if tags[-1] == tag:
            self._clear_other_tries(table, tag, {file.path for file in snapshot.files})
        return CommitInfo(version=snapshot.version, rows_total=sum(f.rows for f in snapshot.files), repeated=True)

    @staticmethod
    def _configuration(
        snapshot: Snapshot | None, tag: str, watermark: Watermark | None, follows: int | None
    ) -> dict[str, str]:
        stored = dict(snapshot.configuration) if snapshot else {}
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
        for path in self._folder(table).glob(f"{self._file_prefix(tag)}*.parquet"):
            if path.name not in committed:
                path.unlink(missing_ok=True)

    def _adopt(self, folder: Path, parts: Sequence[Part], tag: str, schema: pa.Schema) -> list[dict[str, Any]]:
        """Make staged parts data files of the table, under names of this try: a rival's files are never touched."""
        folder.mkdir(parents=True, exist_ok=True)
        prefix = f"{self._file_prefix(tag)}{uuid.uuid4().hex[:12]}"
        actions = []
        for number, part in enumerate(parts):
            path = folder / f"{prefix}-p{number}.parquet"
            try:
                os.link(part.uri, path)
            except OSError:
                shutil.copyfile(part.uri, path)  # staging lies on another file system
            actions.append(self._add_action(path, schema))
        return actions

    @staticmethod
    def _add_action(path: Path, schema: pa.Schema) -> dict[str, Any]:
        _, statistics = delta_statistics(path, schema)
        status = path.stat()
        return {
            "path": path.name,
            "partitionValues": {},
            "size": status.st_size,
            "modificationTime": int(status.st_mtime * 1000),
            "dataChange": True,
            "stats": statistics,
        }

    def _merged_schema(self, table: TableId, wanted: pa.Schema, replace: bool) -> pa.Schema:
        """The table's schema after a commit: its columns, new ones at the end; a changed type is refused."""
        import pyarrow as pa

        fresh = replace or self._snapshot(table) is None
        current = pa.schema([]) if fresh else self.schema(table)
        names = list(dict.fromkeys([*current.names, *wanted.names]))
        lowered = [name.lower() for name in names]
        twins = sorted({name for name in names if lowered.count(name.lower()) > 1})
        if twins:
            raise LakehouseError(
                f"Delta holds no names that differ only by case: {', '.join(twins)}",
                where=f"{table.connector}/{table.table}",
            )
        if fresh:
            return wanted
        for field in wanted:
            if field.name in current.names and current.field(field.name).type != field.type:
                raise LakehouseError(
                    f"column {field.name} was {current.field(field.name).type} and is now {field.type}",
                    where=f"{table.connector}/{table.table}",
                    remedy=f"Run: headrace sync {table.connector} {table.table} --mode full",
                )
        return pa.schema([*current, *(field for field in wanted if field.name not in current.names)])

    def _commit(self, table: TableId, tag: str, prepare: Callable[[Snapshot | None], tuple[Any, ...]]) -> CommitInfo:
        """Try ``prepare`` and the log entry until one wins: a rival's commit makes us read the table again."""
        for number in range(COMMIT_TRIES):
            snapshot = self._snapshot(table)
            if repeated := self._repeated(table, snapshot, tag):
                return repeated
            try:
                schema, configuration, add, remove, operation, counts = prepare(snapshot)
            except FileNotFoundError:
                # a rival with our tag may have committed and cleared our files
                if repeated := self._repeated(table, self._snapshot(table), tag):
                    return repeated
                raise
            failpoint(f"during_{table.layer}_commit")
            try:
                version = write_commit(
                    self._folder(table),
                    snapshot,
                    schema,
                    configuration,
                    tag=tag,
                    add=add,
                    remove=remove,
                    operation=operation,
                )
            except CommitConflictError:
                for action in add:
                    (self._folder(table) / action["path"]).unlink(missing_ok=True)
                if number == COMMIT_TRIES - 1:
                    raise
                continue
            self._clear_other_tries(table, tag, {action["path"] for action in add})
            return CommitInfo(version=version, **counts)
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
    ) -> CommitInfo:
        folder = self._folder(table)

        def prepare(snapshot: Snapshot | None) -> tuple[Any, ...]:
            merged = self._merged_schema(table, schema, replace)
            add = self._adopt(folder, parts, tag, merged)
            names = {action["path"] for action in add}
            old = [file for file in (snapshot.files if snapshot else []) if file.path not in names]
            rows = sum(part.rows for part in parts)
            kept = 0 if replace else sum(file.rows for file in old)
            counts = {
                "rows_added": rows,
                "rows_removed": sum(file.rows for file in old) if replace else 0,
                "bytes_added": sum(action["size"] for action in add),
                "rows_total": kept + rows,
            }
            remove = [file.path for file in old] if replace else []
            configuration = self._configuration(snapshot, tag, watermark, follows)
            return merged, configuration, add, remove, "WRITE", counts

        return self._commit(table, tag, prepare)

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
    ) -> CommitInfo:
        if repeated := self._repeated(table, self._snapshot(table), tag):
            return repeated
        merged = self._merged_schema(table, schema, False)
        folder = self._folder(table)
        work = self._staging_folder(table.connector, table.table) / f"merge-{uuid.uuid4().hex}"
        try:
            with TouchedKeys(key, merged, memory_limit=self._memory_limit, scratch=work) as touched:
                writer = BackgroundPartWriter(work / "new", merged)
                try:
                    for batch in changes:
                        touched.add(batch, gone=False)
                        writer.write(fit(batch, merged))
                    new = writer.close()
                except BaseException:
                    writer.abort()
                    raise
                touched.require_unique(f"{table.connector}/{table.table}")
                stamp: dict[str, Any] = {}
                for batch in deletes:
                    touched.add(batch, gone=True)
                    stamp = stamp or {name: batch.column(name)[0] for name in (RUN, LOADED_AT, POSITION)}

                def prepare(snapshot: Snapshot | None) -> tuple[Any, ...]:
                    files = {str(folder / file.path): file for file in (snapshot.files if snapshot else [])}
                    hit = touched.rows_in([Path(path) for path in files])
                    kept_parts: list[Part] = []
                    for number, (path, rows) in enumerate(hit.items()):
                        rewriter = BackgroundPartWriter(work / f"rewritten-{uuid.uuid4().hex}-{number}", merged)
                        try:
                            for batch in rewritten(Path(path), merged, rows, stamp):
                                rewriter.write(batch)
                            kept_parts += rewriter.close()
                        except BaseException:
                            rewriter.abort()
                            raise
                    add = self._adopt(folder, [*new, *kept_parts], tag, merged)
                    removed = [files[path] for path in hit]
                    before = sum(file.rows for file in files.values())
                    added = sum(part.rows for part in new)
                    kept = sum(part.rows for part in kept_parts)
                    gone_rows = sum(file.rows for file in removed)
                    counts = {
                        "rows_added": added,
                        "rows_removed": gone_rows - kept,
                        "bytes_added": sum(action["size"] for action in add),
                        "rows_total": before - gone_rows + kept + added,
                    }
                    configuration = self._configuration(snapshot, tag, None, follows)
                    return merged, configuration, add, [file.path for file in removed], "MERGE", counts

                return self._commit(table, tag, prepare)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    # reading

    def _stream(self, table: TableId, files: Sequence[DataFile], columns: Sequence[str] | None, live: bool) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        schema = self.schema(table)
        filtered = live and DELETED_AT in schema.names
        wanted = list(columns) if columns is not None else schema.names
        read = [*wanted, DELETED_AT] if filtered and DELETED_AT not in wanted else wanted
        target = pa.schema([schema.field(name) for name in wanted])
        folder = self._folder(table)

        def batches() -> Iterator[pa.RecordBatch]:
            for file in files:
                for batch in file_batches(folder / file.path, pa.schema([schema.field(name) for name in read])):
                    kept = batch.filter(pc.is_null(batch.column(DELETED_AT))) if filtered else batch
                    if kept.num_rows:
                        yield kept.select(wanted)

        return pa.RecordBatchReader.from_batches(target, batches())

    @contextmanager
    def scan(
        self, table: TableId, columns: Sequence[str] | None = None, *, live: bool = True
    ) -> Iterator[pa.RecordBatchReader]:
        snapshot = self._snapshot(table)
        if snapshot is None:
            raise LakehouseError("the table does not exist", where=self.uri(table))
        yield self._stream(table, snapshot.files, columns, live)

    @contextmanager
    def rows_of_run(self, table: TableId, tag: str) -> Iterator[pa.RecordBatchReader]:
        snapshot = self._snapshot(table)
        if snapshot is None:
            raise LakehouseError("the table does not exist", where=self.uri(table))
        prefix = self._file_prefix(tag)
        files = [file for file in snapshot.files if file.path.startswith(prefix)]
        yield self._stream(table, files, None, False)

    def count_live(self, table: TableId) -> int:
        snapshot = self._snapshot(table)
        if snapshot is None:
            raise LakehouseError("the table does not exist", where=self.uri(table))
        return sum(file.rows - file.deleted_rows for file in snapshot.files)

    def drop(self, table: TableId) -> None:
        shutil.rmtree(self._folder(table), ignore_errors=True)
