"""What every connector type offers. A new type is one file beside this one and one line in ``assets.sources``."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from assets.sync import CheckResult, Chunk, ChunkRead, Column, Model, SourceTable, Watermark, WindowPlan
from assets.sync_plan import ReadEstimate

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.encoded_rows import EncodedRows
    from assets.oauth import AccessTokens, OAuthClient

BATCH_ROWS = 65_536
MAX_CHUNKS = 500
UNFIT_COLUMN = "_headrace_unfit"
"""Nullable text column: JSON object of the row's values that fit no column type, exact text by column name."""

OBJECT_COLUMNS = ("_file", "_file_version")
"""Columns that name a row's object and its version, in tables with ``tracks="objects"``."""


class ConnectorConfig(BaseModel):
    """Typed config of a connector type; drives the CLI, the API, the web form and the docs.

    A secret field is a ``pydantic.SecretStr``; help text is the field's description, an example its ``examples``.
    """

    model_config = ConfigDict(extra="forbid")


class CarefulReadNeeded(Exception):
    """A value needs the careful reader: discard what ``batches()`` gave and use ``careful_batches()``."""


@dataclass(frozen=True)
class ChangedRows:
    """Rows whose ``column`` has one of ``values`` (of the column's type)."""

    column: str
    values: pa.Array


@dataclass(frozen=True)
class Remaining:
    """A chunk that is not as a snapshot has it.

    Args:
        rows: of a chunk that was read: no others differ. None: any may.
    """

    chunk: Chunk
    rows: ChangedRows | None = None


def count_unfit(column: pa.Array) -> int:
    """How many values a batch's ``_headrace_unfit`` column holds."""
    if column.null_count == len(column):
        return 0
    return sum(len(json.loads(text)) for text in column.to_pylist() if text)


class TableRead(ABC):
    """One table being read in one consistent snapshot. Batches carry the contract's types and source column names."""

    schema: pa.Schema
    """Contract columns in source order, plus ``_headrace_unfit`` (string, nullable) as the last one."""
    reader: str
    """Which reader serves, such as ``duckdb-binary`` or ``text``, with the reason of a fallback in words."""
    low: str | None
    high: str | None
    """Window ``(low, high]`` as exact cursor text; None without a cursor. Rows above ``high`` may be read too."""
    watermark: Watermark | None
    """The watermark to commit with this read; equal to the previous one when it must not move."""
    rereads: bool = False
    """Whether rows may come that an earlier window gave: the sync leaves out those that Silver holds unchanged."""
    reread_low: str | None = None
    """With ``rereads``: no row that comes has a lower cursor, rows without one aside; None means any row may come."""
    reread_reason: str = ""
    """Why all rows are read again, where they are."""
    columns: tuple[Column, ...] = ()
    """The columns of this read where only reading tells them; empty: those of the plan."""
    unforeseen: bool = False
    """Whether columns came that the plan, made by a sample, does not have; the read ends there."""
    position: int
    """Monotonic position of the snapshot in the source's change order (PostgreSQL: WAL LSN as an integer)."""

    @abstractmethod
    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the window's rows in bounded memory, each row once. May be called once."""

    def encoded_batches(self) -> Iterator[pa.RecordBatch | EncodedRows]:
        """``batches()`` for a caller who looks at no value: what can be stored as it is may come encoded."""
        return self.batches()

    def careful_batches(self) -> Iterator[pa.RecordBatch]:
        """The same rows in the same snapshot, through the reader that handles every value; default: the only one."""
        return self.batches()

    def needs_care(self) -> bool:
        """Ask the source whether ``batches()`` would raise ``CarefulReadNeeded``; may cost a scan."""
        return False

    @abstractmethod
    def keys(self) -> Iterator[pa.RecordBatch]:
        """Yield the key columns of ALL live rows in the same snapshot (for deletes)."""

    def deleted_keys(self, asked: bool) -> Iterator[pa.RecordBatch] | None:
        """Keys that left the source, where this read knows them by itself; None: all keys are compared if ``asked``.

        Called once, after ``batches`` is exhausted, in incremental mode only.
        """
        return None

    def stores(self, batch: pa.RecordBatch) -> None:
        """Told of what is stored of ``batches()`` where a filter or a type leaves rows out, key columns among it."""
        return None

    @abstractmethod
    def source_rows(self) -> int | None:
        """Count ALL live rows in the same snapshot; None where the source cannot tell without reading them."""

    def filtered_rows(self) -> int | None:
        """The live rows of a filter that leaves some of ``batches()`` out, once all are stored; None: not known."""
        return None

    # reading in chunks, where the connector's ``chunks`` offers them

    state: Mapping[str, Any] = {}
    """What identifies the snapshot's content, as JSON; goes with every chunk that is read in it."""

    def share(self) -> str | None:
        """What ``join_read`` joins this snapshot by, elsewhere, while this read stays open."""
        return None

    def of_chunk(self, chunk: Chunk) -> TableRead:
        """The same snapshot limited to one chunk; valid while this read is open."""
        raise NotImplementedError

    def remaining(self, done: Sequence[ChunkRead]) -> list[Remaining]:
        """The chunks that ``done``, read in other states maybe, does not hold exactly as this snapshot has them.

        A chunk with the id of a done one replaces it. Where nothing changed meanwhile, nothing remains.
        """
        return [Remaining(read.chunk) for read in done if read.state != self.state]

    def of_rows(self, rows: ChangedRows) -> TableRead:
        """The same snapshot limited to such rows, a few; valid while this read is open."""
        raise NotImplementedError

    found: Mapping[str, Any] = {}
    """What ``take_over`` wants to know of a chunk beside its rows, as JSON; known after its rows are read."""

    def take_over(self, done: Sequence[ChunkRead]) -> None:
        """Fix ``high`` and ``watermark`` as if this read had read all of ``done`` itself."""
        raise NotImplementedError

    @property
    def future_rows(self) -> int:
        """Rows read whose cursor lies beyond the source's own clock; known after ``batches`` is exhausted."""
        return 0

    @property
    def unfit_values(self) -> int:
        """Values put into ``_headrace_unfit``; known after ``batches`` is exhausted."""
        return 0


