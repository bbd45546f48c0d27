"""What Bronze and Silver need of a lakehouse. Engines: ``local`` (delta-rs, folder or S3) and ``databricks``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from assets.sync import CommitInfo, Layer, Manifest, Model, Part, Watermark

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.encoded_rows import EncodedRows
    from assets.lakehouse.lakehouse_status import LakehouseStatus
    from assets.lakehouse.rehearsal import Rehearsal
    from assets.settings import Settings

RUN = "_headrace_run"
LOADED_AT = "_headrace_loaded_at"
OP = "_headrace_op"
POSITION = "_headrace_position"
DELETED_AT = "_headrace_deleted_at"


class TableId(Model):
    """One lakehouse table: the layer, the connector and the source's table name."""

    layer: Layer
    connector: str
    table: str


class TableState(Model):
    """What a table says of itself, read from the table alone, and still readable after log clean-up.

    ``version`` grows with every commit. ``bytes`` and ``files`` are None where they would cost a statement more.
    ``tags`` are the run groups of the latest commits (at least 100), newest last. ``watermark`` came with the data.
    ``follows`` is, on a Silver table, the Bronze version that it holds.
    """

    version: int
    rows: int
    bytes: int | None = None
    files: int | None = None
    tags: tuple[str, ...] = ()
    watermark: Watermark | None = None
    follows: int | None = None


