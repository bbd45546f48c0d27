"""Random schedules of concurrent transactions around syncs: after the last sync Silver equals the source."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any, Literal, get_args

import psycopg
import pytest

from tests.behaviour.installation import Installation

TABLE = "public.t"
KEYS = range(1, 13)
Way = Literal["keys", "keys append", "keys scd2", "cdc", "cdc append", "cdc filter"]
KEYS_DIFF = {"mode": "auto", "deletes": "keys", "cursor": "updated_at"}
OPTIONS: dict[Way, dict[str, Any]] = {
    "keys": KEYS_DIFF,
    "keys append": {"write": "append", **KEYS_DIFF},
    "keys scd2": {"write": "scd2", **KEYS_DIFF},
    "cdc": {"mode": "cdc"},
    "cdc append": {"mode": "cdc", "write": "append"},
    "cdc filter": {"mode": "cdc", "row_filter": "value < 500000 or value is null"},
}


class Schedule:
    """One seeded schedule: up to four open transactions, each a step at a time; a sync may fall between any two."""

    def __init__(self, shop: Installation, seed: int, way: Way) -> None:
        self._shop, self._random = shop, random.Random(seed)
        self._way: Way = way
        self._sessions: list[psycopg.Connection[Any]] = []
        self._savepoints: dict[int, int] = {}
        self._truncated: set[int] = set()
        self.told: list[str] = []

    def run(self, steps: int) -> None:
        self._shop.execute(
            "CREATE TABLE t (id int PRIMARY KEY, value int, big text, updated_at timestamptz)",
            "ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
            "INSERT INTO t SELECT i, 0, repeat(md5(i::text), 100), now() FROM generate_series(1, 6) i",
            *(["ALTER TABLE t REPLICA IDENTITY FULL"] if self._way == "cdc filter" else []),
        )
        self._sync()
        try:
            for _ in range(steps):
                self._step()
                if self._random.random() < 0.08:
                    self._sync()
            for session in list(self._sessions):
                self._end(session, self._random.choice(["COMMIT", "ROLLBACK"]))
        finally:
            for session in self._sessions:
                session.close()
        self._sync()

    def _sync(self) -> None:
        for session in [s for s in self._sessions if id(s) in self._truncated]:
            self._end(session, "COMMIT")  # nobody reads a table while its truncate is open
        self.told.append("sync")
        result = self._shop.sync(TABLE, **OPTIONS[self._way])
        assert result.equal is True, (result, self.told)

    def _step(self) -> None:
        if len(self._sessions) < 4 and (not self._sessions or self._random.random() < 0.3):
            session = self._shop.connect()
            session.execute("SET lock_timeout = '20ms'")
            session.execute("BEGIN")
            self._sessions.append(session)
            return
        session = self._random.choice(self._sessions)
        if self._random.random() < 0.25:
            self._end(session, self._random.choice(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"]))
            return
        statement = self._statement(session)
        self.told.append(f"{id(session) % 1000}: {statement}")
        try:
            session.execute(statement.encode())
            if statement == "TRUNCATE t":
                self._truncated.add(id(session))
        except psycopg.Error:  # a lock that another holds, or a key that is taken: this transaction is over
            self._end(session, "ROLLBACK")

    def _statement(self, session: psycopg.Connection[Any]) -> str:
        pick, key, other = self._random, self._random.choice(KEYS), self._random.choice(KEYS)
        # the cursor column steps forward and, in mode cdc, back as well: no cursor would see that
        back = -3600 if self._way.startswith("cdc") else 0
        clock = f"clock_timestamp() + interval '{pick.choice([0, 0, 0, back, 3600])} s'"
        number = self._savepoints.get(id(session), 0)
        kinds = ["insert", "insert", "update", "update", "big", "delete", "key", "savepoint", "back", "many"]
        kind = pick.choice([*kinds, "truncate"] if self._way.startswith("cdc") and pick.random() < 0.3 else kinds)
        if kind == "savepoint":
            self._savepoints[id(session)] = number + 1
            return f"SAVEPOINT s{number + 1}"
        if kind == "back" and number:
            return f"ROLLBACK TO s{pick.randint(1, number)}"
        value = pick.randint(1, 1_000_000)
        return {
            "insert": f"INSERT INTO t VALUES ({key}, {value}, repeat(md5('{value}'), 100), {clock})",
            "update": f"UPDATE t SET value = {value}, updated_at = {clock} WHERE id = {key}",
            "big": f"UPDATE t SET big = repeat(md5('{value}'), 90), updated_at = {clock} WHERE id = {key}",
            "delete": f"DELETE FROM t WHERE id = {key}",
            "key": f"UPDATE t SET id = {other}, value = {value}, updated_at = {clock} WHERE id = {key}",
            "many": f"UPDATE t SET value = value + 1, updated_at = {clock} WHERE id % 3 = {key % 3}",
            "truncate": "TRUNCATE t",
            "back": f"UPDATE t SET value = {value}, updated_at = {clock} WHERE id = {key}",
        }[kind]

    def _end(self, session: psycopg.Connection[Any], how: str) -> None:
        self.told.append(f"{id(session) % 1000}: {how}")
        with suppress(psycopg.Error):
            session.execute(how.encode())
        session.close()
        self._sessions.remove(session)
        self._savepoints.pop(id(session), None)
        self._truncated.discard(id(session))


def assert_equal_after(shop: Installation, seed: int, way: Way) -> None:
    schedule = Schedule(shop, seed, way)
    schedule.run(60)
    found = shop.verify(TABLE)
    assert found.equal is True, (seed, way, found, schedule.told)
    if "append" not in way:
        wanted = "WHERE value < 500000 OR value IS NULL" if way == "cdc filter" else ""
        expected = shop.source_rows(f"SELECT id, value, big FROM t {wanted}")
        assert shop.silver(TABLE, ["id", "value", "big"]) == expected


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("way", get_args(Way))
def test_after_the_last_sync_silver_equals_the_source(shop: Installation, seed: int, way: Way) -> None:
    assert_equal_after(shop, seed, way)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 180))
@pytest.mark.parametrize("way", get_args(Way))
def test_after_hundreds_of_schedules_silver_equals_the_source(shop: Installation, seed: int, way: Way) -> None:
    assert_equal_after(shop, seed, way)