@dataclass(frozen=True)
class ChangeBatch:
    """Changes of one kind, each with its place in the table's order of changes.

    Batches come in any order: ``positions`` (int64) alone say what came first. No two changes of a table share one, and
    each is greater than those of earlier syncs.

    Args:
        rows: the contract's columns and ``_headrace_unfit``: the row after the change; of a delete (``op`` ``d``) what
            is known of the old row, the key at least.
        missing: columns whose values the source left out because they did not change; NULL in ``rows``.
        before, before_positions: where columns are missing: the key that each row had before the change, and the
            position before which the row lies that holds the values.
    """

    rows: pa.RecordBatch
    op: str
    positions: pa.Array
    missing: tuple[str, ...] = ()
    before: pa.RecordBatch | None = None
    before_positions: pa.Array | None = None


class ChangeRead(ABC):
    """The changes of one table, up to a position that was fixed when the read was opened."""

    schema: pa.Schema
    """Contract columns in source order, plus ``_headrace_unfit`` as the last one."""
    reader: str
    low: str | None
    high: str | None
    """The window ``(low, high]`` as the source prints its positions."""

    @abstractmethod
    def batches(self) -> Iterator[ChangeBatch]:
        """Yield each change that ``plan.previous`` does not cover, once. An empty batch says that the stream moved."""

    @property
    @abstractmethod
    def truncates(self) -> Sequence[int]:
        """Positions at which all rows were removed; known after ``batches`` is exhausted."""

    @property
    @abstractmethod
    def watermark(self) -> Watermark:
        """What to commit with this read; known after ``batches`` is exhausted. The previous one if nothing came."""

    @abstractmethod
    def source_rows(self) -> int | None:
        """Rows of the table at the end of the window; None where the source cannot tell."""

    @property
    def unfit_values(self) -> int:
        return 0


class StreamStatus(Model):
    """What holds a source's log for the tables in mode ``cdc``."""

    name: str
    state: str
    position: str | None = None
    retained_bytes: int | None = None
    detail: str = ""
    tables: tuple[str, ...] = ()


