"""Random schedules of concurrent transactions around syncs by the binlog: after the last one Silver equals MariaDB."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import pymysql
import pytest

from tests.behaviour.mysql_installation import MysqlInstallation
from tests.servers.mariadb_server import MariadbServer

KEYS = range(1, 13)
COLUMNS = ["id", "tag", "value", "big", "moment"]
Way = Literal["merge", "append", "filter", "cursor merge", "cursor append", "cursor scd2"]
CURSOR = {"mode": "auto", "cursor": "moment", "deletes": "keys"}
OPTIONS: dict[Way, dict[str, Any]] = {
    "merge": {"mode": "cdc"},
    "append": {"mode": "cdc", "write": "append"},
    "filter": {"mode": "cdc", "row_filter": "value < 500000 and tag <> 'à'"},
    "cursor merge": CURSOR,
    "cursor append": {"write": "append", **CURSOR},
    "cursor scd2": {"write": "scd2", **CURSOR},
}


class Schedule:
    """One seeded schedule: up to four open transactions, each a step at a time; a sync may fall between any two."""

    def __init__(self, shop: MysqlInstallation, seed: int, way: Way) -> None:
        self._shop, self._random = shop, random.Random(seed)
        self._way: Way = way
        self._sessions: list[Any] = []
        self._savepoints: dict[int, int] = {}
        self._extra = 0
        self.told: list[str] = []

    def run(self, steps: int) -> None:
        self._shop.execute(
            "CREATE TABLE t (id int, tag varchar(3) CHARACTER SET latin1, value int, big text, "
            "moment timestamp(6) NULL, PRIMARY KEY (id, tag))",
            "INSERT INTO t SELECT seq, 'é', 0, repeat(md5(seq), 100), now(6) FROM seq_1_to_6",
            "CREATE TABLE other (id int AUTO_INCREMENT PRIMARY KEY, v int)",
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
        self.told.append("sync")
        assert self._shop.sync(self._shop.name("t"), **OPTIONS[self._way]).equal is True, self.told

    def _step(self) -> None:
        pick = self._random
        if len(self._sessions) < 4 and (not self._sessions or pick.random() < 0.3):
            session = self._shop.open(
                autocommit=False, init_command="SET innodb_lock_wait_timeout = 0, lock_wait_timeout = 0"
            )
            self._sessions.append(session)
            return
        if pick.random() < 0.06:
            self._alone()
            return
        session = pick.choice(self._sessions)
        if pick.random() < 0.25:
            self._end(session, pick.choice(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"]))
            return
        self._try(session, self._statement(session))

    def _try(self, session: Any, statement: str) -> None:
        self.told.append(f"{id(session) % 1000}: {statement}")
        try:
            session.cursor().execute(statement)
        except pymysql.Error:  # a lock that another holds, or a key that is taken: this transaction is over
            if session in self._sessions:
                self._end(session, "ROLLBACK")

    def _alone(self) -> None:
        """A statement that commits by itself: a truncate, a column more, the log's next file."""
        statement = self._random.choice(
            [
                "TRUNCATE TABLE t",
                "FLUSH BINARY LOGS",
                f"ALTER TABLE t ADD COLUMN x{self._extra} int NULL",
                "OPTIMIZE TABLE t",
            ]
        )
        self._extra += statement.startswith("ALTER")
        with self._shop.open(init_command="SET lock_wait_timeout = 0") as session:
            self._try(session, statement)

    def _statement(self, session: Any) -> str:
        pick, key, other = self._random, self._random.choice(KEYS), self._random.choice(KEYS)
        number = self._savepoints.get(id(session), 0)
        kinds = ["insert", "insert", "update", "update", "delete", "key", "tag", "savepoint", "back", "many", "replace"]
        kind = pick.choice([*kinds, "upsert", "other", "same"])
        if kind == "savepoint":
            self._savepoints[id(session)] = number + 1
            return f"SAVEPOINT s{number + 1}"
        if kind == "back" and number:
            return f"ROLLBACK TO s{pick.randint(1, number)}"
        value = pick.randint(1, 1_000_000)
        stamp = ", moment = now(6)" if self._way.startswith("cursor") else ""  # else no cursor would see the change
        row = f"({key}, 'é', {value}, repeat(md5({value}), 100), now(6))"
        columns = ", ".join(COLUMNS)
        return {
            "insert": f"INSERT INTO t ({columns}) VALUES {row}",
            "replace": f"REPLACE INTO t ({columns}) VALUES {row}",
            "upsert": f"INSERT INTO t ({columns}) VALUES {row} ON DUPLICATE KEY UPDATE value = {value}{stamp}",
            "update": f"UPDATE t SET value = {value}, moment = now(6) WHERE id = {key}",
            "same": f"UPDATE t SET value = value WHERE id = {key}",
            "delete": f"DELETE FROM t WHERE id = {key}",
            "key": f"UPDATE t SET id = {other}, value = {value}{stamp} WHERE id = {key}",
            "tag": f"UPDATE t SET tag = '{pick.choice('éàa')}'{stamp} WHERE id = {key}",
            "many": f"UPDATE t SET value = value + 1{stamp} WHERE id % 3 = {key % 3}",
            "other": f"INSERT INTO other (v) SELECT {value} FROM t LIMIT 3",
            "back": f"UPDATE t SET big = repeat(md5({value}), 90){stamp} WHERE id = {key}",
        }[kind]

    def _end(self, session: Any, how: str) -> None:
        self.told.append(f"{id(session) % 1000}: {how}")
        with suppress(pymysql.Error):
            session.cursor().execute(how)
        session.close()
        self._sessions.remove(session)
        self._savepoints.pop(id(session), None)


def assert_equal_after(shop: MysqlInstallation, seed: int, way: Way) -> None:
    schedule = Schedule(shop, seed, way)
    schedule.run(60)
    found = shop.verify(shop.name("t"))
    assert found.equal is True, (seed, way, found, schedule.told)
    if "append" not in way:
        wanted = (
            "WHERE value < 500000 AND convert(tag USING utf8mb4) COLLATE utf8mb4_bin <> 'à'" if way == "filter" else ""
        )
        rows = shop.source_rows(f"SELECT {', '.join(COLUMNS[:4])} FROM t {wanted}")
        assert shop.silver(shop.name("t"), COLUMNS[:4]) == rows


@pytest.fixture
def shop(tmp_path: Path, mariadb: MariadbServer, mariadb_database: str) -> MysqlInstallation:
    return MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize("way", get_args(Way))
def test_after_the_last_sync_silver_equals_the_source(shop: MysqlInstallation, seed: int, way: Way) -> None:
    assert_equal_after(shop, seed, way)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
@pytest.mark.parametrize("way", get_args(Way))
def test_after_hundreds_of_schedules_silver_equals_the_source(shop: MysqlInstallation, seed: int, way: Way) -> None:
    assert_equal_after(shop, seed, way)