class PartWriter(ABC):
    """Writes one stream of Arrow batches as Parquet parts (at most 4M rows or 1 GiB in memory) with bounded memory.

    As a context manager it closes at the end, and aborts on an error.
    """

    parts: tuple[Part, ...] = ()
    """What was written, once closed."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch | EncodedRows) -> None:
        """Encoded rows only where the lakehouse ``stores_encoded_rows``."""

    @abstractmethod
    def close(self) -> tuple[Part, ...]: ...

    @abstractmethod
    def abort(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind:
            self.abort()
        else:
            self.parts = self.close()


class Lakehouse(ABC):
    """Tables, staging and commits. Every commit is atomic, tagged, and idempotent by its tag (the run group)."""

    @abstractmethod
    def uri(self, table: TableId) -> str:
        """``<root>/<layer>/<connector>__<table slug>``: the Delta table's address."""

    @abstractmethod
    def qualified_name(self, table: TableId) -> str:
        """``<catalog>.<layer>.<connector>__<table slug>``."""

    @abstractmethod
    def state(self, table: TableId) -> TableState | None:
        """None when the table does not exist."""

    def refresh(self, tables: Sequence[TableId]) -> None:  # noqa: B027
        """Let `known_state` of these tables be as fresh as `state` is now, in one go where asking costs a statement."""

    def known_state(self, table: TableId) -> TableState | None:
        """The state that this process read or committed last, where asking costs a statement; else `state`.

        It may be old: for what a commit's own check, or a look at the tags, would set right.
        """
        return self.state(table)

    @abstractmethod
    def schema(self, table: TableId) -> pa.Schema:
        """The table's current Arrow schema."""

    @abstractmethod
    def part_writer(
        self, connector: str, table: str, run_group: str, attempt: int, stream: str, schema: pa.Schema
    ) -> PartWriter:
        """Write to ``staging/<connector>/<table>/<run_group>/<stream>-a<attempt>/part-<n>.parquet``."""

    @abstractmethod
    def write_manifest(self, manifest: Manifest) -> str:
        """Write the manifest after its parts, atomically; return its URI."""

    @abstractmethod
    def read_manifest(self, uri: str) -> Manifest: ...

    stores_encoded_rows: bool = False
    """Whether ``part_writer`` takes rows that are still encoded."""

    keeps_small_tables: bool = False
    """Whether many small tables may be synced one after the other in one step: a commit costs milliseconds."""

    def latest_manifest(self, connector: str, table: str, run_group: str) -> str | None:
        """The URI of the manifest that an earlier attempt of this run wrote; None if none did."""
        return None

    stages_notes = False
    """Whether ``write_note`` and ``read_note`` serve; without them a table is read as a whole, never in chunks."""

    def write_note(self, connector: str, table: str, run_group: str, name: str, text: str) -> str:
        """Write a small text beside the manifest, atomically; return its URI."""
        raise NotImplementedError

    def read_note(self, uri: str) -> str | None:
        """None where there is none, or none any more."""
        raise NotImplementedError

    @abstractmethod
    def clear_staging(self, connector: str, table: str, run_group: str | None = None) -> None:
        """Remove the staging of one run group, or all of the table's. Missing is fine."""

    @abstractmethod
    def read_parts(self, parts: Sequence[Part], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream staged parts."""

    @abstractmethod
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
        """Add staged parts as the table's own data files in ONE commit (creating the table at need).

        ``replace`` swaps the whole content in that same commit. With zero parts the commit still records tag, schema
        and watermark. A tag that is recorded already changes nothing and returns ``repeated=True``. New nullable
        columns are added to the schema; a column that changed incompatibly needs ``replace``. ``base_tag`` is the
        newest tag that the table has to have, "" where it has to have none: what was staged builds on that state.
        Engines that ``keeps_small_tables`` compare it in the commit itself.

        Raises:
            CommitConflictError: another writer won; nothing was changed.
            OvertakenError: the table's newest tag is not ``base_tag``; nothing was changed.
            LakehouseError: the schema does not fit.
        """

    @abstractmethod
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
        """Replace or insert rows by key and soft-delete (``_headrace_deleted_at``, last values kept), in ONE commit.

        ``changes`` may come from a ``scan`` of the same table, still open. They hold full rows of ``schema``, unique by
        key, and their ``_headrace_deleted_at`` is stored as given (``scd2``); ``deletes`` hold the key columns plus the
        run metadata columns. Keys compare NULL-safe. The cost follows the changes, beside a look at the stored keys.
        ``parts`` are the staged files of the same changes, where names and types are the table's: an engine may make
        them its data files and leave ``changes`` unread. Same tag rule as ``commit``.
        """

    def index_keys(self, table: TableId, key: Sequence[str]) -> None:  # noqa: B027
        """Make ready for upserts by this key, where an engine's first one would take longer else."""

    def load_run(
        self,
        silver: TableId,
        bronze: TableId,
        schema: pa.Schema,
        *,
        tag: str,
        names: Mapping[str, str],
        key: Sequence[str],
        replace: bool,
        follows: int | None = None,
    ) -> CommitInfo | None:
        """Bring what ``tag`` added to Bronze into Silver where the data lies, in ONE commit, with the same tag.

        None: this engine has its rows streamed instead (`commit`, `upsert`).

        Args:
            schema: of Silver.
            names: Bronze column -> Silver column.
            key: Silver's key columns; may be empty with ``replace``.
            replace: swap Silver's content; else merge by key, the latest change of a key counting.
        """
        return None

    def reshape(
        self,
        table: TableId,
        schema: pa.Schema,
        *,
        renamed: Mapping[str, str],
        tag: str,
        watermark: Watermark | None = None,
    ) -> CommitInfo:
        """Give the table this schema, its rows unchanged, in ONE commit: same columns in the same order, some under new
        names (``renamed``: stored -> new, to be read as one simultaneous renaming), some of a wider type that holds
        every stored value exactly. Same tag rule as ``commit``; soft-deleted rows stay. ``rows_of_run`` need not know
        runs from before it.

        Here by one rewrite through staging, which suits any engine; an engine whose tables rename and widen columns by
        metadata does that instead.
        """
        state = self.state(table)
        if state is not None and tag in state.tags:
            return CommitInfo(version=state.version, rows_total=state.rows, repeated=True)
        stream = f"reshape-{table.layer}"
        with (
            self.part_writer(table.connector, table.table, tag, 1, stream, schema) as writer,
            self.scan(table, live=False) as rows,
        ):
            for batch in rows:
                writer.write(batch.rename_columns([renamed.get(n, n) for n in batch.schema.names]).cast(schema))
        return self.commit(table, writer.parts, schema, tag=tag, replace=True, watermark=watermark)

    def initialise(self) -> list[str]:
        """Make what tables and staging need; repeatable. Returns what was missing, in words."""
        raise NotImplementedError

    def examine(self) -> LakehouseStatus:
        """Reach the lakehouse and look at everything a sync needs of it. Changes nothing; no failed check raises."""
        raise NotImplementedError

    def table_format(self, table: TableId) -> tuple[int, int] | None:
        """The table's Delta protocol, reader and writer version; None where telling it would cost a statement."""
        return None

    def rehearsal(self) -> Rehearsal:
        """The same tables through an engine that changes nothing, and keeps what it would do, for ``headrace plan``."""
        raise NotImplementedError

    @abstractmethod
    def scan(
        self, table: TableId, columns: Sequence[str] | None = None, *, live: bool = True
    ) -> AbstractContextManager[pa.RecordBatchReader]:
        """Stream the table; ``live`` leaves soft-deleted rows out (Silver)."""

    @abstractmethod
    def rows_of_run(self, table: TableId, tag: str) -> AbstractContextManager[pa.RecordBatchReader]:
        """Stream what one tag added to a Bronze table: the files of its commit."""

    @abstractmethod
    def count_live(self, table: TableId) -> int:
        """Rows without the soft-deleted ones."""

    @abstractmethod
    def drop(self, table: TableId) -> None:
        """Remove the table and its files. Missing is fine."""


def open_lakehouse(settings: Settings) -> Lakehouse:
    """The engine that ``settings.lakehouse`` names."""
    if settings.lakehouse == "databricks":
        from assets.lakehouse.databricks import DatabricksLakehouse

        return DatabricksLakehouse.from_settings(settings)
    from assets.lakehouse.local import LocalLakehouse

    return LocalLakehouse.from_settings(settings)
