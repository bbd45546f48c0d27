"""What MySQL alone writes, put together by its documented formats: GTID sets, rows of version 2, compressed
transactions, binary JSON; and which statements in the log change a table."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import pytest

from assets.errors import SchemaChangedError, SourceUnreachableError, StreamLostError, UnsupportedTableError
from assets.sources import mysql_binlog_events as log
from assets.sources.mysql_binlog_decoder import ChangeDecoder, TableNow
from assets.sources.mysql_binlog_rows import LoggedColumn, inet_text, members
from assets.sources.mysql_binlog_statements import Effects, TableStatements
from assets.sources.mysql_binlog_stream import Placed
from assets.sources.mysql_capture import ColumnFacts, LogPosition
from assets.sources.mysql_changes import MysqlChangeRead, keeps_values
from assets.sources.mysql_gtids import GtidWindow
from assets.sources.mysql_json import double_text, json_texts
from assets.sync import Column, Watermark

SERVER = uuid.UUID("3e11fa47-71ca-11e1-9e33-c80aa9429562")
OTHER = uuid.UUID("4e11fa47-71ca-11e1-9e33-c80aa9429562")
FACTS = (
    ColumnFacts("id", "int", "int", None, False, False),
    ColumnFacts("doc", "json", "json", None, True, True),
    ColumnFacts("size", "enum", "enum('s','m')", "utf8mb4", True, True),
)
COLUMNS = (
    Column(name="id", source_type="int", arrow_type="int32", rule="typed", nullable=False),
    Column(name="doc", source_type="json", arrow_type="string", rule="text"),
    Column(name="size", source_type="enum('s','m')", arrow_type="string", rule="text"),
)


def event(kind: int, body: bytes) -> log.Event:
    return log.Event(1, kind, 1, 1, 0, body)


def gtid(number: int, server: uuid.UUID = SERVER) -> log.Event:
    return event(log.GTID, b"\0" + server.bytes + struct.pack("<Q", number) + b"\x02" + bytes(16))


def query(text: str, schema: str = "shop") -> log.Event:
    name = schema.encode()
    return event(log.QUERY, struct.pack("<IIBHH", 1, 0, len(name), 0, 3) + b"\0\0\0" + name + b"\0" + text.encode())


def table_map(
    table: str = "t", names: Sequence[str] | None = None, number: int = 7, members: Sequence[bytes] = ()
) -> log.Event:
    body = number.to_bytes(6, "little") + b"\0\0" + b"\x04shop\0" + bytes([len(table)]) + table.encode() + b"\0"
    body += bytes([3, log.LONG, log.JSON, log.STRING, 3, 4, log.ENUM, 1, 0])
    if names:
        listed = b"".join(bytes([len(name)]) + name.encode() for name in names)
        body += bytes([4, len(listed)]) + listed
    if members:
        listed = bytes([len(members)]) + b"".join(bytes([len(member)]) + member for member in members)
        body += bytes([6, len(listed)]) + listed
    return event(log.TABLE_MAP, body)


def image(key: int, doc: bytes | None, size: int | None) -> bytes:
    found = bytes([(doc is None) << 1 | (size is None) << 2]) + struct.pack("<i", key)
    found += b"" if doc is None else struct.pack("<I", len(doc)) + doc
    return found + (b"" if size is None else bytes([size]))


def rows(kind: int, *images: bytes, number: int = 7, present: int = 7, extra: bytes = b"") -> log.Event:
    head = number.to_bytes(6, "little") + b"\1\0" + struct.pack("<H", 2 + len(extra)) + extra + b"\3"
    return event(kind, head + bytes([present]) * (2 if kind == 31 else 1) + b"".join(images))


INSERT, UPDATE, DELETE = 30, 31, 32
BEGIN, XID = query("BEGIN"), event(log.XID, bytes(8))
TRUE = b"\x04\x01"
EXTRA = b"\x01\x05\x00"  # a partition's number


def insert(number: int, key: int, table: log.Event | None = None) -> list[log.Event]:
    return [gtid(number), BEGIN, table or table_map(), rows(INSERT, image(key, TRUE, 2), extra=EXTRA), XID]


class Recorded:
    """A stream of these events."""

    def __init__(self, events: Sequence[log.Event]) -> None:
        self._events = events
        self.made: dict[str, int] = {"binlog.000001": 1}

    def after(self, _: str) -> Iterator[Placed]:
        for item in self._events:
            inner = log.parse_payload(item.body) if item.kind == log.PAYLOAD else [item]
            yield from (Placed(one, "binlog.000001", 1) for one in inner)


def change_read(
    events: Sequence[log.Event],
    before: str = "",
    after: str = f"{SERVER}:1-9",
    same_columns: bool = True,
    size: Column = COLUMNS[2],
) -> MysqlChangeRead:
    columns = (*COLUMNS[:2], size)
    logged = tuple(LoggedColumn(c, f.data_type, f.charset) for c, f in zip(columns, FACTS, strict=True))
    now = TableNow("c/shop.t", "Run: reset", "shop", "t", False, ("id",), logged, FACTS, same_columns)
    stored = [facts.stored for facts in FACTS]
    position = {"gtid": before, "file": "binlog.000001", "place": 4, "made": 1, "server": "s", "columns": stored}
    return MysqlChangeRead(
        "c/shop.t",
        "Run: reset",
        nullcontext(Recorded(events)),  # type: ignore[arg-type]
        ChangeDecoder(now, lambda values, _: (values, values), 100),
        TableStatements("shop", "t", fold=False),
        GtidWindow.between(before, LogPosition(after, "binlog.000001", 4, True), mariadb=False, where="c/shop.t"),
        Watermark(value=before, position=position),
        LogPosition(after, "binlog.000001", 4, True),
        {"columns": stored, "file": "binlog.000001", "place": 4},
        1,
    )


def changes(read: MysqlChangeRead) -> list[tuple[int, str, tuple[Any, ...]]]:
    found = []
    for change in read.batches():
        rows = [tuple(row.values())[:3] for row in change.rows.to_pylist()]
        found += [(p, change.op, row) for p, row in zip(change.positions.to_pylist(), rows, strict=True)]
    return sorted(found)


def test_transactions_of_the_window_count_whatever_their_order_and_no_others() -> None:
    events = [
        *insert(4, 4),
        *insert(3, 3),
        gtid(7, OTHER),
        BEGIN,
        table_map(),
        rows(UPDATE, image(3, TRUE, 2), image(30, TRUE, 0)),
        rows(DELETE, image(4, None, None)),
        XID,
        gtid(5),
        query("CREATE TABLE elsewhere (id int)"),
        *insert(6, 6),  # committed after the window's snapshot
    ]
    read = change_read(events, f"{SERVER}:1-2", f"{SERVER}:1-5,\n{OTHER}:7".replace("\n", ""))
    assert changes(read) == [
        (101, "u", (4, "true", "m")),
        (102, "u", (3, "true", "m")),
        (103, "d", (3, "true", "m")),
        (104, "u", (30, "true", "")),
        (105, "d", (4, None, None)),
    ]
    assert read.watermark.position["last"] == 105


def test_a_stream_that_ends_before_its_window_and_a_log_that_ends_before_the_last_sync_are_named() -> None:
    with pytest.raises(SourceUnreachableError, match="ended before"):
        changes(change_read(insert(1, 1), "", f"{SERVER}:1-2"))
    with pytest.raises(StreamLostError, match="restored or reset"):
        change_read([], f"{SERVER}:1-10", f"{SERVER}:1-9")
    with pytest.raises(StreamLostError, match="restored or reset"):
        change_read([], f"{OTHER}:1", f"{SERVER}:1-9")
    with pytest.raises(StreamLostError, match="tags"):
        change_read([], f"{SERVER}:blue:1", f"{SERVER}:1-9")


@pytest.mark.parametrize("algorithm", ["zstd", "none"])
def test_a_compressed_transaction_is_the_same_as_its_events(algorithm: str) -> None:
    inner = b"".join(
        log.HEADER.pack(1, e.kind, 1, log.HEADER.size + len(e.body), 0, 0) + e.body for e in insert(1, 1)[1:]
    )
    packed = pa.compress(inner, codec="zstd", asbytes=True) if algorithm == "zstd" else inner

    def integer(number: int) -> bytes:
        return bytes([number]) if number < 251 else b"\xfc" + struct.pack("<H", number)

    def field(kind: int, number: int) -> bytes:
        return bytes([kind, len(integer(number))]) + integer(number)

    kind = field(2, 0 if algorithm == "zstd" else 255)
    body = kind + field(3, len(inner)) + field(1, len(packed)) + b"\0" + packed
    read = change_read([gtid(1), event(log.PAYLOAD, body)], "", f"{SERVER}:1")
    assert changes(read) == [(101, "u", (1, "true", "m"))]


def test_columns_without_names_are_told_by_their_order_while_the_table_is_the_same() -> None:
    moved = table_map(names=["size_", "doc", "id"])
    assert changes(change_read(insert(1, 1, table_map(names=["id", "doc", "size"])), "", f"{SERVER}:1"))
    with pytest.raises(SchemaChangedError, match="key column id"):
        changes(change_read(insert(1, 1, table_map(names=["a", "doc", "size"])), "", f"{SERVER}:1"))
    with pytest.raises(SchemaChangedError, match="type of column id"):
        changes(change_read(insert(1, 1, moved), "", f"{SERVER}:1"))
    with pytest.raises(SchemaChangedError, match="binlog_row_metadata"):
        changes(change_read(insert(1, 1), "", f"{SERVER}:1", same_columns=False))
    with pytest.raises(SchemaChangedError, match="binlog_row_metadata"):
        altered = [gtid(1), query("ALTER TABLE t ADD INDEX (size)"), *insert(2, 2)]
        changes(change_read(altered, "", f"{SERVER}:1-2"))


def test_the_log_s_members_count_and_without_them_the_catalogue_s_unless_those_may_be_others() -> None:
    told = insert(1, 1, table_map(members=["ß".encode(), "😀".encode()]))
    assert changes(change_read(told, "", f"{SERVER}:1")) == [(101, "u", (1, "true", "😀"))]
    hidden = Column(name="size", source_type="enum('s','?')", arrow_type="string", rule="text")
    assert changes(change_read(told, "", f"{SERVER}:1", size=hidden)) == [(101, "u", (1, "true", "😀"))]
    assert changes(change_read(insert(1, 1), "", f"{SERVER}:1")) == [(101, "u", (1, "true", "m"))]
    with pytest.raises(UnsupportedTableError, match="column size has a member with a question mark"):
        changes(change_read(insert(1, 1), "", f"{SERVER}:1", size=hidden))


@pytest.mark.parametrize(
    ("events", "error", "told"),
    [
        ([BEGIN, table_map(), rows(INSERT, image(1, None, None), present=3)], StreamLostError, "binlog_row_image"),
        ([event(log.INCIDENT, b"\1\0")], StreamLostError, "incident"),
        ([event(log.PARTIAL_UPDATE, b"")], StreamLostError, "binlog_row_value_options"),
        ([event(log.ANONYMOUS, b"")], StreamLostError, "without a GTID"),
        ([event(99, b"")], UnsupportedTableError, "unknown type 99"),
        ([event(log.EXECUTE_LOAD, b"LOAD DATA INFILE 'x' INTO TABLE `t`")], StreamLostError, "as a statement"),
    ],
)
def test_what_cannot_be_followed_is_named(events: list[log.Event], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        changes(change_read([gtid(1), *events], "", f"{SERVER}:1"))


def test_a_checksum_is_verified() -> None:
    import zlib

    data = log.HEADER.pack(1, log.XID, 1, log.HEADER.size + 12, 0, 0) + bytes(8)
    whole = data + struct.pack("<I", zlib.crc32(data))
    assert log.parse_event(whole, True).body == bytes(8)
    with pytest.raises(log.MalformedEventError, match="checksum"):
        log.parse_event(whole[:-1] + b"\0", True)
    with pytest.raises(log.MalformedEventError, match="length"):
        log.parse_event(whole[:-1], True)


# statements

STATEMENTS: list[tuple[str, dict[str, Any] | None]] = [
    ("TRUNCATE TABLE t", {"truncated": True}),
    ("truncate`shop`.`t`", {"truncated": True}),
    ("TRUNCATE other.t", None),
    ("CREATE TABLE u (t int)", None),
    ("DROP TEMPORARY TABLE t", None),
    ("CREATE TABLE IF NOT EXISTS t (id int)", None),
    ("/*!40000 ALTER TABLE t DISABLE KEYS */", {}),
    ("ALTER TABLE t ADD INDEX i (a), ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES u (id), COMMENT 'x, DROP COLUMN'", {}),
    ("ALTER TABLE t ADD COLUMN (x int, y varchar(9) COMMENT 'DEFAULT, NOT')", {"added": {"x", "y"}}),
    ("ALTER TABLE t ADD x int DEFAULT NULL AFTER id, DROP `Y`", {"added": {"x"}, "dropped": {"y"}}),
    ("ALTER TABLE t ADD x int AS (id * 2) VIRTUAL", {"added": {"x"}, "changed": "column x was added with a default"}),
    ("ALTER TABLE t MODIFY COLUMN x bigint FIRST, CHANGE y Y int", {"redefined": ["x", "y"]}),
    ("ALTER TABLE t RENAME INDEX a TO b, ALTER COLUMN x SET DEFAULT 5, ENGINE = InnoDB", {}),
    ("ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4", {"changed": "its character set was changed"}),
    ("ALTER TABLE t REORGANIZE PARTITION p0 INTO (PARTITION p00 VALUES LESS THAN (5))", {}),
    ("ALTER TABLE t DROP PARTITION p0", {"lost": "a partition was dropped"}),
    ("ALTER IGNORE TABLE t ADD UNIQUE (a)", {"lost": "ALTER IGNORE may have removed rows"}),
    ("ALTER TABLE u EXCHANGE PARTITION p WITH TABLE t", {"lost": "a partition was exchanged with it"}),
    ("ALTER TABLE u RENAME TO t", {"lost": "another table took its name"}),
    ("ALTER TABLE u RENAME COLUMN t TO x", None),
    ("RENAME TABLE a TO b, `t` TO c", {"lost": "the table was renamed, or another one took its name"}),
    ("RENAME TABLE a TO b", None),
    ("DROP TABLE IF EXISTS `a`,`shop`.`t` /* generated by server */", {"lost": "the table was dropped"}),
    ("DROP DATABASE shop", {"lost": "the database was dropped"}),
    ("DROP INDEX t ON u", None),
    ("UPDATE t SET a = 1", {"lost": "a change was logged as a statement, not as rows"}),
    ("INSERT INTO u VALUES ('t')", None),
    ("GRANT SELECT ON t TO u", None),
    ("-- t\nALTER TABLE u ADD t int", None),
]


@pytest.mark.parametrize(("statement", "effects"), STATEMENTS, ids=[statement[:40] for statement, _ in STATEMENTS])
def test_what_a_statement_does_to_the_table(statement: str, effects: dict[str, Any] | None) -> None:
    found = TableStatements("shop", "t", fold=False).effects(statement, "shop")
    assert found == (None if effects is None else Effects(**effects))


def test_names_fold_where_the_server_folds_them() -> None:
    assert TableStatements("Shop", "T", fold=True).effects("TRUNCATE shop.t", "x") == Effects(truncated=True)
    assert TableStatements("Shop", "T", fold=False).effects("TRUNCATE shop.t", "x") is None


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("varchar(10)", "varchar(20)", True),
        ("varchar(20)", "varchar(10)", False),
        ("decimal(10,2)", "decimal(12,2)", True),
        ("decimal(10,2)", "decimal(12,3)", False),
        ("decimal(10,2) unsigned", "decimal(12,2)", False),
        ("decimal(10,2) unsigned zerofill", "decimal(12,2) unsigned zerofill", True),
        ("decimal(40,2) unsigned zerofill", "decimal(40,2) unsigned zerofill", True),
        ("decimal(40,2) unsigned zerofill", "decimal(42,2) unsigned zerofill", False),
        ("int(11)", "int", True),
        ("int", "int unsigned", False),
        ("int", "bigint", False),
        ("enum('a','b')", "enum('a','b','c')", True),
        ("enum('a','b')", "enum('b','a')", False),
        ("enum('a','b')", "enum('A','b')", False),
        ("set('a','b')", "set('a','b','c')", True),
        ("set('a','b')", "set('a','c')", False),
        ("enum('?')", "enum('?','b')", False),
        ("datetime(3)", "datetime", False),
        ("text", "longtext", False),
    ],
)
def test_which_definitions_keep_every_value(before: str, after: str, kept: bool) -> None:
    name = after.partition("(")[0]
    now = ColumnFacts("x", name, after, None, True, True)
    assert keeps_values(["x", before, None, True], now) is kept
    assert keeps_values(["x", before, "latin1", True], now) is False
    assert keeps_values(["x", before, None, True], ColumnFacts("x", name, after, None, False, True)) is False


# binary JSON


def packed_json(value: Any, large: bool = False) -> bytes:
    """A type and a value by the documented format: large containers have offsets of four bytes."""
    width, form = (4, "<I") if large else (2, "<H")
    if isinstance(value, dict | list):
        keys = [k.encode() for k in value] if isinstance(value, dict) else []
        items = list(value.values()) if isinstance(value, dict) else value
        head = 2 * width + len(keys) * (width + 2) + len(items) * (1 + width)
        names, listed, entries, data = b"".join(keys), b"", b"", b""
        at = head
        for key in keys:
            listed += struct.pack(form, at) + struct.pack("<H", len(key))
            at += len(key)
        for item in items:
            inner = packed_json(item, large)
            if inner[0] in (4, 5, 6) or (large and inner[0] in (7, 8)):
                entries += inner[:1] + inner[1:].ljust(width, b"\0")
            else:
                entries += inner[:1] + struct.pack(form, head + len(names) + len(data))
                data += inner[1:]
        content = listed + entries + names + data
        kind = (1 if large else 0) + (0 if isinstance(value, dict) else 2)
        return bytes([kind]) + struct.pack(form, len(items)) + struct.pack(form, 2 * width + len(content)) + content
    if value is None or isinstance(value, bool):
        return bytes([4, 0 if value is None else 2 - value])
    if isinstance(value, bytes):  # packed already
        return value
    if isinstance(value, float):
        return b"\x0b" + struct.pack("<d", value)
    if isinstance(value, int):
        for kind, packing in ((5, "<h"), (6, "<H"), (7, "<i"), (8, "<I"), (9, "<q"), (10, "<Q")):
            try:
                return bytes([kind]) + struct.pack(packing, value)
            except struct.error:
                continue
    text = str(value).encode()
    size = b""
    length = len(text)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return b"\x0c" + size + bytes([length]) + text


@pytest.mark.parametrize("large", [False, True])
def test_binary_json_prints_as_the_server_prints_it(large: bool) -> None:
    decimal = b"\x0f\xf6\x05\x06\x02" + b"\x84\xd2\x38"
    value = {
        "a": [None, True, False, 1, -1, 65535, -2147483648, 4294967295, -(2**63), 2**64 - 1],
        "ü": {"text": 'q"\\\n\u0001/é🚰', "long": "x" * 300, "": {}},
        "n": [1.0, -0.5, 1e15, 1e-7, []],
        "d": decimal,
    }
    (text,) = json_texts([packed_json(value, large)])
    assert text == (
        '{"a": [null, true, false, 1, -1, 65535, -2147483648, 4294967295, -9223372036854775808, 18446744073709551615], '
        '"ü": {"text": "q\\"\\\\\\n\\u0001/é🚰", "long": "' + "x" * 300 + '", "": {}}, '
        '"n": [1.0, -0.5, 1e15, 0.0000001, []], "d": 1234.56}'
    )
    assert json_texts([None, b""]) == [None, "null"]


def test_times_and_bytes_inside_json() -> None:
    packed = ((((2015 * 13 + 1) << 5 | 15) << 17) | (23 << 12 | 24 << 6 | 25)) << 24 | 120
    time = -(((838 << 12 | 59 << 6 | 59) << 24) | 5)
    found = json_texts(
        [
            b"\x0f\x0c\x08" + struct.pack("<q", packed),
            b"\x0f\x0a\x08" + struct.pack("<q", packed),
            b"\x0f\x0b\x08" + struct.pack("<q", time),
            b"\x0f\xfc\x03abc",
        ]
    )
    assert found == ['"2015-01-15 23:24:25.000120"', '"2015-01-15"', '"-838:59:59.000005"', '"base64:type252:YWJj"']


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (123456789012345.0, "123456789012345.0"),
        (1.5e300, "1.5e300"),
        (2.5e-16, "2.5e-16"),
    ],
)
def test_doubles_of_json(value: float, text: str) -> None:
    assert double_text(value) == text


def test_members_and_addresses() -> None:
    assert members("enum('a','it''s','x,y','')") == ["a", "it's", "x,y", ""]
    assert members(r"set('a\\b','c\nd','\0','''\r''','\t')") == ["a\\b", "c\nd", "\0", "'\r'", "\\t"]
    assert inet_text(bytes(16)) == "::"
    assert inet_text(bytes(4)) == "0.0.0.0"
