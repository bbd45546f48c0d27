"""Statements on a SQL warehouse: submitted, polled, fetched; cancelled when the step is."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from assets.errors import LakehouseError
from assets.interruption import on_interrupt
from assets.lakehouse.databricks_client import DatabricksConnection, databricks_errors

if TYPE_CHECKING:
    import pyarrow as pa
    from databricks.sdk.service.sql import StatementResponse

FIRST_POLL_SECONDS = 0.05
POLL_SECONDS = 5.0
CANCEL_SECONDS = 60
LINK_TIMEOUT_SECONDS = (10, 60)
LINK_TRIES = 3
_CONFLICT = re.compile(
    r"DELTA_CONCURRENT|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED|Concurrent(Append|Delete|Write|Transaction)"
    r"|MetadataChanged|ProtocolChanged"
)
_CLASS = re.compile(r"\[([A-Z0-9_.]+)\]")


class StatementFailedError(LakehouseError):
    """A statement that failed. ``error_class`` is the class that Databricks gives, such as TABLE_OR_VIEW_NOT_FOUND."""

    def __init__(self, message: str, *, where: str) -> None:
        found = _CLASS.search(message)
        self.error_class = found[1] if found else ""
        self.message = message
        super().__init__(f"the statement failed: {message[:2000]}", where=where, retryable=self.conflict)

    @property
    def conflict(self) -> bool:
        """Another commit came first; nothing was changed."""
        return _CONFLICT.search(self.message) is not None


class SqlWarehouse:
    """One SQL warehouse. A stopped one starts for a statement, which waits for it.

    Args:
        limit_seconds: a statement that takes longer is cancelled.
    """

    def __init__(self, connection: DatabricksConnection, warehouse_id: str, limit_seconds: float) -> None:
        self._connection = connection
        self.id = warehouse_id
        self._limit_seconds = limit_seconds

    def run(self, sql: str, parameters: Mapping[str, str | None] | None = None) -> list[list[str | None]]:
        """Run one statement to its end. Returns its rows as text; use `stream` for rows of tables.

        Args:
            parameters: values of ``:name`` markers, as STRING.

        Raises:
            StatementFailedError: it failed; nothing was changed.
            LakehouseError: the workspace does not answer, or the statement was cancelled.
        """
        from databricks.sdk.service.sql import Disposition, Format

        answer = self._finish(sql, parameters, Disposition.INLINE, Format.JSON_ARRAY)
        rows: list[list[str | None]] = []
        for chunk in self._chunks(answer):
            rows += chunk.data_array or []
        return rows

    def stream(self, sql: str, parameters: Mapping[str, str | None] | None = None) -> Iterator[pa.RecordBatch]:
        """Run a query and yield its rows as Arrow, a chunk at a time."""
        import pyarrow as pa
        from databricks.sdk.service.sql import Disposition, Format

        answer = self._finish(sql, parameters, Disposition.EXTERNAL_LINKS, Format.ARROW_STREAM)
        for chunk in self._chunks(answer):
            for link in chunk.external_links or []:
                with pa.ipc.open_stream(self._content(str(answer.statement_id), link)) as reader:
                    yield from reader

    def _content(self, statement_id: str, link: Any) -> bytes:
        """What a link holds. Links expire: a later try asks for a new one. They carry their own authorization."""
        import requests

        for number in range(LINK_TRIES):
            try:
                answer = requests.get(link.external_link, timeout=LINK_TIMEOUT_SECONDS)
                answer.raise_for_status()
                return answer.content
            except requests.RequestException as error:
                if number == LINK_TRIES - 1:
                    # the address itself is a credential: it stays out of the message
                    raise LakehouseError(
                        f"a result could not be fetched: {type(error).__name__}",
                        where=self._connection.host,
                        retryable=True,
                    ) from None
            api = self._connection.client.statement_execution
            with databricks_errors(self._connection.host):
                (link, *_) = api.get_statement_result_chunk_n(statement_id, link.chunk_index).external_links or [link]
        raise AssertionError("unreachable")

    def _chunks(self, answer: StatementResponse) -> Iterator[Any]:
        chunk: Any = answer.result
        api = self._connection.client.statement_execution
        while chunk is not None:
            yield chunk
            following = chunk.next_chunk_index
            if following is None and chunk.external_links:
                following = chunk.external_links[-1].next_chunk_index
            if following is None:
                return
            with databricks_errors(self._connection.host):
                chunk = api.get_statement_result_chunk_n(str(answer.statement_id), following)

    def _finish(
        self, sql: str, parameters: Mapping[str, str | None] | None, disposition: Any, format: Any
    ) -> StatementResponse:
        from databricks.sdk.service.sql import StatementParameterListItem, StatementState

        api = self._connection.client.statement_execution
        given = [StatementParameterListItem(name=n, value=v, type="STRING") for n, v in (parameters or {}).items()]
        with databricks_errors(self._connection.host):
            answer = api.execute_statement(
                statement=sql,
                warehouse_id=self.id,
                parameters=given or None,
                disposition=disposition,
                format=format,
                wait_timeout="0s",
            )
        interrupted = threading.Event()
        deadline = time.monotonic() + self._limit_seconds
        pause = FIRST_POLL_SECONDS
        try:
            with on_interrupt(interrupted.set):
                while _state(answer) in (StatementState.PENDING, StatementState.RUNNING):
                    if interrupted.wait(pause):
                        raise LakehouseError("the statement was cancelled", where=self._connection.host)
                    if time.monotonic() > deadline:
                        raise LakehouseError(
                            f"a statement took longer than {self._limit_seconds:.0f} s and was cancelled",
                            where=self._connection.host,
                            remedy="Take a larger warehouse, or raise HEADRACE_DATABRICKS_STATEMENT_SECONDS.",
                        )
                    pause = min(POLL_SECONDS, pause * 1.2)
                    with databricks_errors(self._connection.host):
                        answer = api.get_statement(str(answer.statement_id))
        except BaseException:
            self._cancel(str(answer.statement_id))
            raise
        if _state(answer) == StatementState.SUCCEEDED:
            return answer
        error = answer.status.error if answer.status else None
        message = (error.message if error else None) or f"its state is {getattr(_state(answer), 'value', None)}"
        raise StatementFailedError(message, where=self._connection.host)

    def _cancel(self, statement_id: str) -> None:
        """Ask for the end, and wait for it: a cancel is only a request."""
        from databricks.sdk.service.sql import StatementState

        api = self._connection.client.statement_execution
        deadline = time.monotonic() + CANCEL_SECONDS
        try:
            api.cancel_execution(statement_id)
            while _state(api.get_statement(statement_id)) in (StatementState.PENDING, StatementState.RUNNING):
                if time.monotonic() > deadline:
                    return
                time.sleep(0.2)
        except Exception:  # the statement's own error, or the interrupt, is what matters; guards bear a late commit
            return


def _state(answer: StatementResponse) -> Any:
    return answer.status.state if answer.status else None
