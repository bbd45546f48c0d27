"""The result of one statement, read in parts: the account keeps it for a day, for any session of the same login.

Its batches are files that do not change. Their addresses and the key that opens them are asked for again by each
session, and stand nowhere.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from assets.errors import SourceUnreachableError
from assets.sources.even_groups import group_starts
from assets.sources.interface import MAX_CHUNKS
from assets.sync import Chunk, SourceTable

if TYPE_CHECKING:
    import pyarrow as pa
    from snowflake.connector import SnowflakeConnection
    from snowflake.connector.cursor import SnowflakeCursor
    from snowflake.connector.result_batch import ResultBatch

BATCHES_AHEAD = 2


def result_chunks(table: SourceTable, chunk_bytes: int) -> list[Chunk]:
    """A large table's result in parts of about ``chunk_bytes`` as the account stores the table; empty: not cut.

    Which batches a part has is known when the statement has run.
    """
    size = table.estimated_bytes or 0
    if size < 2 * chunk_bytes:
        return []
    number = min(-(-size // chunk_bytes), MAX_CHUNKS)
    return [Chunk(id=str(place), where={"part": place, "of": number}) for place in range(number)]


class StoredResult:
    """A statement's result, of which this session has the list of batches."""

    def __init__(self, opened: SnowflakeConnection, cursor: SnowflakeCursor, where: str) -> None:
        self._opened, self._where = opened, where
        self._batches: list[ResultBatch] = cursor.get_result_batches() or []
        rows = " ".join(str(batch.rowcount) for batch in self._batches)
        self.state = {"statement": str(cursor.sfqid), "batches": hashlib.sha256(rows.encode()).hexdigest()}
        """The statement's id, and a hash of how many rows each batch has: equal states are the same batches."""

    @classmethod
    def of(cls, opened: SnowflakeConnection, where: str, query: str) -> StoredResult:
        """Run a statement."""
        with opened.cursor() as cursor:
            cursor.execute(query)
            return cls(opened, cursor, where)

    @classmethod
    def joined(cls, opened: SnowflakeConnection, where: str, state: dict[str, str]) -> StoredResult | None:
        """The result of a statement that another session of the same login ran; None: it is not given as it was."""
        from snowflake.connector import errors
        from snowflake.connector.result_batch import ArrowResultBatch

        with opened.cursor() as cursor:
            try:
                cursor.query_result(state["statement"])
            except errors.ProgrammingError:  # whatever was meant: the caller asks the table itself then
                return None
            found = cls(opened, cursor, where)
        arrow = all(isinstance(batch, ArrowResultBatch) for batch in found._batches)
        return found if arrow and found.state == state else None

    def part(self, chunk: Chunk) -> Iterator[pa.Table]:
        """The batches of one of the parts that `result_chunks` named: in the result's order, each in one part."""
        starts = group_starts([max(1, batch.rowcount) for batch in self._batches], chunk.where["of"])
        bounds = list(pairwise([*starts, len(self._batches)]))
        place = chunk.where["part"]
        if place >= len(bounds):
            return
        first, past = bounds[place]
        waiting: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(BATCHES_AHEAD, thread_name_prefix="batches") as pool:
            try:
                for batch in self._batches[first:past]:
                    waiting.append(pool.submit(self._fetched, batch))
                    if len(waiting) == BATCHES_AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _fetched(self, batch: ResultBatch) -> pa.Table:
        found = batch.to_arrow(connection=self._opened)  # type: ignore[call-arg]
        if 0 < batch.rowcount != found.num_rows:
            told = f"a batch of the result came with {found.num_rows} of {batch.rowcount} rows"
            raise SourceUnreachableError(told, where=self._where)
        return found
