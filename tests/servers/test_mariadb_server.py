"""The test server is what the other tests take it for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.mariadb_server import MISSING, MariadbServer, mariadb_programs


def test_it_logs_whole_rows_by_gtid_and_speaks_tls(mariadb: MariadbServer, mariadb_database: str) -> None:
    with mariadb.connect(mariadb_database, ssl={"ca": str(mariadb.ca_file)}) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT @@log_bin, @@binlog_format, @@binlog_row_image, @@binlog_row_metadata, @@gtid_strict_mode, "
            "database()"
        )
        assert cursor.fetchone() == (1, "ROW", "FULL", "FULL", 1, mariadb_database)
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        assert cursor.fetchall()[0][1]


def test_it_comes_back_with_its_rows_after_a_crash(server_folder: Path) -> None:
    if mariadb_programs() is None:
        pytest.skip(MISSING)
    with MariadbServer(server_folder / "mariadb-crash") as server:
        name = server.create_database()
        server.execute(name, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
        server.kill()
        server.start()
        with server.connect(name) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT * FROM t")
            assert cursor.fetchall() == ((1,),)
