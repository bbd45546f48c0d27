"""One moment of a Snowflake account, and how a table is read as it was then.

A statement of Snowflake sees one state of its tables, two statements may see two. So the first statement of a read
only asks for the clock, and every later one reads ``AT (STATEMENT => that one)``. Where a table has no time travel
(retention 0, an external table, some views), each statement reads what is there now, and no rows are counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from assets.sources.snowflake_connection import TIME_TRAVEL_LOST, error_number, rows
from assets.sources.snowflake_names import literal, quoted, relation
from assets.sync import SourceTable, Watermark

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

MOMENT = "YYYY-MM-DD HH24:MI:SS.FF9"
ZONES = timedelta(hours=14)
"""How far a clock on a wall may be ahead of UTC."""
_CLOCK = "SELECT CURRENT_ACCOUNT(), TO_VARCHAR(CURRENT_TIMESTAMP(), 'YYYY-MM-DD HH24:MI:SS.FF6')"
_CREATED = (
    "SELECT created::varchar FROM {database}.information_schema.tables WHERE table_schema = {} AND table_name = {}"
)
_NO_TIME_TRAVEL = re.compile(r"time travel|AT \||BEFORE|not supported", re.IGNORECASE)


@dataclass(frozen=True)
class Snapshot:
    """A moment.

    Attributes:
        statement: id of the statement that fixed it.
        clock: the server's, in UTC.
        account, created: what tells the table from another one of its name.
        at: the clause that makes a FROM item show it, or nothing.
        reason: why there is no such clause, if there is none.
    """

    statement: str
    clock: datetime
    account: str
    created: str
    at: str
    reason: str = ""

    @property
    def position(self) -> int:
        return int(self.clock.timestamp() * 1_000_000)


def open_snapshot(opened: SnowflakeConnection, database: str, table: SourceTable) -> Snapshot:
    """Fix a moment, and find out whether the table can be read as it was then.

    Raises:
        the driver's errors: the table cannot be read at all.
    """
    from snowflake.connector import errors

    names = (literal(table.schema_name), literal(table.table_name))
    found = rows(opened, _CREATED.format(*names, database=quoted(database)))
    created = str(found[0][0]) if found else ""
    with opened.cursor() as cursor:
        cursor.execute(_CLOCK)
        row: Any = cursor.fetchone()
        statement = str(cursor.sfqid)
    clock = datetime.fromisoformat(row[1][:26]).replace(tzinfo=UTC)
    at, reason = f" AT (STATEMENT => {literal(statement)})", ""
    try:
        rows(opened, f"SELECT 1 FROM {relation(database, table.schema_name, table.table_name)}{at} LIMIT 0")
    except errors.ProgrammingError as error:
        if error_number(error) not in TIME_TRAVEL_LOST and not _NO_TIME_TRAVEL.search(str(error)):
            raise
        at, reason = "", "the table has no time travel"
    return Snapshot(statement, clock, str(row[0]), created, at, reason)


def is_time(kind: str) -> bool:
    return kind.startswith(("timestamp", "date"))


def normalized(kind: str, text: str) -> str:
    """A cursor value as it is stored and compared: a time with all nine digits."""
    if not kind.startswith("timestamp"):
        return text
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.ljust(9, '0')[:9]}"


def later(kind: str, new: str, old: str) -> bool:
    if is_time(kind):
        return new > old  # the same form, so text orders as time does
    return int(new) > int(old)


def bound(kind: str, value: str) -> str:
    """A cursor value as SQL, in the source's own precision."""
    if kind == "date32[day]":
        return f"{literal(value)}::DATE"
    if kind.startswith("timestamp"):
        return f"{literal(value)}::{'TIMESTAMP_LTZ' if 'UTC' in kind else 'TIMESTAMP_NTZ'}(9)"
    return str(int(value))


def reread_from(previous: Watermark, kind: str, overlap_seconds: int) -> str:
    """The cursor value that the next window starts at, itself included."""
    value = previous.value or ""
    if kind == "date32[day]":
        return str(datetime.fromisoformat(value).date() - timedelta(days=1 + overlap_seconds // 86_400))
    back = datetime.fromisoformat(value[:26]) - timedelta(seconds=overlap_seconds)
    return f"{back:%Y-%m-%d %H:%M:%S.%f}".rjust(26, "0")  # a year before 1000 is not padded everywhere


def all_rows_reason(previous: Watermark, kind: str, snapshot: Snapshot) -> str:
    """Why the next window has to compare all rows, if it has to."""
    position = previous.position
    if previous.value is None:
        return "no cursor value was read before"
    if position.get("account") != snapshot.account:
        return "the last read was from another account"
    if position.get("created") != snapshot.created:
        return "the table was made anew since the last read"
    if not is_time(kind):
        return "a number does not tell how late a row may commit"
    return ""
