"""The local engine without effects: what its tables are is read, what it would do is written down in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assets.lakehouse.interface import TableId, TableState
from assets.lakehouse.local import LocalLakehouse
from assets.lakehouse.rehearsal import Rehearsal
from assets.naming import path_part
from assets.sync import CommitInfo, Part, Watermark
from assets.sync_plan import PlannedStatement

if TYPE_CHECKING:
    import pyarrow as pa


class LocalRehearsal(Rehearsal, LocalLakehouse):
    """Args: real: what is rehearsed."""

    def __init__(self, real: LocalLakehouse) -> None:
        super().__init__(
            real.root,
            real._staging.root,
            real._scratch,
            storage=real.storage,
            memory_limit=real._memory_limit,
            retention_hours=real._retention_hours,
        )
        self.real = real
        self._made: dict[TableId, tuple[TableState, pa.Schema]] = {}

    def part_uri(self, connector: str, table: str, run_group: str, attempt: int, stream: str) -> str:
        folder = self._staging.folder(connector, table, run_group)
        return f"{folder}/{path_part(stream)}-a{attempt}/part-0.parquet"

    def _plan(self, table: TableId, text: str, *, writes: bool = False) -> None:
        self.planned.append(PlannedStatement(table=self.qualified_name(table), text=text, writes=writes))

    def _commits(
        self,
        table: TableId,
        text: str,
        schema: pa.Schema,
        tag: str,
        *,
        replace: bool = False,
        watermark: Watermark | None = None,
        follows: int | None = None,
    ) -> CommitInfo:
        import pyarrow as pa

        before = self.state(table)
        if before and tag in before.tags:
            return CommitInfo(version=before.version, rows_total=before.rows, repeated=True)
        current = None if before is None else self.schema(table)
        if current is not None and not replace:
            schema = pa.schema([*current, *(f for f in schema if f.name not in current.names)])
        self._plan(table, text if before else f"first commit: {text}", writes=True)
        known = before or TableState(version=-1, rows=0)
        after = known.model_copy(
            update={
                "version": known.version + 1,
                "tags": (*known.tags, tag),
                "watermark": watermark or known.watermark,
                "follows": known.follows if follows is None else follows,
            }
        )
        self._made[table] = (after, schema)
        return CommitInfo(version=after.version, rows_total=after.rows)

    def state(self, table: TableId) -> TableState | None:
        return self._made[table][0] if table in self._made else super().state(table)

    def schema(self, table: TableId) -> pa.Schema:
        return self._made[table][1] if table in self._made else super().schema(table)

    def _stored(self, table: TableId) -> str:
        state = LocalLakehouse.state(self, table)
        return f"{state.files} files, {state.bytes} bytes" if state else "no files"

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
        text = "one commit makes the staged parts data files of the table" if parts else "one commit without rows"
        if replace and LocalLakehouse.state(self, table):
            text += f", in place of {self._stored(table)}"
        return self._commits(table, text, schema, tag, replace=replace, watermark=watermark, follows=follows)

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
        for batches in (changes, deletes):
            for _ in batches:
                pass
        text = f"one commit merges by {', '.join(key)}: of {self._stored(table)} it rewrites those with a touched key"
        return self._commits(table, text, schema, tag, follows=follows)

    def index_keys(self, table: TableId, key: Sequence[str]) -> None:
        """Nothing that a plan tells of: an index stands beside the table."""

    def reshape(
        self,
        table: TableId,
        schema: pa.Schema,
        *,
        renamed: Mapping[str, str],
        tag: str,
        watermark: Watermark | None = None,
    ) -> CommitInfo:
        text = f"one commit gives the table the source's new names and types; {self._stored(table)} are rewritten"
        return self._commits(table, text, schema, tag, replace=True, watermark=watermark)

    @contextmanager
    def scan(
        self, table: TableId, columns: Sequence[str] | None = None, *, live: bool = True
    ) -> Iterator[pa.RecordBatchReader]:
        import pyarrow as pa

        schema = self.schema(table)
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
            self._plan(table, f"reads {len(columns)} columns of {self._stored(table)}")
        else:
            self._plan(table, f"reads {self._stored(table)}")
        yield pa.RecordBatchReader.from_batches(schema, iter(()))

    @contextmanager
    def rows_of_run(self, table: TableId, tag: str) -> Iterator[pa.RecordBatchReader]:
        import pyarrow as pa

        self._plan(table, f"reads the files of run {tag}")
        yield pa.RecordBatchReader.from_batches(self.schema(table), iter(()))

    def count_live(self, table: TableId) -> int:
        return 0

    def drop(self, table: TableId) -> None:
        self._plan(table, "removes the table", writes=True)
