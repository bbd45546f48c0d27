"""Which transactions lie between two snapshots: by place in the log on MariaDB, by sets of GTIDs on MySQL."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from assets.errors import StreamLostError
from assets.sources import mysql_binlog_events as log

if TYPE_CHECKING:
    from assets.sources.mysql_binlog_stream import Placed
    from assets.sources.mysql_capture import LogPosition

Intervals = dict[bytes, list[tuple[int, int]]]


def parsed_set(text: str, where: str) -> Intervals:
    """A GTID set of MySQL: half-open intervals by server.

    Raises:
        StreamLostError: tagged GTIDs.
    """
    from pymysqlreplication.gtid import GtidSet

    try:
        found = GtidSet(text)
    except ValueError:
        raise StreamLostError("GTIDs with tags are not followed", where=where) from None
    return {bytes.fromhex(g.sid.replace("-", "")): sorted(g.intervals) for g in found.gtids}


def holds(found: Intervals, server: bytes, number: int) -> bool:
    intervals = found.get(server, [])
    place = bisect_right(intervals, (number, 1 << 63)) - 1
    return place >= 0 and intervals[place][0] <= number < intervals[place][1]


def left_over(found: Intervals, covered: Intervals) -> int:
    """How many transactions of ``found`` are not in ``covered``."""
    left = 0
    for server, intervals in found.items():
        for start, stop in intervals:
            left += stop - start
            for low, high in covered.get(server, []):
                left -= max(0, min(stop, high) - max(start, low))
    return left


def parsed_position(text: str) -> dict[int, int]:
    """A GTID position of MariaDB: the last number by domain."""
    parts = [part.split("-") for part in text.split(",") if part]
    return {int(domain): int(number) for domain, _, number in parts}


class GtidWindow:
    """The transactions of one read."""

    by_place = True
    may_end_early = False
    """Whether the log's end may come before ``is_reached``: then all of it was seen."""

    @staticmethod
    def between(before: str, end: LogPosition, *, mariadb: bool, where: str) -> GtidWindow:
        """After ``before``, up to ``end``.

        Raises:
            StreamLostError: the log ends before ``before``.
        """
        restored = StreamLostError("the server's log ends before the last sync: it was restored or reset", where=where)
        if mariadb:
            now = parsed_position(end.gtid)
            if any(now.get(domain, -1) < number for domain, number in parsed_position(before).items()):
                raise restored
            return UpToPlace(end.file, end.place)
        covered, now = parsed_set(before, where), parsed_set(end.gtid, where)
        if left_over(covered, now):
            raise restored
        return _UpToSet(now, left_over(now, covered))

    def begins(self, event: log.Event) -> bool:
        """A transaction begins; whether it counts."""
        raise NotImplementedError

    def ends(self) -> None:
        """It has ended."""

    def is_past(self, placed: Placed) -> bool:
        """Whether this event is none of the window's any more."""
        return False

    def is_reached(self, placed: Placed) -> bool:
        """Whether this event was the last one."""
        raise NotImplementedError


class UpToPlace(GtidWindow):
    """All transactions up to a place in the log."""

    def __init__(self, file: str, place: int) -> None:
        self._file, self._place = file, place
        self._in_file = False

    def begins(self, event: log.Event) -> bool:
        return True

    def is_past(self, placed: Placed) -> bool:
        if placed.file == self._file:
            self._in_file = True
            size = len(placed.event.body) + log.HEADER.size
            return placed.event.end != 0 and placed.end - size >= self._place
        return self._in_file

    def is_reached(self, placed: Placed) -> bool:
        return placed.file == self._file and placed.event.end != 0 and placed.end >= self._place


class _UpToSet(GtidWindow):
    by_place = False

    def __init__(self, wanted: Intervals, left: int) -> None:
        self._wanted, self._left = wanted, left
        self._open = False

    def begins(self, event: log.Event) -> bool:
        self._open = False
        counts = holds(self._wanted, *log.mysql_gtid(event.body))
        if counts:
            self._left -= 1
            self._open = True
        return counts

    def ends(self) -> None:
        self._open = False

    def is_reached(self, placed: Placed) -> bool:
        return self._left <= 0 and not self._open
