"""InnoDB snapshots as watermarks: what could still commit behind a cursor's back, and how far to read again for it.

InnoDB does not tell which snapshot a row version belongs to. So a watermark records, beside the cursor's value, whether
transactions that had written (or could have) were in flight at its snapshot, and a floor: the start of the oldest one,
less the configured overlap. The next window reads again from the lower of value and floor, or all rows where such
transactions were in flight, and the sync leaves out the rows that Silver holds unchanged.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from assets.sources.mysql_connection import rows

if TYPE_CHECKING:
    import pymysql

    from assets.sync import Watermark

TRIES = 8
PAUSE_SECONDS = 0.04
_COUNTER = re.compile(r"^Trx id counter (\d+)", re.MULTILINE)
# transactions that have not written (or locked) anything have no number but an address
_ACTIVE = re.compile(r"^---TRANSACTION (\d+), ACTIVE (?:\(PREPARED\) )?(\d+) sec", re.MULTILINE)
_READ_ONLY_IDS = 1 << 47
_STATUS_LIMIT = 1 << 20
_PROCESSES = """
SELECT coalesce(max(CASE WHEN command IN ('Query', 'Execute') AND user <> 'system user' THEN time END), 0),
       coalesce(max(user = 'system user' AND command <> 'Daemon'), 0)
FROM information_schema.processlist WHERE id <> connection_id()
"""
BEGIN = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
_ENGINE_CODES = (1227, 1142, 1044, 1045)


@dataclass(frozen=True)
class Activity:
    """The server's writers at one moment.

    Attributes:
        counter: the number that the next writing transaction gets.
        writers: numbers of the transactions that are writing, with their ages in seconds.
        statement_seconds: age of the oldest statement that runs.
        replica: whether the server applies another one's changes; that one's transactions cannot be seen.
    """

    counter: int
    writers: dict[int, int]
    statement_seconds: int
    replica: bool
    complete: bool


@dataclass(frozen=True)
class Clock:
    """The server's clock, in UTC and in its own zone: an application may have written either into a naive column."""

    utc: datetime
    local: datetime

    @property
    def low(self) -> datetime:
        return min(self.utc, self.local)

    @property
    def high(self) -> datetime:
        return max(self.utc, self.local)


@dataclass(frozen=True)
class SnapshotPosition:
    """A snapshot as a position. ``writers`` is None where this login may not see other transactions."""

    clock: Clock
    writers: bool | None
    age_seconds: int

    def stored(self, server: str, table: str | None, overlap_seconds: int) -> dict[str, Any]:
        back = timedelta(seconds=self.age_seconds + overlap_seconds)
        return {
            "server": server,
            "table": table,
            "writers": self.writers,
            "utc": moment(self.clock.utc - back),
            "naive": moment(self.clock.low - back),
        }


def moment(value: datetime) -> str:
    """A time as MySQL writes it, to the microsecond."""
    return value.strftime("%Y-%m-%d %H:%M:%S.%f")


def server_clock(opened: pymysql.Connection[Any]) -> Clock:
    rows(opened, "SET SESSION time_zone = @@global.time_zone")
    try:
        ((utc, local),) = rows(opened, "SELECT utc_timestamp(6), now(6)")
    finally:
        rows(opened, "SET SESSION time_zone = '+00:00'")
    return Clock(utc, local)


def server_identity(opened: pymysql.Connection[Any]) -> str:
    """What tells this server from others: MySQL's UUID; MariaDB has none before 11."""
    found = dict(rows(opened, "SHOW GLOBAL VARIABLES WHERE variable_name IN ('server_uuid', 'hostname', 'port')"))
    return found.get("server_uuid") or f"{found.get('hostname')}:{found.get('port')}"


def activity(opened: pymysql.Connection[Any]) -> Activity | None:
    """Who is writing now; None without the PROCESS privilege."""
    import pymysql

    try:
        ((_, _, status),) = rows(opened, "SHOW ENGINE INNODB STATUS")
    except pymysql.Error as error:
        if error.args[0] in _ENGINE_CODES:
            return None
        raise
    ((statement_seconds, replica),) = rows(opened, _PROCESSES)
    counter = _COUNTER.search(status)
    writers = {int(number): int(age) for number, age in _ACTIVE.findall(status) if int(number) < _READ_ONLY_IDS}
    return Activity(
        counter=int(counter[1]) if counter else -1,
        writers=writers,
        statement_seconds=int(statement_seconds),
        replica=bool(replica),
        complete=counter is not None and len(status) < _STATUS_LIMIT - 4096,
    )


def open_snapshot(
    opened: pymysql.Connection[Any], begin: Callable[[], object], *, tries: int = TRIES
) -> SnapshotPosition:
    """Begin a read-only transaction with one snapshot, and say what may commit later behind it.

    The writers are listed just before and just after the snapshot, with the number that the next one gets. Where none
    is listed and that number stayed, none was in flight. Else it is done again: most transactions are short.

    Args:
        begin: begins the transaction with its snapshot (`BEGIN`), and whatever else belongs to that moment.
    """
    while True:
        tries -= 1
        before = activity(opened)
        clock = server_clock(opened)
        begin()
        after = activity(opened)
        if before is None or after is None:
            return SnapshotPosition(clock, None, 0)
        writing = {**before.writers, **after.writers}
        quiet = not writing and before.counter == after.counter and before.complete and after.complete
        if (quiet and not after.replica) or tries <= 0 or after.replica:
            age = max([*writing.values(), before.statement_seconds, after.statement_seconds, 0]) + 1
            return SnapshotPosition(clock, not quiet or after.replica, age)
        rows(opened, "ROLLBACK")
        time.sleep(PAUSE_SECONDS)


def reread_from(previous: Watermark, kind: str) -> str | None:
    """The cursor value that the next window starts at, itself included; None where there is none."""
    if previous.value is None:
        return None
    floor = {
        "timestamp[us, tz=UTC]": previous.position.get("utc"),
        "timestamp[us]": previous.position.get("naive"),
        "date32[day]": (previous.position.get("naive") or "")[:10] or None,
    }.get(kind)
    return previous.value if floor is None else min(previous.value, floor)


def all_rows_reason(previous: Watermark, kind: str, server: str, table: str | None, late_commits: str) -> str:
    """Why the next window has to compare all rows, if it has to."""
    position = previous.position
    if previous.value is None:
        return "no cursor value was read before"
    if position.get("server") != server:
        return "the last read was from another server"
    if position.get("table") != table:
        return "the table was altered or made anew since the last read"
    if late_commits == "overlap":
        return ""
    if position.get("writers"):
        return "transactions were writing when the last read began"
    if position.get("writers") is None and not kind.startswith(("timestamp", "date")):
        return "this login may not see other transactions (grant PROCESS)"
    return ""
