"""The part of the binlog between several snapshots and a last one, and which of them show a transaction."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from assets.errors import StreamLostError
from assets.sources import mysql_binlog_events as log
from assets.sources.mysql_capture import LogPosition, log_end
from assets.sources.mysql_changes import file_number
from assets.sources.mysql_connection import MysqlConfig, is_mariadb
from assets.sources.mysql_gtids import GtidWindow, Intervals, UpToPlace, holds, left_over, parsed_set
from assets.sync import Watermark

if TYPE_CHECKING:
    import pymysql

    from assets.sources.mysql_binlog_decoder import ChangeDecoder
    from assets.sources.mysql_binlog_stream import Placed


def log_window(
    opened: pymysql.Connection[Any],
    where: str,
    config: MysqlConfig,
    now: dict[str, Any],
    states: Sequence[dict[str, Any]],
) -> LogWindow:
    """The window between the snapshots ``states`` and the last one, ``now``, which is open."""
    if is_mariadb(opened):
        end = LogPosition(now["gtid"], now["file"], now["place"], True)
        return LogWindow(where, now, states, end, mariadb=True)
    return LogWindow(where, now, states, LogPosition("", *log_end(opened, where, config)[:2], False), mariadb=False)


class LogWindow(GtidWindow):
    """All transactions that the earliest of the snapshots does not show for sure, up to what the last one may show.

    MariaDB tells a snapshot's place in the log. MySQL's snapshots show the transactions of a set, and maybe a few more
    that are in the log already; so a few transactions too many count as changes.

    Args:
        now: the last snapshot.
        states: the others, `MysqlRead.state` of each, with their places; ``now`` may be among them.
        end: a place in the log behind everything that the last one shows.

    Raises:
        StreamLostError: they are not of one server's one log.
    """

    decoder: ChangeDecoder
    """Gives changes their positions; set before the log is read."""

    def __init__(
        self, where: str, now: dict[str, Any], states: Sequence[dict[str, Any]], end: LogPosition, *, mariadb: bool
    ) -> None:
        self.now, self.end, self.by_place, self.may_end_early = now, end, mariadb, not mariadb
        others = [state for state in states if state != now]
        if {state["server"] for state in others} != {now["server"]}:
            raise StreamLostError("the snapshots are of several servers", where=where)
        if not _of_one_log([*others, now]):
            raise StreamLostError("the server's log was begun anew", where=where)
        shown = LogPosition(now["gtid"], now["file"], now["place"], False)
        for state in others:
            GtidWindow.between(state["gtid"], shown, mariadb=mariadb, where=where)
        self._sets: list[Intervals] = []
        if mariadb:
            others.sort(key=_place)
        else:
            sets = {state["gtid"]: parsed_set(state["gtid"], where) for state in others}
            others.sort(key=lambda state: left_over(sets[state["gtid"]], {}))
            self._sets = [sets[state["gtid"]] for state in others]
            if any(left_over(a, b) for a, b in pairwise(self._sets)):
                raise StreamLostError("the server's log was reset", where=where)
        self._others = others
        self._places = [_place(state) for state in others]
        self.before = Watermark(value=others[0]["gtid"], position=others[0])
        self._end = UpToPlace(end.file, end.place)
        self._at = (0, 0)
        self._starts: list[int] = []
        self._shown: list[int] = []

    def is_past(self, placed: Placed) -> bool:
        self._at = (file_number(placed.file), placed.end)
        return self._end.is_past(placed)

    def is_reached(self, placed: Placed) -> bool:
        return self._end.is_reached(placed)

    def begins(self, event: log.Event) -> bool:
        if not self.decoder.pending:
            self._starts, self._shown = [], []
        if self._starts and self._starts[-1] == self.decoder.last:  # the one before changed nothing
            self._starts.pop()
            self._shown.pop()
        self._starts.append(self.decoder.last)
        self._shown.append(self._first_showing(event))
        return True

    def _first_showing(self, event: log.Event) -> int:
        """The number, in order of age, of the first snapshot that shows the transaction."""
        if self.by_place:
            return bisect_left(self._places, self._at)
        server, number = log.mysql_gtid(event.body)
        return bisect_left(self._sets, True, key=lambda found: holds(found, server, number))

    def shown(self, positions: Any) -> Any:
        """By changes' positions (int64): the first snapshot, by its ``age``, that shows each."""
        import numpy as np

        return np.array(self._shown)[np.searchsorted(self._starts, positions, side="left") - 1]

    def age(self, state: dict[str, Any]) -> int:
        """The number of a snapshot in order of age; of the last one a number that no change reaches."""
        return len(self._others) if state == self.now else self._others.index(state)


def _of_one_log(states: Sequence[dict[str, Any]]) -> bool:
    """Whether a file is one file to all, and later files were begun later: else it was begun anew in between."""
    made = [found for _, found in sorted({(file_number(state["file"]), state["made"]) for state in states})]
    return made == sorted(made) and len(made) == len({state["file"] for state in states})


def _place(state: dict[str, Any]) -> tuple[int, int]:
    return file_number(state["file"]), state["place"]
