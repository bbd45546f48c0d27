"""The window's upper end, from the cursor values that were read: no scan of the source, and never past its clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, LiteralString

from assets.arrow_compute import arrow_compute

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa


class CursorWindow:
    """Follows the batches of one read.

    Args:
        kind: the cursor's contract type.
        index: the cursor's column in the batches.
    """

    def __init__(self, connection: psycopg.Connection[Any], kind: str, index: int) -> None:
        from psycopg import sql

        from assets.sources.postgres_snapshot import CURSOR_TYPES, source_clock
        from assets.types import arrow_type

        self.kind = kind
        self._connection, self.index, self._type = connection, index, arrow_type(kind)
        self._sql_type: LiteralString = "numeric" if kind.startswith("decimal") else CURSOR_TYPES[kind]
        self._clock: Any = None
        clock = source_clock(kind)
        if clock is not None:
            row = connection.execute(sql.SQL("SELECT {}").format(clock)).fetchone()
            self._clock = row[0] if row else None
        self.reset()

    def reset(self) -> None:
        """Forget what was seen: the rows are read again."""
        self._high: Any = None
        self.future_rows = 0

    def see(self, values: pa.Array) -> None:
        import pyarrow as pa

        pc = arrow_compute()
        greatest = pc.max(values).as_py()
        if greatest is None:
            return
        if self._clock is not None and greatest > self._clock:
            ahead = pc.greater(values, pa.scalar(self._clock, self._type))
            self.future_rows += pc.sum(ahead).as_py() or 0
            greatest = pc.max(values.filter(pc.invert(ahead))).as_py()
        if greatest is not None and (self._high is None or greatest > self._high):
            self._high = greatest

    def high_text(self) -> str | None:
        """The greatest value seen that is not dated in the future, as the source itself writes it."""
        if self._high is None:
            return None
        return self._one("SELECT %s::{t}::text", [str(self._high)])

    def greatest(self, texts: Sequence[str | None]) -> str | None:
        """The greatest of the source's own texts."""
        known = [text for text in texts if text is not None]
        if len(known) < 2:
            return known[0] if known else None
        return self._one("SELECT max(v::{t})::text FROM unnest(%s::text[]) v", [known])

    def _one(self, query: LiteralString, values: list[Any]) -> str | None:
        from psycopg import sql

        row = self._connection.execute(sql.SQL(query).format(t=sql.SQL(self._sql_type)), values).fetchone()
        return row[0] if row else None
