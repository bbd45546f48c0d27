"""Tables in the manner of MariaDB's regression suite, keys of every type: each is synced equal, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assets.errors import HeadraceError
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.servers.mariadb_server import MariadbServer

pytestmark = pytest.mark.slow

KEYS = {  # a type, and two of its values
    "tinyint unsigned": ("255", "0"),
    "smallint": ("-32768", "1"),
    "mediumint": ("-8388608", "8388607"),
    "int unsigned": ("4294967295", "0"),
    "bigint": ("-9223372036854775808", "1"),
    "bigint unsigned": ("18446744073709551615", "1"),
    "decimal(38,10)": ("-0.0000000001", "1"),
    "decimal(65,0)": ("9" * 65, "-1"),
    "float": ("1.1", "-2.5"),
    "double": ("0.1", "1e300"),
    "bit(12)": ("b'101'", "0"),
    "year": ("2155", "0"),
    "date": ("'0001-01-01'", "'9999-12-31'"),
    "datetime(6)": ("'2020-01-01 00:00:00.000001'", "'2020-01-01'"),
    "timestamp(3)": ("'2020-01-01 00:00:00.001'", "'2038-01-19 03:14:07'"),
    "time(2)": ("'-838:59:59'", "'00:00:00.01'"),
    "char(5)": ("'a'", "'é'"),
    "varchar(20) COLLATE utf8mb4_bin": ("'A'", "'a '"),
    "varchar(20) CHARACTER SET latin1": ("'é'", "''"),
    "varchar(20) CHARACTER SET sjis": ("'テスト'", "'x'"),
    "binary(4)": ("x'00ff'", "x'20'"),
    "varbinary(20)": ("x'00'", "x''"),
    "enum('b','a')": ("'a'", "'b'"),
    "set('x','y')": ("'x,y'", "''"),
    "uuid": ("uuid()", "'00000000-0000-0000-0000-000000000000'"),
    "inet6": ("'::1'", "'::'"),
    "inet4": ("'10.0.0.1'", "'0.0.0.0'"),
}
CURSORS = {  # a type, an early value and a later one
    "timestamp NULL": ("'2020-01-01'", "'2021-01-01 00:00:01'"),
    "timestamp(6) NULL": ("'2020-01-01 00:00:00.000001'", "'2020-01-01 00:00:00.000002'"),
    "datetime": ("'2020-01-01'", "'2021-01-01'"),
    "datetime(3)": ("'0001-01-01'", "'2021-01-01 00:00:00.001'"),
    "date": ("'2020-01-01'", "'2021-01-01'"),
    "tinyint": ("-128", "127"),
    "mediumint unsigned": ("0", "16777215"),
    "int": ("-5", "5"),
    "bigint": ("1", "9223372036854775807"),
    "bigint unsigned": ("0", "18446744073709551615"),
    "year": ("0", "2155"),
}
SCHEMA = [
    "CREATE TABLE generated (a int AUTO_INCREMENT PRIMARY KEY, b int, c int AS (b * 2) VIRTUAL, "
    "d int AS (b * 3) STORED, e varchar(20) AS (concat(b, 'x')) PERSISTENT, "
    "updated_at timestamp DEFAULT now() ON UPDATE now())",
    "INSERT INTO generated (b) SELECT seq FROM seq_1_to_50",
    "CREATE TABLE invisible (id int PRIMARY KEY, v int INVISIBLE DEFAULT 7)",
    "INSERT INTO invisible (id) VALUES (1), (2)",
    "CREATE TABLE `odd.name``s` (`Key` int PRIMARY KEY, `select` text, `a.b` text, `%s` text, `{}` text, `ü` text)",
    "INSERT INTO `odd.name``s` VALUES (1, 'a', 'b', 'c', 'd', 'e')",
    "CREATE TABLE myisam (id int PRIMARY KEY, v text) ENGINE = MyISAM",
    "CREATE TABLE aria (id int PRIMARY KEY, v text) ENGINE = Aria",
    "CREATE TABLE memory (id int PRIMARY KEY, v varchar(9)) ENGINE = MEMORY",
    "CREATE TABLE csv (id int NOT NULL, v varchar(9) NOT NULL) ENGINE = CSV",
    "INSERT INTO myisam VALUES (1, 'a')",
    "INSERT INTO aria VALUES (1, 'a')",
    "INSERT INTO memory VALUES (1, 'a')",
    "INSERT INTO csv VALUES (1, 'a')",
    "CREATE TABLE compressed (id int PRIMARY KEY, v text) ROW_FORMAT = COMPRESSED",
    "INSERT INTO compressed SELECT seq, repeat(seq, 1000) FROM seq_1_to_20",
    "CREATE TABLE hashed (id int PRIMARY KEY, v text) PARTITION BY HASH (id) PARTITIONS 4",
    "INSERT INTO hashed SELECT seq, seq FROM seq_1_to_20",
    "CREATE TABLE listed (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k) "
    "(PARTITION a VALUES IN (1, 2), PARTITION b DEFAULT)",
    "INSERT INTO listed SELECT seq, seq % 4 FROM seq_1_to_20",
    "CREATE TABLE versioned (id int PRIMARY KEY, v int) WITH SYSTEM VERSIONING",
    "INSERT INTO versioned VALUES (1, 1), (2, 2)",
    "UPDATE versioned SET v = 3 WHERE id = 1",
    "CREATE TABLE periods (id int, s date, e date, PERIOD FOR p (s, e), PRIMARY KEY (id, p WITHOUT OVERLAPS))",
    "INSERT INTO periods VALUES (1, '2020-01-01', '2020-02-01')",
    "CREATE SEQUENCE numbers",
    "CREATE TABLE nokey (a int, b text)",
    "INSERT INTO nokey VALUES (1, 'x'), (1, 'x'), (NULL, NULL)",
    "CREATE TABLE unique_only (a int NOT NULL UNIQUE, b int)",
    "INSERT INTO unique_only VALUES (1, 1), (2, NULL)",
    "CREATE TABLE prefixed (a varchar(300), b text, PRIMARY KEY (a(10), b(20)))",
    "INSERT INTO prefixed VALUES ('one', 'two')",
    "CREATE TABLE parent (id int PRIMARY KEY)",
    "CREATE TABLE child (id int PRIMARY KEY, p int, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE)",
    "CREATE TABLE checked (id int PRIMARY KEY, v json, w longtext CHECK (json_valid(w)))",
    """INSERT INTO checked VALUES (1, '{"a":  1.00}', '[]'), (2, NULL, NULL)""",
    "CREATE VIEW a_view AS SELECT id, v FROM hashed",
    "CREATE TABLE wide (id int PRIMARY KEY, {})".format(", ".join(f"c{i} int" for i in range(900))),
    "INSERT INTO wide (id, c0, c899) VALUES (1, 2, 3)",
    "CREATE TABLE large (id int PRIMARY KEY, v longblob)",
    "INSERT INTO large VALUES (1, repeat('x', 3000000)), (2, '')",
]


@pytest.fixture
def shop(tmp_path: Path, mariadb: MariadbServer, mariadb_database: str) -> MysqlInstallation:
    return MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)


def check(shop: MysqlInstallation, table: str, faults: list[str], **options: Any) -> bool:
    """Sync and compare; whether it was not refused."""
    try:
        result = shop.sync(table, **options)
        compared = shop.verify(table)
    except HeadraceError as error:
        if not error.what or not error.where:
            faults.append(f"{table} {options}: {error!r}")
        return False
    except Exception as error:  # all of them are told at the end
        faults.append(f"{table} {options}: {type(error).__name__}: {str(error)[:300]}")
        return False
    if not (result.equal and compared.equal):
        faults.append(f"{table} {options}: {result.reason} {compared.model_dump(exclude_defaults=True)}")
    return True


REFUSED = {"myisam", "aria", "memory", "csv", "versioned", "nokey", "child", "a_view"}


def test_tables_as_in_the_regression_suite_are_synced_equal_or_refused_by_name(shop: MysqlInstallation) -> None:
    shop.execute(*SCHEMA)
    faults: list[str] = []
    followed = []
    for table in shop.steps.catalog.connector("shop").discover():
        assert check(shop, table.name, faults), table.name
        if check(shop, table.name, faults, mode="cdc"):
            followed.append(table.table_name)
    assert faults == []
    assert REFUSED.isdisjoint(followed)
    assert len(followed) >= 12
    shop.execute(
        "UPDATE generated SET b = b + 1 WHERE a < 10",
        "DELETE FROM generated WHERE a > 40",
        "UPDATE invisible SET v = 8 WHERE id = 1",
        "UPDATE `odd.name``s` SET `a.b` = 'new', `Key` = 2",
        "UPDATE listed SET k = k + 1 WHERE id < 5",
        "UPDATE wide SET c450 = 7",
        "UPDATE large SET v = repeat('y', 2000000) WHERE id = 2",
        "UPDATE checked SET v = '[1]' WHERE id = 2",
        "DELETE FROM prefixed",
    )
    for name in followed:
        label = next(t.name for t in shop.steps.catalog.connector("shop").discover() if t.table_name == name)
        assert check(shop, label, faults, mode="cdc"), name
    assert faults == []


@pytest.mark.parametrize("mode", ["incremental", "cdc"])
def test_keys_of_every_type_are_matched(shop: MysqlInstallation, mode: str) -> None:
    faults: list[str] = []
    options: dict[str, Any] = {"mode": "cdc"} if mode == "cdc" else {"deletes": "keys"}
    for number, (kind, (first, second)) in enumerate(KEYS.items()):
        name = shop.name(f"t{number}")
        shop.execute(
            f"CREATE TABLE t{number} (k {kind} PRIMARY KEY, v int, updated_at timestamp(6) NULL)",
            f"INSERT INTO t{number} VALUES ({first}, 1, now(6))",
        )
        assert check(shop, name, faults, **options), kind
        shop.execute(
            f"UPDATE t{number} SET v = 2, updated_at = now(6)", f"INSERT INTO t{number} VALUES ({second}, 3, now(6))"
        )
        assert check(shop, name, faults, **options), kind
        shop.execute(f"DELETE FROM t{number} WHERE v = 2", f"UPDATE t{number} SET k = {first}, updated_at = now(6)")
        assert check(shop, name, faults, **options), kind
        assert shop.silver(name, ["v"]) == [(3,)], kind
    assert faults == []


def test_cursors_of_every_type_find_what_is_new(shop: MysqlInstallation) -> None:
    faults: list[str] = []
    for number, (kind, (early, late)) in enumerate(CURSORS.items()):
        name = shop.name(f"t{number}")
        shop.execute(
            f"CREATE TABLE t{number} (id int PRIMARY KEY, c {kind}, v int, KEY (c))",
            f"INSERT INTO t{number} VALUES (1, {early}, 1), (2, {early}, 1)",
        )
        assert check(shop, name, faults, cursor="c"), kind
        shop.execute(
            f"UPDATE t{number} SET c = {late}, v = 2 WHERE id = 1", f"INSERT INTO t{number} VALUES (3, {late}, 3)"
        )
        assert check(shop, name, faults, cursor="c", mode="incremental"), kind
        assert shop.silver(name, ["id", "v"]) == [(1, 2), (2, 1), (3, 3)], kind
    assert faults == []
