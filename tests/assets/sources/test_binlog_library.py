"""Why ``mysql-replication``'s decoders are not used: each of these fails when the library no longer does it."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any

import pytest
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import WriteRowsEvent

from tests.servers.mariadb_server import MariadbServer


@pytest.fixture
def inserted(mariadb: MariadbServer, mariadb_database: str) -> Any:
    """Creates ``t (id, v)`` with a value and gives what the library says of its insert."""

    def read(kind: str, value: str, session: str = "SET sql_mode = ''") -> list[Any]:
        mariadb.execute(mariadb_database, f"CREATE OR REPLACE TABLE t (id int PRIMARY KEY, v {kind})")
        with mariadb.connect(mariadb_database) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW MASTER STATUS")
            file, place = cursor.fetchone()[:2]
            cursor.execute(session)
            cursor.execute(f"INSERT INTO t VALUES (1, {value})")
        settings = {"host": mariadb.host, "port": mariadb.port, "user": mariadb.user, "passwd": mariadb.password}
        with contextlib.closing(
            BinLogStreamReader(
                settings,
                server_id=4_000_000_001,
                only_events=[WriteRowsEvent],
                log_file=file,
                log_pos=place,
                resume_stream=True,
                only_tables=["t"],
                enable_logging=False,
            )
        ) as stream:
            return [row["values"]["v"] for event in stream for row in event.rows]

    return read


@contextlib.contextmanager
def compressing(mariadb: MariadbServer) -> Iterator[None]:
    mariadb.execute(None, "SET GLOBAL log_bin_compress = ON", "SET GLOBAL log_bin_compress_min_len = 10")
    try:
        yield
    finally:
        mariadb.execute(None, "SET GLOBAL log_bin_compress = OFF")


def test_zero_values_become_other_values(inserted: Any) -> None:
    assert inserted("timestamp NULL", "0") == [datetime.datetime(1970, 1, 1)], "zero is no time"
    assert inserted("year", "0") == [1900]
    assert inserted("date", "'0000-00-00'") == [None], "as if it were NULL"
    assert inserted("datetime", "'2020-00-10 00:00:00'") == [None]
    assert inserted("set('a','b')", "''") == [None]


def test_binary_values_lose_their_last_zeros_and_types_of_mariadb_are_taken_for_text(inserted: Any) -> None:
    assert inserted("binary(4)", "x'61620000'") != [b"ab\0\0"]
    with pytest.raises(ValueError, match="MetadataFieldType"):
        inserted("varchar(10) COMPRESSED", "'short'")


def test_compressed_events_are_dropped_without_a_word(inserted: Any, mariadb: MariadbServer) -> None:
    with compressing(mariadb):
        assert inserted("text", "repeat('x', 1000)") == []
