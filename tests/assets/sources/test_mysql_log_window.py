"""Which snapshots show a transaction of MySQL's log, by sets of GTIDs. MariaDB's are tested on the server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest

from assets.errors import StreamLostError
from assets.sources import mysql_binlog_events as log
from assets.sources.mysql_binlog_decoder import ChangeDecoder, TableNow
from assets.sources.mysql_binlog_rows import LoggedColumn
from assets.sources.mysql_binlog_statements import TableStatements
from assets.sources.mysql_capture import LogPosition
from assets.sources.mysql_changes import MysqlChangeRead
from assets.sources.mysql_chunks import changed_keys
from assets.sources.mysql_log_window import LogWindow
from tests.assets.sources.test_mysql_binlog_formats import (
    BEGIN,
    COLUMNS,
    DELETE,
    FACTS,
    OTHER,
    SERVER,
    TRUE,
    UPDATE,
    XID,
    Recorded,
    gtid,
    image,
    insert,
    query,
    rows,
    table_map,
)

END = LogPosition("", "binlog.000001", 1000, False)


def state(gtids: str, **other: Any) -> dict[str, Any]:
    stored = [facts.stored for facts in FACTS]
    place = {"file": "binlog.000001", "place": 4, "made": 1}
    return {"gtid": gtids, "server": "s", "columns": stored, "snapshot": gtids, **place, **other}


def window(now: dict[str, Any], states: Sequence[dict[str, Any]]) -> LogWindow:
    return LogWindow("c/shop.t", now, states, END, mariadb=False)


def changed(
    events: Sequence[log.Event], found: LogWindow, edges: Sequence[int], states: Sequence[dict[str, Any]]
) -> list[list[int] | None]:
    logged = (LoggedColumn(COLUMNS[0], FACTS[0].data_type, FACTS[0].charset),)
    table = TableNow("c/shop.t", "", "shop", "t", False, ("id",), logged, FACTS, True)
    found.decoder = ChangeDecoder(table, lambda values, _: (values, values), 0)
    read = MysqlChangeRead(
        "c/shop.t",
        "",
        nullcontext(Recorded(events)),  # type: ignore[arg-type]
        found.decoder,
        TableStatements("shop", "t", fold=False),
        found,
        found.before,
        found.end,
        dict(found.now),
        None,
    )
    return [None if keys is None else keys.tolist() for keys in changed_keys(read, found, edges, states)]


def test_a_change_counts_for_the_snapshots_that_were_taken_before_its_transaction_ended() -> None:
    first, second = state(f"{SERVER}:1-3"), state(f"{SERVER}:1-3:5")
    now = state(f"{SERVER}:1-5")
    found = window(now, [second, now, first])
    assert [found.age(one) for one in (first, second, now)] == [0, 1, 2]
    events = [
        *insert(5, 5),  # shown by the second, whatever the order in the log
        *insert(4, 15),  # by the last one only
        gtid(6),  # it may be shown by the last one already
        BEGIN,
        table_map(),
        rows(UPDATE, image(25, TRUE, 2), image(45, TRUE, 2)),
        rows(DELETE, image(35, TRUE, 2)),
        XID,
        gtid(7, OTHER),
        BEGIN,
        table_map("elsewhere"),
        rows(DELETE, image(55, TRUE, 2)),
        XID,
    ]
    edges = [10, 20, 30, 40, 50]
    assert changed(events, found, edges, [first] * 6) == [[5], [15], [25], [35], [45], []]
    assert changed(events, found, edges, [second] * 6) == [[], [15], [25], [35], [45], []]
    assert changed(events, found, edges, [first, second, now] * 2) == [[5], [15], [], [35], [45], []]


def test_a_chunk_with_more_keys_than_can_be_kept_has_changed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.sources.mysql_chunks.MOST_KEYS", 2)
    first = state(f"{SERVER}:1-3")
    found = window(state(f"{SERVER}:1-9"), [first])
    events = [event for number in range(4, 9) for event in insert(number, number)]
    assert changed([*events, *events], found, [5, 7], [first] * 3) == [[4], [5, 6], [7, 8]]
    assert changed(events, found, [5], [first] * 2) == [[4], None]


def test_many_transactions_are_told_apart_over_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.sources.mysql_binlog_decoder.BATCH_ROWS", 7)
    states = [state(f"{SERVER}:1-{number}") for number in range(1, 100)]
    found = window(states[-1], states)
    events = [event for number in range(2, 100) for event in insert(number, number)]
    # a chunk for each number, read just before its change was committed and just after it
    edges = list(range(3, 100))
    before = [states[max(0, number - 2)] for number in range(2, 100)]
    after = [states[number - 1] for number in range(2, 100)]
    assert changed(events, found, edges, before) == [[number] for number in range(2, 100)]
    assert changed(events, found, edges, after) == [[]] * 98
    assert len(found._starts) <= 8


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ([state(f"{SERVER}:1-3", server="another")], "several servers"),
        ([state(f"{SERVER}:1-3", made=2)], "begun anew"),
        ([state(f"{SERVER}:1-3", file="binlog.000002", made=0)], "begun anew"),
        ([state(f"{SERVER}:1-9")], "restored or reset"),
        ([state(f"{SERVER}:1-3"), state(f"{SERVER}:2-4")], "reset"),
    ],
)
def test_snapshots_that_are_not_of_one_log_are_refused(states: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(StreamLostError, match=why):
        window(state(f"{SERVER}:1-5"), states)


def test_a_truncated_table_and_one_that_was_altered_are_refused() -> None:
    first, now = state(f"{SERVER}:1-3"), state(f"{SERVER}:1-5")
    for text in ("TRUNCATE t", "ALTER TABLE t DROP PARTITION p"):
        with pytest.raises(StreamLostError):
            changed([gtid(4), query(text)], window(now, [first]), [10], [first] * 2)
