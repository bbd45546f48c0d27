"""Large tables are stored as the scanner's own Parquet row groups: with every value as the careful reader has it."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.encoded_rows import EncodedRows
from assets.lakehouse.parquet_parts import BackgroundPartWriter
from assets.lakehouse.storage import FolderStorage
from assets.sources.interface import CarefulReadNeeded, TableRead
from assets.sources.postgres import PostgresConnector
from assets.sources.postgres_connection import PostgresConfig
from assets.sync import WindowPlan
from orchestration.embedded_postgres import EmbeddedPostgres

ROWS = 4_000
COLUMNS = {
    "id": "int PRIMARY KEY",
    "small": "smallint",
    "big": "bigint",
    "flag": "boolean",
    "ratio": "real",
    "measure": "double precision",
    "price": "numeric(12, 2)",
    "long_price": "numeric(30, 6)",
    "short_price": "numeric(4, 0)",
    "day": "date",
    "moment": "timestamp",
    "updated_at": "timestamptz",
    "one": "char(1)",
    "padded": "char(5)",
    "unpadded": "bpchar",
    "name": "varchar(20)",
    "note": "text",
    "raw": "bytea",
    "code": "uuid",
    "doc": "jsonb",
    "cash": "money",
    "nothing": "int",
}
VALUES = """
INSERT INTO wide SELECT i, i % 30000 - 15000, i * 10000000000 - 5, i % 3 = 0,
  CASE i % 5 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' WHEN 2 THEN '-0' ELSE i / 7.0 END,
  CASE i % 5 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' WHEN 2 THEN '-0' ELSE i / 7.0 END,
  i / 4.0 - 500, 123456789012345678901234.567891 - i, i % 2000 - 1000,
  CASE i % 3 WHEN 0 THEN '0001-01-01' WHEN 1 THEN '9999-12-31' ELSE '2024-02-29'::date + i END,
  CASE i % 3 WHEN 0 THEN '0001-01-01 00:00:00.000001' WHEN 1 THEN '9999-12-31 23:59:59.999999'
  ELSE '1969-12-31 23:59:59.999999'::timestamp - i * interval '1 day' END,
  '2026-01-01 00:00+00'::timestamptz + i * interval '1 second',
  (ARRAY['', 'a', 'é', '日', ' '])[i % 5 + 1], (ARRAY['', 'ab', '  x', 'né😀', E'a\\t', 'e' || U&'\\0301'])[i % 6 + 1],
  (ARRAY['', 'ab  ', ' x '])[i % 3 + 1], 'name ' || i, CASE WHEN i % 4 > 0 THEN repeat('Zoë 🎈 ', i % 9) END,
  int4send(i), md5(i::text)::uuid, jsonb_build_object('i', i), i::numeric / 100, NULL
