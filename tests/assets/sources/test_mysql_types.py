"""Every value through both readers: what the contract declares, or exact text; nothing changes in silence."""

from __future__ import annotations

import json
import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from assets.errors import UnsupportedTableError
from assets.sources.interface import UNFIT_COLUMN, CarefulReadNeeded
from assets.sources.mysql import MysqlConnector
from assets.sources.mysql_connection import MysqlConfig
from assets.sync import WindowPlan
from tests.servers.mariadb_server import MariadbServer

POINT = struct.pack("<IBIdd", 4326, 1, 1, 1.1, -2.0)

# (type, value as SQL, what Bronze holds)
TYPED: list[tuple[str, str, Any]] = [
    ("tinyint(1)", "7", 7),
    ("tinyint", "-128", -128),
    ("tinyint unsigned", "255", 255),
    ("boolean", "true", 1),
    ("smallint", "-32768", -32768),
    ("smallint unsigned", "65535", 65535),
    ("mediumint", "-8388608", -8388608),
    ("mediumint unsigned", "16777215", 16777215),
    ("int", "-2147483648", -2147483648),
    ("int unsigned", "4294967295", 4294967295),
    ("int(8) zerofill", "42", 42),
    ("bigint", "-9223372036854775808", -9223372036854775808),
    ("bigint unsigned", "18446744073709551615", Decimal(18446744073709551615)),
    ("serial", "18446744073709551614", Decimal(18446744073709551614)),
    ("decimal(38,0)", "-" + "9" * 38, Decimal("-" + "9" * 38)),
    ("decimal(38,38)", "0." + "0" * 37 + "1", Decimal("1e-38")),
    ("decimal(10,3) unsigned", "1.5", Decimal("1.500")),
    ("decimal(65,30)", "12345678901234567890123456789012345.5", "12345678901234567890123456789012345.5" + "0" * 29),
    ("float", "16777217", 16777216.0),
    ("float", "1.1", struct.unpack("<f", struct.pack("<f", 1.1))[0]),
    ("float", "3.4028234663852886e38", 3.4028234663852886e38),
    ("float(10,2)", "1234567.89", 1234567.875),
    ("double", "0.1", 0.1),
    ("double", "1.7976931348623157e308", 1.7976931348623157e308),
    ("double", "5e-324", 5e-324),
    ("double(20,2)", "12345678901234.56", 12345678901234.56),
    ("bit(1)", "b'1'", "1"),
    ("bit(12)", "b'101'", "000000000101"),
    ("bit(64)", "b'1" + "0" * 63 + "'", "1" + "0" * 63),
    ("year", "2155", 2155),
    ("year", "0", 0),
    ("date", "'0001-01-01'", date(1, 1, 1)),
    ("date", "'9999-12-31'", date(9999, 12, 31)),
    ("datetime", "'0001-01-01 00:00:00'", datetime(1, 1, 1)),
    ("datetime(6)", "'9999-12-31 23:59:59.999999'", datetime(9999, 12, 31, 23, 59, 59, 999999)),
    ("datetime(3)", "'2026-03-29 02:30:00.123'", datetime(2026, 3, 29, 2, 30, 0, 123000)),
    ("timestamp", "'1970-01-01 00:00:01'", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
    ("timestamp(6)", "'2038-01-19 03:14:07.999999'", datetime(2038, 1, 19, 3, 14, 7, 999999, UTC)),
    ("time", "'-838:59:59'", "-838:59:59"),
    ("time(6)", "'838:59:58.000001'", "838:59:58.000001"),
    ("char(5)", "'ab'", "ab"),
    ("varchar(20)", "''", ""),
    ("varchar(20)", "'NULL'", "NULL"),
    ("varchar(20)", r"'a\tb\n\\N\0\'ü🚰'", "a\tb\n\\N\0'ü🚰"),
    ("varchar(300)", "repeat('é', 300)", "é" * 300),
    ("text", "repeat('x', 65535)", "x" * 65535),
    ("mediumtext", "repeat('y', 70000)", "y" * 70000),
    ("longtext", "repeat('z', 251)", "z" * 251),
    ("varchar(20) CHARACTER SET latin1", "'é€ÿ'", "é€ÿ"),
    ("varchar(20) CHARACTER SET sjis", "'テスト'", "テスト"),
    ("varchar(20) CHARACTER SET ucs2", "'é漢'", "é漢"),
    ("varchar(20) CHARACTER SET utf16", "'é🚰'", "é🚰"),
    ("varchar(20) CHARACTER SET ascii", "'plain'", "plain"),
    ("varchar(20) CHARACTER SET gbk", "'汉字'", "汉字"),
    ("varchar(20) CHARACTER SET utf8mb3", "'é漢'", "é漢"),
    ("varchar(20) COLLATE utf8mb4_bin", "'Ab '", "Ab "),
    ("varchar(20) CHARACTER SET binary", r"'\0\xff'", b"\0xff"),
    ("binary(4)", "'ab'", b"ab\0\0"),
    ("varbinary(10)", "x'00ff80'", b"\x00\xff\x80"),
    ("tinyblob", "x''", b""),
    ("blob", "x'5c00'", b"\\\0"),
    ("longblob", "repeat(x'ff', 70000)", b"\xff" * 70000),
    ("enum('a','b','it''s')", "'it''s'", "it's"),
    ("set('x','y','z')", "'z,x'", "x,z"),
    ("json", """'{"a" : 12345678901234567890.1230}'""", '{"a" : 12345678901234567890.1230}'),
    ("point", "ST_GeomFromText('POINT(1.1 -2)', 4326)", POINT),
    ("geometry", "ST_GeomFromText('POINT(1.1 -2)', 4326)", POINT),
    ("uuid", "'123E4567-E89B-12D3-A456-426614174000'", "123e4567-e89b-12d3-a456-426614174000"),
    ("inet6", "'2001:db8::ff00:42:8329'", "2001:db8::ff00:42:8329"),
    ("inet4", "'10.0.0.1'", "10.0.0.1"),
    ("int INVISIBLE", "5", 5),
    ("varchar(50) COMPRESSED", "'compressed'", "compressed"),
]
UNFIT = [
    ("date", "'0000-00-00'", "0000-00-00"),
    ("date", "'2020-00-10'", "2020-00-10"),
    ("date", "'2020-02-31'", "2020-02-31"),
    ("date", "'0000-01-01'", "0000-01-01"),
    ("datetime", "'0000-00-00 00:00:00'", "0000-00-00 00:00:00"),
    ("datetime(2)", "'2021-02-29 10:00:00.5'", "2021-02-29 10:00:00.50"),
    ("timestamp NULL", "0", "0000-00-00 00:00:00"),
]


@pytest.fixture
def types(mariadb: MariadbServer, mariadb_database: str) -> tuple[MysqlConnector, Any, str]:
    connection = mariadb.connect(mariadb_database).cursor()
    connection.execute("SET sql_mode = 'ALLOW_INVALID_DATES', SESSION max_error_count = 0")
    return MysqlConnector("types", MysqlConfig(**mariadb.config(mariadb_database))), connection, mariadb_database


def read_table(types: tuple[MysqlConnector, Any, str], careful: bool, key: tuple[str, ...] = ()) -> list[Any]:
    connector, _, database = types
    (table,) = connector.discover([f"{database}.t"])
    with connector.open_read(WindowPlan(table=table, mode="full", key=key)) as read:
        rows = [r for b in (read.careful_batches() if careful else read.batches()) for r in b.to_pylist()]
        assert read.reader == ("text" if careful else "packets")
        assert read.source_rows() == len(rows)
        assert read.unfit_values == sum(len(json.loads(r[UNFIT_COLUMN] or "{}")) for r in rows)
        return rows


@pytest.mark.parametrize("careful", [False, True], ids=["fast", "careful"])
def test_values_that_fit_are_exact_through_either_reader(types: tuple[MysqlConnector, Any, str], careful: bool) -> None:
    cursor = types[1]
    chosen = [(k, v, e) for k, v, e in TYPED if (k != "serial" and "zero" not in k) or k.startswith("int(8)")]
    cursor.execute(
        "CREATE TABLE t (id int, {}) ROW_FORMAT=DYNAMIC".format(
            ", ".join(f"c{i} {kind}{' NULL' if 'timestamp' in kind else ''}" for i, (kind, _, _) in enumerate(chosen))
        )
    )
    names = ", ".join(f"c{i}" for i in range(len(chosen)))
    cursor.execute(f"INSERT INTO t (id, {names}) VALUES (1, {', '.join(v for _, v, _ in chosen)})")
    cursor.execute(f"INSERT INTO t (id, {names}) VALUES (2, {', '.join('NULL' for _ in chosen)})")
    row, nulls = sorted(read_table(types, careful), key=lambda r: r["id"])
    for i, (kind, value, expected) in enumerate(chosen):
        assert row[f"c{i}"] == expected, f"{kind} {value[:50]}"
        assert type(row[f"c{i}"]) is type(expected), f"{kind} {value[:50]}"
        assert nulls[f"c{i}"] is None
    assert row[UNFIT_COLUMN] is None


@pytest.mark.parametrize("careful", [False, True], ids=["fast", "careful"])
def test_values_that_fit_no_column_type_are_kept_as_text(types: tuple[MysqlConnector, Any, str], careful: bool) -> None:
    cursor = types[1]
    columns = ", ".join(f"c{i} {kind}" for i, (kind, _, _) in enumerate(UNFIT))
    cursor.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    cursor.execute(f"INSERT INTO t VALUES (1, {', '.join(value for _, value, _ in UNFIT)})")
    cursor.execute("INSERT INTO t (id, c0, c4) VALUES (2, '2020-02-29', '2020-02-29 01:02:03')")
    row, good = sorted(read_table(types, careful), key=lambda r: r["id"])
    assert [row[f"c{i}"] for i in range(len(UNFIT))] == [None] * len(UNFIT)
    assert json.loads(row[UNFIT_COLUMN]) == {f"c{i}": text for i, (_, _, text) in enumerate(UNFIT)}
    assert (good["c0"], good["c4"]) == (date(2020, 2, 29), datetime(2020, 2, 29, 1, 2, 3))


def test_text_that_the_server_cannot_convert_is_kept_as_hex(types: tuple[MysqlConnector, Any, str]) -> None:
    cursor = types[1]
    cursor.execute("CREATE TABLE t (id int, c varchar(20) CHARACTER SET ascii)")
    cursor.execute("CREATE TABLE raw (c varbinary(20))")
    cursor.execute("INSERT INTO t VALUES (1, 'why?'), (2, 'plain')")
    cursor.execute("INSERT INTO t SELECT 3, convert(cast(x'41e942' AS binary) USING ascii)")
    cursor.execute("SELECT hex(c) FROM t WHERE id = 3")
    ((stored,),) = cursor.fetchall()
    with pytest.raises(CarefulReadNeeded):
        read_table(types, careful=False)
    rows = {r["id"]: r for r in read_table(types, careful=True)}
    assert (rows[1]["c"], rows[2]["c"]) == ("why?", "plain")
    if "E9" in stored:
        assert (rows[3]["c"], json.loads(rows[3][UNFIT_COLUMN])) == (None, {"c": f"0x{stored}"})


def test_a_fast_read_that_gives_up_leaves_the_snapshot_to_the_careful_one(
    types: tuple[MysqlConnector, Any, str], mariadb: MariadbServer
) -> None:
    connector, cursor, database = types
    cursor.execute("CREATE TABLE t (id int PRIMARY KEY, c varchar(20) CHARACTER SET ascii, n varchar(100))")
    cursor.execute("INSERT INTO t SELECT seq, 'why?', repeat('n', 100) FROM seq_1_to_200000")
    (table,) = connector.discover([f"{database}.t"])
    with connector.open_read(WindowPlan(table=table, mode="full", key=("id",))) as read:
        cursor.execute("DELETE FROM t")
        with pytest.raises(CarefulReadNeeded):
            next(iter(read.batches()))
        assert sum(batch.num_rows for batch in read.careful_batches()) == 200_000


def test_a_value_longer_than_a_packet_is_read_whole(types: tuple[MysqlConnector, Any, str]) -> None:
    cursor = types[1]
    cursor.execute("CREATE TABLE t (id int PRIMARY KEY, c longtext)")
    cursor.execute("SET GLOBAL max_allowed_packet = 64 << 20")
    with connector_cursor(types) as fresh:
        fresh.execute("INSERT INTO t SELECT seq, 'short' FROM seq_1_to_10")
        fresh.execute("UPDATE t SET c = repeat('x', 17 << 20) WHERE id = 5")
        fresh.execute("UPDATE t SET c = repeat('y', 12 << 20) WHERE id = 6")
    with pytest.raises(CarefulReadNeeded):
        read_table(types, careful=False)
    lengths = {row["id"]: len(row["c"]) for row in read_table(types, careful=True)}
    assert (lengths[1], lengths[5], lengths[6]) == (5, 17 << 20, 12 << 20)


def connector_cursor(types: tuple[MysqlConnector, Any, str]) -> Any:
    import contextlib

    import pymysql

    @contextlib.contextmanager
    def opened() -> Any:
        config = types[0].config
        connection = pymysql.connect(
            host=config.host,
            port=config.port,
            user=config.user,
            password=config.password.get_secret_value() if config.password else "",
            database=types[2],
            autocommit=True,
        )
        try:
            yield connection.cursor()
        finally:
            connection.close()

    return opened()


def test_a_key_whose_value_fits_no_column_type_is_refused(types: tuple[MysqlConnector, Any, str]) -> None:
    types[1].execute("CREATE TABLE t (d date PRIMARY KEY)")
    types[1].execute("INSERT INTO t VALUES ('0000-00-00'), ('2020-02-31')")
    with pytest.raises(UnsupportedTableError, match="key column d"):
        read_table(types, careful=False, key=("d",))


def test_generated_columns_and_rows_of_many_buffers_are_read(types: tuple[MysqlConnector, Any, str]) -> None:
    cursor = types[1]
    cursor.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n varchar(200), v int AS (id * 2) VIRTUAL, s int AS (id + 1) STORED)"
    )
    cursor.execute("INSERT INTO t (id, n) SELECT seq, repeat(char(97 + seq % 26), seq % 200) FROM seq_1_to_150000")
    for careful in (False, True):
        rows = read_table(types, careful)
        assert len({row["id"] for row in rows}) == 150_000
        assert all((r["v"], r["s"], len(r["n"])) == (2 * r["id"], r["id"] + 1, r["id"] % 200) for r in rows)
