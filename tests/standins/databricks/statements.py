"""Statement execution: asynchronous, with typed parameters, chunks, Arrow links and cancel.

Shapes and rules: docs.databricks.com/api/workspace/statementexecution.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tests.standins.databricks.errors import ApiError, SqlError
from tests.standins.databricks.failpoints import Failpoints
from tests.standins.databricks.other_loaders import Sessions, VolumeLinks, volume_operation
from tests.standins.databricks.sql_engine import SqlEngine
from tests.standins.databricks.warehouses import Warehouses

CHUNK_ROWS = 100_000
CHUNK_BYTES = 20 << 20
INLINE_BYTES = 25 << 20
RESULT_SECONDS = 3600
_WAIT = re.compile(r"(\d+)s\Z")


@dataclass
class Statement:
    id: str
    text: str
    disposition: str
    format: str
    base_url: str = ""
    volume_operation: bool = False
    state: str = "PENDING"
    error: dict[str, str] | None = None
    result: pa.Table | None = None
    chunks: list[pa.Table] = field(default_factory=list)
    ended: float = 0
    done: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)


class Statements:
    """The statements of one workspace."""

    def __init__(
        self,
        engine: SqlEngine,
        warehouses: Warehouses,
        failpoints: Failpoints,
        sessions: Sessions,
        links: VolumeLinks,
    ) -> None:
        self._sessions, self._links = sessions, links
        self._engine, self._warehouses, self._failpoints = engine, warehouses, failpoints
        self._statements: dict[str, Statement] = {}
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="statement")

    def submit(self, body: dict[str, Any], base_url: str) -> dict[str, Any]:
        wait = _wait_seconds(str(body.get("wait_timeout") or "10s"))
        disposition, kind = body.get("disposition") or "INLINE", body.get("format") or "JSON_ARRAY"
        if disposition == "INLINE" and kind != "JSON_ARRAY":
            raise ApiError(400, "INVALID_PARAMETER_VALUE", "INLINE disposition only supports JSON_ARRAY format")
        if disposition not in ("INLINE", "EXTERNAL_LINKS") or kind not in ("JSON_ARRAY", "ARROW_STREAM"):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"{disposition} with {kind} is not supported")
        text = body.get("statement") or ""
        if len(text.encode()) > 16 << 20:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", "statement exceeds 16 MiB")
        warehouse = self._warehouses.get(str(body.get("warehouse_id") or ""))
        statement = Statement(str(uuid.uuid4()), text, disposition, kind)
        self._statements[statement.id] = statement
        default = self._sessions.names(body)
        statement.base_url = base_url
        self._pool.submit(self._run, statement, warehouse["id"], default, list(body.get("parameters") or []))
        statement.done.wait(wait)
        if not statement.done.is_set() and wait and body.get("on_wait_timeout") == "CANCEL":
            self.cancel(statement.id)
        return self._answer(statement, base_url)

    def _run(
        self, statement: Statement, warehouse: str, default: tuple[str, str], parameters: list[dict[str, Any]]
    ) -> None:
        try:
            while not self._warehouses.serve(warehouse):  # a stopped warehouse starts for a statement
                if statement.cancelled.wait(0.05):
                    raise _Cancelled
            statement.state = "RUNNING"
            point = self._failpoints.take(statement.text, "slow")
            if point and statement.cancelled.wait(point.seconds):
                raise _Cancelled

            def before_commit() -> None:
                if statement.cancelled.is_set():
                    raise _Cancelled
                if point := self._failpoints.take(statement.text, "fail"):
                    raise SqlError(point.message)

            result = volume_operation(statement.text, self._links, statement.base_url)
            statement.volume_operation = result is not None
            if result is None:
                result = self._engine.execute(statement.text, default, parameters, before_commit)
            if statement.disposition == "INLINE" and result.nbytes > INLINE_BYTES:
                raise SqlError("[RESULT_TOO_LARGE] Inline result exceeds 25 MiB; use EXTERNAL_LINKS")
            statement.result, statement.chunks = result, _chunks(result)
            statement.state = "SUCCEEDED"
        except _Cancelled:
            statement.state = "CANCELED"
        except (SqlError, ApiError) as error:
            statement.state = "FAILED"
            statement.error = {"error_code": "BAD_REQUEST", "message": str(error)}
        except Exception as error:
            statement.state = "FAILED"
            statement.error = {"error_code": "INTERNAL_ERROR", "message": repr(error)}
        finally:
            statement.ended = time.monotonic()
            statement.done.set()

    def _find(self, id: str) -> Statement:
        statement = self._statements.get(id)
        if statement is None:
            raise ApiError(404, "NOT_FOUND", f"The statement {id} was not found.")
        if statement.ended and time.monotonic() - statement.ended > RESULT_SECONDS:
            statement.state, statement.result, statement.chunks = "CLOSED", None, []
        return statement

    def get(self, id: str, base_url: str) -> dict[str, Any]:
        return self._answer(self._find(id), base_url)

    def cancel(self, id: str) -> dict[str, Any]:
        self._find(id).cancelled.set()
        return {}

    def close(self, id: str) -> dict[str, Any]:
        self._statements.pop(id, None)
        return {}

    def chunk(self, id: str, index: int, base_url: str) -> dict[str, Any]:
        statement = self._find(id)
        if statement.state != "SUCCEEDED" or not 0 <= index < len(statement.chunks):
            raise ApiError(404, "NOT_FOUND", f"chunk {index} of statement {id} does not exist")
        return self._chunk(statement, index, base_url)

    def link(self, id: str, index: int) -> bytes:
        """The content behind an external link, which is asked for without credentials."""
        chunk = self._find(id).chunks[index]
        if self._find(id).format == "JSON_ARRAY":
            return json.dumps(_json_rows(chunk)).encode()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, chunk.schema) as writer:
            writer.write_table(chunk)
        return sink.getvalue().to_pybytes()

    def _answer(self, statement: Statement, base_url: str) -> dict[str, Any]:
        status: dict[str, Any] = {"state": statement.state}
        if statement.error:
            status["error"] = statement.error
        answer: dict[str, Any] = {"statement_id": statement.id, "status": status}
        if statement.state == "SUCCEEDED" and statement.result is not None:
            schema = statement.result.schema
            offsets = [sum(c.num_rows for c in statement.chunks[:i]) for i in range(len(statement.chunks))]
            answer["manifest"] = {
                "format": statement.format,
                "schema": {"column_count": len(schema), "columns": [_column(i, f) for i, f in enumerate(schema)]},
                "total_chunk_count": len(statement.chunks),
                "total_row_count": statement.result.num_rows,
                "truncated": False,
                "is_volume_operation": statement.volume_operation,
                "chunks": [
                    {"chunk_index": i, "row_offset": offsets[i], "row_count": c.num_rows}
                    for i, c in enumerate(statement.chunks)
                ],
            }
            answer["result"] = self._chunk(statement, 0, base_url) if statement.chunks else {}
        return answer

    def _chunk(self, statement: Statement, index: int, base_url: str) -> dict[str, Any]:
        chunk = statement.chunks[index]
        facts: dict[str, Any] = {
            "chunk_index": index,
            "row_count": chunk.num_rows,
            "row_offset": sum(c.num_rows for c in statement.chunks[:index]),
        }
        if index + 1 < len(statement.chunks):
            facts["next_chunk_index"] = index + 1
            facts["next_chunk_internal_link"] = f"/api/2.0/sql/statements/{statement.id}/result/chunks/{index + 1}"
        if statement.disposition == "INLINE":
            return facts | {"data_array": _json_rows(chunk)}
        link = f"{base_url}/standin/results/{statement.id}/{index}"
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 900))
        return {"external_links": [facts | {"external_link": link, "expiration": expires}]}


class _Cancelled(Exception):
    """The statement was cancelled before it took effect."""


def _wait_seconds(text: str) -> int:
    match = _WAIT.match(text)
    seconds = int(match[1]) if match else -1
    if seconds != 0 and not 5 <= seconds <= 50:
        raise ApiError(400, "INVALID_PARAMETER_VALUE", "wait_timeout must be 0s or between 5s and 50s")
    return seconds


def _chunks(result: pa.Table) -> list[pa.Table]:
    if not result.num_columns:
        return []
    rows = CHUNK_ROWS
    if result.nbytes > CHUNK_BYTES:
        rows = max(1, min(rows, result.num_rows * CHUNK_BYTES // result.nbytes))
    return [result.slice(i, rows) for i in range(0, max(1, result.num_rows), rows)]


def _column(position: int, column: pa.Field) -> dict[str, Any]:
    name = type_name(column.type)
    return {"name": column.name, "position": position, "type_name": name.split("(")[0], "type_text": name}


def type_name(kind: pa.DataType) -> str:
    known = {
        "int8": "BYTE",
        "int16": "SHORT",
        "int32": "INT",
        "int64": "LONG",
        "float": "FLOAT",
        "double": "DOUBLE",
        "bool": "BOOLEAN",
        "string": "STRING",
        "binary": "BINARY",
        "date32[day]": "DATE",
        "null": "NULL",
    }
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz else "TIMESTAMP_NTZ"
    if pa.types.is_list(kind):
        return "ARRAY"
    return known.get(str(kind), "MAP" if pa.types.is_map(kind) else "STRUCT" if pa.types.is_struct(kind) else "STRING")


def _json_rows(table: pa.Table) -> list[list[str | None]]:
    return [[_text(value) for value in row.values()] for row in table.to_pylist()]


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode()
    if hasattr(value, "isoformat"):
        text = value.isoformat()
        return text.replace("+00:00", "Z")
    if isinstance(value, list | dict):
        return json.dumps(dict(value) if value and isinstance(value, list) and isinstance(value[0], tuple) else value,
                          default=str)  # fmt: skip
    return str(value)
