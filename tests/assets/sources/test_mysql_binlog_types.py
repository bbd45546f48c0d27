"""Every value through the binlog is the value of a full read: typed, as text, or in ``_headrace_unfit``."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from assets.errors import UnsupportedTableError
from assets.sources.mysql import MysqlConnector
from assets.sources.mysql_connection import MysqlConfig
from assets.sync import WindowPlan
from tests.assets.sources.test_mysql_types import TYPED, UNFIT
from tests.servers.mariadb_server import MariadbServer

EDGES: dict[str, list[str]] = {
    "tinyint": ["127", "-1", "0"],
    "mediumint": ["8388607", "-1"],
    "int": ["2147483647", "-1"],
    "bigint": ["9223372036854775807", "-1", "0"],
    "bigint unsigned": ["0", "9223372036854775808"],
    "decimal(18,0)": ["999999999999999999", "-999999999999999999", "0", "-1"],
    "decimal(18,9)": ["0.000000001", "-0.000000001", "999999999.999999999"],
    "decimal(1,1)": ["0.9", "-0.9"],
    "decimal(10,2)": ["-0.01", "0", "99999999.99", "-12345678.9"],
    "decimal(19,4)": ["-999999999999999.9999", "0.0001", "123456789.5"],
    "decimal(38,10)": ["-0.0000000001", "9999999999999999999999999999.9999999999"],
    "decimal(65,0)": ["9" * 65, "-" + "9" * 65, "0"],
    "decimal(40,3)": ["-0.001", "0", "12.5"],
    "decimal(40,3) zerofill": ["0.001", "0", "12.5"],
    "decimal(65,0) zerofill": ["7"],
    "decimal(20,3) zerofill": ["12.5"],
    "float": ["-0.0", "1e-45", "-3.4028234663852886e38", "0.30000001"],
    "double": ["-0.0", "0.30000000000000004", "-1.7976931348623157e308", "123456789012345678"],
    "bit(8)": ["b'11111111'", "0"],
    "bit(9)": ["b'100000001'"],
    "bit(33)": ["b'1" + "0" * 31 + "1'"],
    "bit(64)": ["18446744073709551615"],
    "year": ["1901", "1970", "2000"],
    "date": ["'1582-10-15'", "'1969-12-31'", "'2024-02-29'", "'1000-01-01'"],
    "datetime": ["'1969-12-31 23:59:59'", "'2024-02-29 00:00:00'"],
    "datetime(1)": ["'2024-02-29 01:02:03.9'"],
    "datetime(2)": ["'2024-02-29 01:02:03.99'"],
    "datetime(3)": ["'0001-01-01 00:00:00.001'"],
    "datetime(4)": ["'2024-02-29 01:02:03.0001'"],
    "datetime(5)": ["'2024-02-29 01:02:03.00001'"],
    "datetime(6)": ["'1900-01-01 00:00:00.000001'"],
    "timestamp NULL": ["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'"],
    "timestamp(1) NULL": ["'2001-01-01 00:00:00.1'", "0"],
    "timestamp(3) NULL": ["'2001-01-01 00:00:00.001'", "0"],
    "timestamp(6) NULL": ["'1970-01-01 00:00:01.000001'", "0"],
    "time": ["'00:00:00'", "'-00:00:01'", "'838:59:59'", "'-838:59:59'", "'23:59:60'"],
    "time(1)": ["'-00:00:00.1'", "'-00:00:01.9'", "'12:00:00.5'"],
    "time(2)": ["'-01:00:00.01'", "'-00:59:59.99'"],
    "time(3)": ["'-00:00:00.001'", "'838:59:59.999'", "'-838:59:59.999'"],
    "time(4)": ["'-00:00:59.9999'", "'00:00:00.0001'"],
    "time(5)": ["'-00:00:00.00001'"],
    "time(6)": ["'-00:00:00.000001'", "'-838:59:59.999999'", "'00:00:00.999999'"],
    "char(10)": ["''", "'a  '", "'ü🚰'"],
    "char(255)": ["repeat('é', 255)"],
    "char(3) CHARACTER SET ucs2": ["'é  '", "'漢'"],
    "char(5) CHARACTER SET sjis": ["'テ '"],
    "varchar(5) CHARACTER SET latin1": ["'a  '", "x'81'", "x'80ff00'"],
    "varchar(10) CHARACTER SET cp1251": ["'Привет'"],
    "varchar(10) CHARACTER SET koi8r": ["'Привет'"],
    "varchar(10) CHARACTER SET big5": ["'漢字'"],
    "varchar(10) CHARACTER SET euckr": ["'한글'"],
    "varchar(10) CHARACTER SET utf32": ["'é🚰'"],
    "varchar(10) CHARACTER SET utf16le": ["'é🚰'"],
    "varchar(10) CHARACTER SET latin2": ["'łódź'"],
    "varchar(10) CHARACTER SET greek": ["'αβγ'"],
    "varchar(10) CHARACTER SET hebrew": ["'שלום'"],
    "varchar(10) CHARACTER SET tis620": ["'ไทย'"],
    "varchar(10) CHARACTER SET cp932": ["'テスト'", "x'81CA'", "x'FA54'"],
    "varchar(10) CHARACTER SET swe7": ["'ab'"],
    "text CHARACTER SET latin1": ["'é€ÿ'", "repeat('ü', 1000)"],
    "tinytext": ["repeat('t', 255)", "''"],
    "mediumtext": ["repeat('m', 65536)"],
    "char(0)": ["''"],
    "varchar(0)": ["''"],
    "varbinary(0)": ["x''"],
    "binary(0)": ["x''"],
    "binary(1)": ["x'00'", "x'ff'"],
    "binary(20)": ["x'0001000000'", "x''", "x'ff00'"],
    "varbinary(300)": ["repeat(x'00', 300)", "x'2000'"],
    "mediumblob": ["repeat(x'00ff', 40000)"],
    "enum('','a','é','x,y')": ["''", "'é'", "'x,y'", "2"],
    "enum('a','b') CHARACTER SET ucs2": ["'a'", "'b'"],
    "set('x','y','z')": ["''", "'x'", "'z,y,x'"],
    "set({})".format(",".join(f"'m{i}'" for i in range(64))): ["'m0,m63'", "'m31,m32,m40'", "18446744073709551615"],
    "set('a','b') CHARACTER SET latin1": ["'a,b'"],
    "json": ["'[]'", "'{\"é\": [1, 2.50, null]}'"],
    "point": ["ST_GeomFromText('POINT(0 0)')"],
    "linestring": ["ST_GeomFromText('LINESTRING(0 0, 1e300 -1, 5 5)')"],
    "polygon": ["ST_GeomFromText('POLYGON((0 0, 1 0, 1 1, 0 0))', 4326)"],
    "multipoint": ["ST_GeomFromText('MULTIPOINT(0 0, 1 1)')"],
    "geometrycollection": ["ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1), LINESTRING(0 0, 1 1))')"],
    "uuid": [
        "'00000000-0000-0000-0000-000000000000'",
        "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
        "'0190a5b4-7c00-7000-8000-000000000000'",
        "'123e4567-e89b-12d3-a456-426614170000'",
        "'123e4567-e89b-62d3-0456-426614174000'",
    ],
    "inet4": ["'0.0.0.0'", "'255.255.255.255'", "'10.0.0.0'"],
    "inet6": [
        "'::'",
        "'::1'",
        "'::ffff:1.2.3.4'",
        "'::1.2.3.4'",
        "'::0.1.2.3'",
        "'::1:0'",
        "'::0.0.1.0'",
        "'fe80::'",
        "'2001:db8:0:0:1:0:0:1'",
        "'2001:0:0:1:0:0:0:1'",
        "'1:0:0:2:0:0:3:4'",
        "'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'",
        "'::ffff:0:1.2.3.4'",
        "'1:2:3:4:5:6:7:0'",
        "'0:2:3:4:5:6:7:8'",
    ],
    "varchar(300) COMPRESSED": ["''", "repeat('compress', 37)", "'short'"],
    "text COMPRESSED": ["''", "repeat('é', 10000)"],
    "blob COMPRESSED": ["repeat(x'ab', 20000)", "x''"],
    "varchar(50) CHARACTER SET latin1 COMPRESSED": ["repeat('é', 50)"],
}


def values_by_type() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind, value, _ in [*TYPED, *UNFIT]:
        if kind == "serial":
            continue
        kind = f"{kind} NULL" if kind.startswith("timestamp") and "NULL" not in kind else kind
        found.setdefault(kind, []).append(value)
    for kind, values in EDGES.items():
        found.setdefault(kind, []).extend(values)
    return found


def rows_of(batches: Iterator[Any]) -> dict[int, dict[str, Any]]:
    return {row["id"]: row for batch in batches for row in batch.to_pylist()}


def changed_rows(connector: MysqlConnector, plan: WindowPlan) -> tuple[list[Any], Any]:
    """Changes in order, as (position, operation, row), and the watermark after them."""
    found = []
    with connector.open_changes(plan) as read:
        for change in read.batches():
            found += zip(
                change.positions.to_pylist(), itertools.repeat(change.op), change.rows.to_pylist(), strict=False
            )
        return sorted(found, key=lambda item: item[0]), read.watermark


def same(a: Any, b: Any) -> bool:
    """Equal, with negative zero told from zero."""
    return a == b and type(a) is type(b) and repr(a) == repr(b)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "log_bin_compress"])
def test_every_value_of_every_type_is_that_of_a_full_read(
    mariadb: MariadbServer, mariadb_database: str, compressed: bool
) -> None:
    kinds = values_by_type()
    listing = ["id", *(f"c{i}" for i in range(len(kinds)))]
    most = max(len(values) for values in kinds.values())
    connector = MysqlConnector("types", MysqlConfig(**mariadb.config(mariadb_database)))
    name = f"{mariadb_database}.t"
    with mariadb.connect(mariadb_database) as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = 'ALLOW_INVALID_DATES', SESSION max_error_count = 0")
        columns = ", ".join(f"c{i} {kind}" for i, kind in enumerate(kinds))
        cursor.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns}) ROW_FORMAT = DYNAMIC")
        (table,) = connector.discover([name])
        with connector.open_read(WindowPlan(table=table, mode="full", key=("id",), captures=True)) as read:
            assert rows_of(read.careful_batches()) == {}
            previous = read.watermark
        if compressed:
            cursor.execute("SET GLOBAL log_bin_compress = ON, GLOBAL log_bin_compress_min_len = 10")
        try:
            for number in range(most):
                values = [listed[number % len(listed)] for listed in kinds.values()]
                cursor.execute(f"INSERT INTO t ({', '.join(listing)}) VALUES ({number}, {', '.join(values)})")
            cursor.execute("INSERT INTO t (id) VALUES (1000)")
        finally:
            cursor.execute("SET GLOBAL log_bin_compress = OFF")
        inserted, previous = changed_rows(connector, plan(table, previous))
        with connector.open_verify(table) as read:
            full = rows_of(read.batches())
        names = dict(zip((f"c{i}" for i in range(len(kinds))), kinds, strict=True))
        faults = [
            (names.get(column, column), full[row["id"]][column], row[column])
            for _, op, row in inserted
            for column in row
            if not same(full[row["id"]][column], row[column]) or op != "u"
        ]
        assert [str(fault)[:300] for fault in faults] == []
        assert len(inserted) == len(full) == most + 1

        # an update has both images: everything to NULL and back, and the key changed; a delete tells the whole old row
        for step in ("id = id + 2000", ", ".join(f"c{i} = NULL" for i in range(len(kinds)))):
            cursor.execute(f"UPDATE t SET {step}")
        cursor.execute("DELETE FROM t WHERE id >= 2000")
        changes, _ = changed_rows(connector, plan(table, previous))
    count = len(full)
    moved, new = changes[: 2 * count : 2], changes[1 : 2 * count : 2]
    emptied, deleted = changes[2 * count : -count], changes[-count:]  # one row was empty before: that is no change
    assert {(op, row["id"]) for _, op, row in moved} == {("d", key) for key in full}
    assert all(same(row, full[row["id"]]) for _, _, row in moved)
    assert all(same(row | {"id": row["id"] - 2000}, full[row["id"] - 2000]) for _, op, row in new if op == "u")
    assert all(value is None for _, _, row in emptied for column, value in row.items() if column != "id")
    assert ([op for _, op, _ in deleted], len(emptied)) == (["d"] * count, count - 1)


def plan(table: Any, previous: Any) -> WindowPlan:
    return WindowPlan(table=table, mode="cdc", key=("id",), previous=previous, captures=True)


def test_times_of_the_old_format_are_read_or_refused_with_what_mends_them(
    mariadb: MariadbServer, mariadb_database: str
) -> None:
    connector = MysqlConnector("types", MysqlConfig(**mariadb.config(mariadb_database)))
    with mariadb.connect(mariadb_database) as connection, connection.cursor() as cursor:
        cursor.execute("SET GLOBAL mysql56_temporal_format = OFF")
        try:
            cursor.execute("CREATE TABLE t (id int PRIMARY KEY, ts timestamp NULL, dt datetime, tm time)")
            cursor.execute("CREATE TABLE u (id int PRIMARY KEY, dt datetime(3))")
        finally:
            cursor.execute("SET GLOBAL mysql56_temporal_format = ON")
        watermarks = {}
        for name in ("t", "u"):
            (table,) = connector.discover([f"{mariadb_database}.{name}"])
            with connector.open_read(WindowPlan(table=table, mode="full", key=("id",), captures=True)) as read:
                watermarks[name] = (table, read.watermark)
        cursor.execute("INSERT INTO t VALUES (1, '2020-01-02 03:04:05', '9999-12-31 23:59:59', '-838:59:59')")
        cursor.execute("INSERT INTO u VALUES (1, '2020-01-02 03:04:05.678')")
    ((_, _, row),), _ = changed_rows(connector, plan(*watermarks["t"]))
    moment = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert (row["ts"], row["dt"], row["tm"]) == (moment, datetime.datetime(9999, 12, 31, 23, 59, 59), "-838:59:59")
    with pytest.raises(UnsupportedTableError, match=r"ALTER TABLE .* FORCE"):
        changed_rows(connector, plan(*watermarks["u"]))