class Connector(ABC):
    """A configured source. Constructing one opens no connection; every method closes what it opened."""

    type_name: ClassVar[str]
    supports_cdc: ClassVar[bool] = False
    """Whether mode ``cdc`` can be asked for; a type without it is refused with a message that says so."""
    filters_rows: ClassVar[bool] = False
    """Whether every read of a table (rows, keys, counts) applies ``SourceTable.row_filter`` in the source itself
    (``RowFilter.parse(...).sql(dialect)``). Where not, it is applied to the batches that were read."""
    Config: ClassVar[type[ConnectorConfig]]
    grants: ClassVar[str] = ""
    """The least rights that reading needs, as a script for the source's administrator; shown on the type's page."""

    home: Path | None = None
    """Folder of the installation, for caches and scratch files; None for a connector that is not stored."""
    secret_store: Any = None
    """Reads and replaces this connector's stored secrets: `assets.catalog.stored_secret.StoredSecret`."""
    access_tokens: AccessTokens | None = None
    """Tokens that a person got for this connector, where ``oauth_client`` names one; set when it is stored."""
    progress: Callable[[int, int], None] | None = None
    """Called with rows and bytes while a read works before its first batch; may raise to cancel."""

    def __init__(self, name: str, config: Any) -> None:
        self.name = name
        self.config = config

    def oauth_client(self) -> OAuthClient | None:
        """Headrace's registration at the authorization server, where the config asks a person to log in there.

        Such a connector takes a token from `assets.oauth.access_token_of` whenever it connects.
        """
        return None

    def oauth_registration(self, redirect_uri: str) -> str:
        """What the source's administrator runs to register Headrace for ``oauth_client``; empty: not a statement."""
        return ""

    @abstractmethod
    def check(self) -> list[CheckResult]:
        """Try each prerequisite in turn, all within 10 seconds. Never raises."""

    def checks(self) -> Iterator[CheckResult]:
        """The same, each as soon as it is known."""
        yield from self.check()

    @abstractmethod
    def discover(self, tables: Sequence[str] | None = None) -> list[SourceTable]:
        """List tables with columns, keys and estimates by catalogue queries; ``tables`` limits to exact names.

        Raises:
            SourceUnreachableError, SourceAccessError.
            NotFoundError: a name in ``tables`` is not there.
        """

    def first_look(self, table: str) -> SourceTable:
        """A table that was never read and is now, whole: as ``discover``, or by a sample where that takes long."""
        (found,) = self.discover([table])
        return found

    @abstractmethod
    def probe(self, tables: Sequence[str]) -> str:
        """A short text that differs when one of the tables may have changed since. Cheap: reads no rows.

        Raises:
            SourceUnreachableError, SourceAccessError.
        """

    @abstractmethod
    def open_read(self, plan: WindowPlan) -> AbstractContextManager[TableRead]:
        """Open one snapshot and fix the window in it.

        Only ``plan.table.columns`` are read: excluded ones never leave the source. ``plan.mode == "full"`` reads all
        rows; ``"incremental"`` reads every row version that is new since
        ``plan.previous``, each once, and none that ``plan.previous`` covers.
        """

    def estimate(
        self, plan: WindowPlan, loaded: Callable[[], Iterator[pa.RecordBatch]] | None = None, *, keys: bool = False
    ) -> ReadEstimate:
        """What `open_read` of the plan would ask, and about how much it would bring. Reads no rows, changes nothing.

        Here from the catalogue's figures; a type that can ask its source for the window's estimate does so.

        Args:
            loaded: as for `open_objects_read`.
            keys: the keys of all rows would be read too, to find deleted ones.
        """
        table, all_rows = plan.table, plan.mode == "full"
        return ReadEstimate(
            rows=table.estimated_rows if all_rows else None,
            bytes=table.estimated_bytes if all_rows else None,
            statements=(f"read {table.name}" + ("" if all_rows else f" after {plan.low}"),),
            detail="the source's catalogue" if all_rows else "",
        )

    def open_objects_read(
        self, plan: WindowPlan, loaded: Callable[[], Iterator[pa.RecordBatch]]
    ) -> AbstractContextManager[TableRead]:
        """`open_read` of a table with ``tracks="objects"`` in incremental mode.

        Args:
            loaded: streams ``OBJECT_COLUMNS``, operation and position of every row of the Bronze table.
        """
        raise NotImplementedError

    def together(self, tables: Sequence[str]) -> AbstractContextManager[Connector]:
        """This connector for reading many small tables, one after the other: where it can, on one connection.

        In the block ``discover`` of those tables costs nothing more, and ``open_read`` joins what is open.
        """
        return nullcontext(self)

    def unchanged(self, plans: Sequence[WindowPlan]) -> dict[str, int]:
        """Tables of these incremental plans that have nothing new, so that their watermarks stay: name -> all rows.

        All in one snapshot. A table whose read would have to be looked at is left out; the default leaves all out.
        """
        return {}

    def join_read(self, plan: WindowPlan, snapshot: str) -> AbstractContextManager[TableRead]:
        """`open_read` in the snapshot of another read, named by its ``share()``; in a new one where that has ended."""
        return self.open_read(plan)

    def chunks(self, plan: WindowPlan, chunk_bytes: int) -> list[Chunk]:
        """The pieces of about ``chunk_bytes`` that a large read falls into, at most `MAX_CHUNKS`, together all of it.

        Empty: it is read as a whole. The default; a type that offers chunks implements the chunk methods of its
        `TableRead` too.
        """
        return []

    @property
    def parallel_chunks(self) -> int:
        """How many chunks of one table may be read at once."""
        return 2

    # mode cdc, where ``supports_cdc``

    def open_changes(self, plan: WindowPlan) -> AbstractContextManager[ChangeRead]:
        """Open the stream of a table's changes after ``plan.previous``, its end fixed now.

        Of ``plan.table.row_filter`` a row that comes to pass it is an upsert, one that leaves it a delete, and changes
        of others do not come: a row is judged before and after its change. ``source_rows()`` counts what passes.

        The first load of a table in mode ``cdc`` is ``open_read`` of a plan with ``captures``: it makes what the
        changes are read from first, and its watermark is where they begin.

        Raises:
            StreamLostError: changes are gone (slot or binlog removed, another server): the table has to be read anew.
            SchemaChangedError: the columns changed in a way that the stream does not tell.
            UnsupportedTableError, SourceAccessError: a prerequisite is missing; the remedy is the exact statement.
        """
        raise NotImplementedError

    def acknowledge(self, own: Watermark, committed: Mapping[str, Callable[[], Watermark | None]]) -> None:
        """Let the source forget the changes that Bronze holds of every table in mode cdc.

        Args:
            own: the committed watermark of the table being synced.
            committed: how to read the committed watermark of every table that was ever synced.
        """
        return None

    def stop_changes(self, tables: Sequence[str] | None = None) -> list[str]:
        """Remove what Headrace made at the source for these tables (None: all). Returns what was removed."""
        return []

    def change_status(self, followed: Mapping[str, Watermark] | None = None) -> list[StreamStatus]:
        """What holds the source's log, with the bytes that it retains.

        Args:
            followed: the committed watermarks of the tables in mode ``cdc``, where the source itself knows none.
        """
        return []

    @abstractmethod
    def open_verify(
        self, table: SourceTable, columns: Sequence[str] | None = None
    ) -> AbstractContextManager[TableRead]:
        """Open one snapshot for a comparison, through a reader independent of the fast one (text), all rows.

        ``columns`` limits the columns (key columns for a key comparison). ``table.columns`` are the chosen ones.
        """

    @abstractmethod
    def source(self, tables: Sequence[str] | None = None, **options: Any) -> Any:
        """The dlt source: one resource a table, yielding Arrow, usable in a plain ``dlt.pipeline``."""


CONNECTOR_TYPES = {
    "upload": "assets.sources.upload:UploadConnector",
    "rest_api": "assets.sources.rest_api:RestConnector",
    "postgres": "assets.sources.postgres:PostgresConnector",
    "gcs": "assets.sources.gcs:GcsConnector",
    "s3": "assets.sources.s3:S3Connector",
    "mysql": "assets.sources.mysql:MysqlConnector",
    "snowflake": "assets.sources.snowflake:SnowflakeConnector",
}
"""Where each connector type is, ``module:class``."""


def connector_types() -> dict[str, type[Connector]]:
    """All connector types by name. Imports them, not their drivers."""
    found: dict[str, type[Connector]] = {}
    for name, place in CONNECTOR_TYPES.items():
        module, _, attribute = place.partition(":")
        found[name] = getattr(import_module(module), attribute)
    return found
