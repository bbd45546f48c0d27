"""What each kind of tool does for one item. Every call is bounded, and returns an output as a JSON object."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assets.errors import ConfigurationError, HeadraceError
from assets.kits.functions import registered_function
from assets.kits.model import ItemInput, Kit, Tool, seconds_of
from assets.lakehouse.interface import LOADED_AT, RUN, Lakehouse, TableId
from assets.lakehouse_sql import LakehouseSql, known_tables, table_address
from assets.settings import Settings
from assets.sync import CommitInfo

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.catalog.store import Catalog

MAX_OUTPUT_BYTES = 1 << 20
MAX_ANSWER_BYTES = 1 << 20
GOLD = "gold"


class ToolError(HeadraceError):
    """A tool refused its arguments, or did not do what it was asked for."""


class ToolUnreachableError(HeadraceError):
    """The other side of a tool does not answer; worth a retry."""

    retryable_by_default = True


@dataclass
class ToolOutput:
    """An output, and what it cost. ``tokens`` counts prompt and answer."""

    value: dict[str, Any]
    tokens: int = 0
    cost: float = 0
    rows: int | None = None
    tables: dict[str, str] = field(default_factory=dict)


def gold_table(kit: Kit, name: str) -> TableId:
    """The Gold table that a kit writes: ``gold.<kit>__<name>``."""
    return TableId(layer="gold", connector=kit.name, table=name)


def bounded(value: dict[str, Any], where: str) -> dict[str, Any]:
    """The output as it is stored.

    Raises:
        ToolError: it is larger than 1 MiB, or no JSON.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError) as error:
        raise ToolError(f"the output is no JSON value ({type(error).__name__})", where=where) from None
    if len(text.encode()) > MAX_OUTPUT_BYTES:
        raise ToolError(
            f"the output is larger than {MAX_OUTPUT_BYTES >> 20} MiB",
            where=where,
            remedy="Ask for less, or write a table.",
        )
    return json.loads(text)


