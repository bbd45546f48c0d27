"""Every character of MariaDB's character sets: as the server converts it, or told as lost; a read and the log agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assets.errors import SchemaChangedError
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.servers.mariadb_server import MariadbServer

OFTEN = ("cp932", "eucjpms", "tis620", "armscii8")
OTHERS = (
    *("big5", "dec8", "cp850", "hp8", "koi8r", "latin1", "latin2", "swe7", "ascii", "ujis", "sjis", "hebrew", "euckr"),
    *("koi8u", "gb2312", "greek", "cp1250", "gbk", "latin5", "ucs2", "cp866", "keybcs2", "macce", "macroman", "cp852"),
    *("latin7", "cp1251", "utf16", "utf16le", "cp1256", "cp1257", "utf32", "geostd8"),
)
KNOWN = {  # bytes, their text; None: it has none
    "cp932": {"8790": "≒", "81E0": "≒", "FA54": "￢", "81CA": "￢", "8740": "①", "5C": "\\", "3F": "?", "85": None},
    "eucjpms": {"ADF1": "≡", "A2E1": "≡", "8FA2B7": "～", "A1C1": "～", "8FF4AD": "℡"},
    "tis620": {"A1": "ก", "DB": None, "FF": None, "3F": "?"},
    "armscii8": {"A4": ")", "29": ")", "B2": "Ա"},
}


def codes(charset: str, widest: int) -> Iterator[bytes]:
    """All of one and two bytes, three where they begin with 0x8F."""
    yield from (bytes([one]) for one in range(256))
    if widest > 1:
        yield from (bytes([one, two]) for one in range(256) for two in range(0x40, 256))
    if widest == 3:
        yield from (bytes([0x8F, two, three]) for two in range(0xA1, 255) for three in range(0xA1, 255))


@pytest.mark.parametrize("charset", [*OFTEN, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_every_character_is_as_the_server_converts_it_or_told_as_lost(
    charset: str, tmp_path: Path, mariadb: MariadbServer, mariadb_database: str
) -> None:
    shop = MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)
    widest = {"eucjpms": 3, "ujis": 3}.get(charset, 2 if charset in ("cp932", "sjis", "big5", "gbk", "euckr") else 1)
    widest = 2 if charset in ("gb2312", "ucs2") else widest
    # a name of a character set cannot be bound, and a row here is a literal: all are of this file
    shop.execute(
        "CREATE TABLE codes (id int PRIMARY KEY AUTO_INCREMENT, b varbinary(4))",
        f"CREATE TABLE t (id int PRIMARY KEY, b varbinary(4), c char(4) CHARACTER SET {charset})",
    )
    found = list(codes(charset, widest))
    for start in range(0, len(found), 10_000):
        rows = ", ".join(f"(x'{code.hex()}')" for code in found[start : start + 10_000])
        shop.execute(f"INSERT INTO codes (b) VALUES {rows}")
    # bytes that are no character of the set are left out
    valid = f"SELECT id, b, convert(b USING {charset}) AS c FROM codes"
    shop.execute(f"INSERT IGNORE INTO t SELECT id, b, c FROM ({valid}) v WHERE hex(c) = hex(b)")
    table = shop.name("t")
    shop.sync(table, mode="full")
    assert shop.verify(table).equal is True
    read = shop.silver(table, ["b", "c", "_headrace_unfit"])
    stored = {bytes(code).hex().upper(): (text, unfit) for code, text, unfit in read}
    for code, text in KNOWN.get(charset, {}).items():
        if code in stored:
            assert stored[code] == ((text, None) if text else (None, f'{{"c": "0x{code}"}}')), code
    unicode = charset in ("ucs2", "utf16", "utf16le", "utf32")
    assert unicode or all(text is None or "\ufffd" not in text for text, _ in stored.values())

    shop.sync(table, mode="cdc")
    shop.execute("DELETE FROM t WHERE id % 3 = 0", "UPDATE t SET id = id + 1000000")
    shop.sync(table, mode="cdc")
    assert shop.verify(table).equal is True
    followed = {
        bytes(code).hex().upper(): (text, unfit)
        for code, text, unfit in shop.silver(table, ["b", "c", "_headrace_unfit"])
    }
    assert followed.items() <= stored.items()


MEMBERS = {  # a definition; numbers and their texts, None: it has none
    r"enum('a\\b', 'c\nd', 'e\rf', 'it''s', 'x,y', '\t', '\Z', 'n\\n')": {1: "a\\b", 2: "c\nd", 4: "it's", 8: "n\\n"},
    "enum('😀', 'a😀', '?')": {1: "😀", 2: "a😀", 3: "?"},
    "enum(0x6100, 0xE4, 0xC3A4, 'x') CHARACTER SET binary": {1: "a\0", 2: None, 3: "ä", 4: "x"},
    "enum('ä', '?') CHARACTER SET latin1": {1: "ä", 2: "?"},
    "enum(0xC840, 0xA45C, '?') CHARACTER SET big5": {1: None, 2: "么", 3: "?"},
    "enum('ä', '😀', '?') CHARACTER SET utf16": {1: "ä", 2: "😀", 3: "?"},
    r"set('a\\b', '😀', 'it''s')": {1: "a\\b", 3: "a\\b,😀", 7: "a\\b,😀,it's"},
    "set('ä', '😀', '?') CHARACTER SET utf16": {1: "ä", 3: "ä,😀", 7: "ä,😀,?"},
    "set(0xC840, '么', '?') CHARACTER SET big5": {1: None, 2: "么", 3: None, 6: "么,?"},
}


def test_members_of_enums_and_sets_are_in_the_log_what_a_read_shows(
    tmp_path: Path, mariadb: MariadbServer, mariadb_database: str
) -> None:
    shop = MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)
    names = [f"c{place}" for place in range(len(MEMBERS))]
    columns = list(zip(names, MEMBERS.items(), strict=True))
    defined = ", ".join(f"{name} {kind}" for name, (kind, _) in columns)
    shop.execute(f"CREATE TABLE t (id int PRIMARY KEY, {defined})")
    for number in range(9):
        values = ", ".join(str(number) if number in known else "NULL" for _, (_, known) in columns)
        shop.execute(f"INSERT INTO t VALUES ({number}, {values})")
    table = shop.name("t")

    def stored() -> list[tuple[Any, ...]]:
        return sorted(shop.silver(table, ["id", *names, "_headrace_unfit"]), key=lambda row: row[0])

    shop.sync(table, mode="cdc")
    read = stored()
    assert shop.verify(table).equal is True
    for place, (name, (_, known)) in enumerate(columns, 1):
        assert {number: read[number][place] for number in known} == known, name
    shop.execute("UPDATE t SET id = id + 100")
    assert shop.sync(table, mode="cdc").mode == "cdc"
    assert shop.verify(table).equal is True
    assert [(row[0] - 100, *row[1:]) for row in stored()] == read
    shop.execute("ALTER TABLE t MODIFY c1 enum('😎', 'a😀', '?')")
    with pytest.raises(SchemaChangedError, match="type of column c1 changed"):
        shop.sync(table, mode="cdc")