FROM generate_series(1, ROWS) i
"""


@pytest.fixture
def wide(
    postgres: EmbeddedPostgres, database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[PostgresConnector, Any]:
    monkeypatch.setattr("assets.sources.postgres_read.FAST_FROM_BYTES", 0)
    monkeypatch.setattr("assets.sources.postgres_chunks.PAGES_A_QUERY", 30)
    monkeypatch.setattr("assets.sources.postgres_chunks.FIRST_PAGES", 2)
    monkeypatch.setattr("assets.sources.postgres_chunks.PARALLEL_BYTES", 1)
    monkeypatch.setattr("assets.sources.postgres_fast.LEAST_BYTES", 1)
    name = database()
    connection: Any = postgres.connect(name, autocommit=True)
    connection.execute(f"CREATE TABLE wide ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})")
    connection.execute(VALUES.replace("ROWS", str(ROWS)))
    connector = PostgresConnector("shop", PostgresConfig(**postgres.config(name)))
    connector.home = tmp_path
    return connector, connection


def opened(connector: PostgresConnector) -> Any:
    (table,) = connector.discover(["public.wide"])
    return connector.open_read(WindowPlan(table=table, mode="full", key=("id",), cursor="updated_at"))


def stored(read: TableRead, folder: Path) -> tuple[pa.Table, int]:
    """What parts made of the encoded rows hold, and how many rows came encoded."""
    encoded = 0
    schema = read.schema
    with BackgroundPartWriter(FolderStorage(), str(folder / "parts"), schema) as writer:
        for rows in read.encoded_batches():
            encoded += rows.num_rows if isinstance(rows, EncodedRows) else 0
            writer.write(rows)
    return pa.concat_tables([pq.read_table(part.uri, schema=schema) for part in writer.parts]), encoded


def rows_of(table: pa.Table) -> Counter[str]:
    """Rows by their text: it tells -0 and NaN, which do not compare."""
    return Counter(map(repr, table.to_pylist()))


def test_every_value_is_stored_as_the_careful_reader_has_it(
    wide: tuple[PostgresConnector, Any], tmp_path: Path
) -> None:
    connector, _ = wide
    with opened(connector) as read:
        found, encoded = stored(read, tmp_path)
        high = read.high
        careful = pa.Table.from_batches(list(read.careful_batches()), read.schema)
        assert read.high == high == "2026-01-01 01:06:40+00"
        assert read.source_rows() == ROWS
    assert encoded > ROWS // 2
    assert rows_of(found) == rows_of(careful)
    assert not list((tmp_path / "scratch").iterdir())


def test_cursors_in_the_future_are_counted_and_do_not_move_the_watermark(
    wide: tuple[PostgresConnector, Any], tmp_path: Path
) -> None:
    connector, connection = wide
    connection.execute("UPDATE wide SET updated_at = '2999-01-01' WHERE id BETWEEN 2000 AND 2009")
    with opened(connector) as read:
        _, encoded = stored(read, tmp_path)
        assert read.future_rows == 10
        assert read.high == "2026-01-01 01:06:40+00"
    assert encoded > ROWS // 2


@pytest.mark.parametrize(
    "change",
    [
        "price = 'NaN'",
        "long_price = 'NaN'",
        "day = 'infinity'",
        "moment = '0044-03-15 BC'",
        "updated_at = '10000-01-01'",
    ],
)
def test_a_value_that_fits_no_column_sends_the_table_to_the_careful_reader(
    wide: tuple[PostgresConnector, Any], tmp_path: Path, change: str
) -> None:
    connector, connection = wide
    connection.execute(f"UPDATE wide SET {change} WHERE id = 3000")  # its new version lies on the last page
    with opened(connector) as read:
        with pytest.raises(CarefulReadNeeded):
            stored(read, tmp_path)
        assert read.source_rows() == ROWS


def test_rows_come_as_batches_where_encoding_has_too_little_memory(
    wide: tuple[PostgresConnector, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assets.sources.postgres_fast.ENCODING_MEMORY_LIMIT", "4MB")
    connector, _ = wide
    with opened(connector) as read:
        found, encoded = stored(read, tmp_path)
        assert rows_of(found) == rows_of(pa.Table.from_batches(list(read.careful_batches()), read.schema))
    assert encoded == 0


def test_rows_that_are_few_large_or_slow_come_as_batches(
    wide: tuple[PostgresConnector, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, connection = wide
    with monkeypatch.context() as patched, opened(connector) as read:
        patched.setattr("assets.sources.postgres_fast.SECONDS_A_FILE", 0)
        assert stored(read, tmp_path)[1] == 0
    connection.execute("DELETE FROM wide WHERE id > 1000 AND id % 50 > 0")
    with opened(connector) as read:
        found, encoded = stored(read, tmp_path)
        assert (found.num_rows, encoded > 0) == (1060, True)  # the first thousand lie close together
        assert encoded < 1020
    connection.execute(
        "ALTER TABLE wide ALTER note SET STORAGE EXTERNAL; UPDATE wide SET note = repeat('x', 100000) WHERE id < 100"
    )
    with opened(connector) as read:
        assert stored(read, tmp_path)[1] == 0


def test_a_full_disk_under_the_scratch_folder_is_told_as_such(wide: tuple[PostgresConnector, Any]) -> None:
    connector, _ = wide
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(connector) as read:
        rows = read.encoded_batches()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, hard))
        try:
            with pytest.raises(OSError, match="rows could not be written to the scratch folder"):
                list(rows)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