class Tools:
    """The tools that one activity can do itself; the others are workflows of their own.

    Args:
        tables: Gold tables that kits wrote, and any others that queries may read.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, lakehouse: Lakehouse, tables: Callable[[], list[TableId]]
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._lakehouse = lakehouse
        self._tables = tables

    def call(self, item: ItemInput, tool: Tool, arguments: dict[str, Any]) -> ToolOutput:
        """Do one item's work.

        Raises:
            ToolError, ToolUnreachableError, QueryError, NotFoundError, ConfigurationError, UrlRefusedError.
        """
        step = next(step for step in item.run.kit.steps if step.step == item.step)
        where = f"{item.run.kit.name}/{step.step}"
        if tool.kind == "sql":
            return self._sql(item, tool, arguments, step.write, seconds_of(step.timeout), where)
        calls: dict[str, Callable[[], ToolOutput]] = {
            "text": lambda: ToolOutput({"text": str(arguments.get("text", ""))}),
            "http": lambda: self._http(item, tool, arguments, where),
            "function": lambda: self._function(tool, arguments, where),
            "search_knowledge": lambda: self._search(arguments, where),
            "model": lambda: self._model(item, tool, arguments, where),
        }
        output = calls[tool.kind]()
        output.value = bounded(output.value, where)
        return output

    # SQL

    def _sql(
        self, item: ItemInput, tool: Tool, arguments: dict[str, Any], write: str | None, seconds: int, where: str
    ) -> ToolOutput:
        query, parameters = _text(arguments, "sql", where), dict(arguments.get("parameters") or {})
        kit = item.run.kit
        sql = LakehouseSql(
            self._lakehouse,
            known_tables(self._catalog, self._tables()),
            memory_limit=self._settings.memory_limit,
            scratch=self._settings.home_path / "scratch",
            allowed=kit.constraints.tables.read,
        )
        if write is not None:
            table = gold_table(kit, write)
            commit = self._write(item, sql, query, parameters, table)
            address, uri = table_address(table), self._lakehouse.uri(table)
            value = {"table": address, "uri": uri, "row_count": commit.rows_total}
            return ToolOutput(value, rows=commit.rows_total, tables={address: uri})
        result = sql.query(query, parameters, max_rows=tool.max_rows, max_seconds=seconds)
        rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
        value = {
            "columns": list(result.columns),
            "rows": rows,
            "row_count": len(rows),
            "truncated": result.truncated,
            "tables": list(result.tables),
        }
        return ToolOutput(bounded(value, where), rows=len(rows))

    def _write(
        self, item: ItemInput, sql: LakehouseSql, query: str, parameters: dict[str, Any], table: TableId
    ) -> CommitInfo:
        """Replace the Gold table by the query's rows in one commit; the run's tag makes a repeat change nothing."""
        import pyarrow as pa

        tag = f"{item.run.run_id}/{item.step}"
        done: list[CommitInfo] = []

        def take(rows: pa.RecordBatchReader) -> None:
            fields = [pa.field(field.name, _storable(field.type)) for field in rows.schema]
            schema = pa.schema([*fields, pa.field(RUN, pa.string()), pa.field(LOADED_AT, pa.timestamp("us", tz="UTC"))])
            loaded = pa.scalar(_now(), pa.timestamp("us", tz="UTC"))
            attempt = int(hashlib.sha256(tag.encode()).hexdigest()[:6], 16)
            with self._lakehouse.part_writer(table.connector, table.table, tag, attempt, "gold", schema) as writer:
                for batch in rows:
                    arrays = [column.cast(field.type) for column, field in zip(batch.columns, fields, strict=True)]
                    arrays += [pa.repeat(pa.scalar(tag), len(batch)), pa.repeat(loaded, len(batch))]
                    writer.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
            done.append(self._lakehouse.commit(table, writer.parts, schema, tag=tag, replace=True))

        sql.each_batch(query, take, parameters)
        self._lakehouse.clear_staging(table.connector, table.table, tag)
        return done[0]

    # the outside

    def _http(self, item: ItemInput, tool: Tool, arguments: dict[str, Any], where: str) -> ToolOutput:
        import httpx

        from assets.catalog.secrets import SecretVault
        from assets.secret_references import is_reference
        from assets.url_guard import UrlGuard

        method = str(arguments.get("method", tool.methods[0])).upper()
        if method not in tool.methods:
            raise ToolError(f"the tool does not allow {method}", where=where, remedy="List it in the tool's `methods`.")
        url = _joined(tool.url or "", str(arguments.get("path", "")), where)
        vault = SecretVault(self._settings)
        headers = {
            name: vault.reference(value, where) if is_reference(value) else value
            for name, value in tool.headers.items()
        }
        headers.setdefault("Idempotency-Key", _key(item))
        body = arguments.get("json")
        try:
            with (
                UrlGuard.from_settings(self._settings).httpx_client(timeout=30, follow_redirects=False) as client,
                client.stream(method, url, params=arguments.get("params"), json=body, headers=headers) as answer,
            ):
                content = bytearray()
                for piece in answer.iter_bytes():
                    content += piece
                    if len(content) > MAX_ANSWER_BYTES:
                        raise ToolError(f"the answer is larger than {MAX_ANSWER_BYTES >> 20} MiB", where=where)
        except httpx.HTTPError as error:
            raise ToolUnreachableError(f"no answer ({type(error).__name__})", where=where) from None
        if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
            raise ToolUnreachableError(f"the answer is {answer.status_code}", where=where)
        text = bytes(content).decode(answer.encoding or "utf-8", errors="replace")
        value: dict[str, Any] = {"status": answer.status_code, "text": text}
        if "json" in answer.headers.get("content-type", ""):
            try:
                value["json"] = json.loads(text)
            except ValueError:
                raise ToolError("the answer says that it is JSON, and is not", where=where) from None
        return ToolOutput(value)

    def _function(self, tool: Tool, arguments: dict[str, Any], where: str) -> ToolOutput:
        function = registered_function(self._settings, tool.function or "")
        wanted = inspect.signature(function).parameters
        given = {**arguments, **({"settings": self._settings} if "settings" in wanted else {})}
        try:
            return ToolOutput({"value": function(**given)})
        except HeadraceError:
            raise
        except Exception as error:  # the user's own code; its text may hold anything
            raise ToolError(f"the function {tool.function} raised {type(error).__name__}", where=where) from error

    def _search(self, arguments: dict[str, Any], where: str) -> ToolOutput:
        from assets.kits.knowledge_tool import search

        return ToolOutput(search(self._settings, self._lakehouse, arguments, where))

    def _model(self, item: ItemInput, tool: Tool, arguments: dict[str, Any], where: str) -> ToolOutput:
        from assets.kits.model_step import ask

        return ask(self._settings, tool, arguments, _key(item), where)


def _key(item: ItemInput) -> str:
    """The same for every try of one item's work, so that the other side may recognise a repeat."""
    return hashlib.sha256(f"{item.run.run_id}/{item.step}/{item.item}".encode()).hexdigest()


def _joined(prefix: str, path: str, where: str) -> str:
    """An address below the tool's own; nothing can lead out of it."""
    from urllib.parse import urljoin, urlsplit

    if not path:
        return prefix
    base = prefix if prefix.endswith("/") else f"{prefix}/"
    url = urljoin(base, path.lstrip("/"))
    given, wanted = urlsplit(url), urlsplit(base)
    same = (given.scheme, given.netloc) == (wanted.scheme, wanted.netloc) and given.path.startswith(wanted.path)
    if not same or ".." in given.path.split("/"):
        raise ToolError("the path leads out of the tool's `url`", where=where)
    return url


def _text(arguments: dict[str, Any], name: str, where: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"the step needs the argument `{name}`", where=where)
    return value


def _storable(kind: pa.DataType) -> pa.DataType:
    """The type that Delta holds a query's column as: what it has no type for becomes text."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if (pa.types.is_decimal(kind) and kind.precision > 38) or pa.types.is_time(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_unsigned_integer(kind):
        return pa.int64() if kind.bit_width < 64 else pa.decimal128(20, 0)
    simple = (
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_date(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )
    return kind if simple else pa.string()


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)
