"""Parts of spliced column chunks hold what parts of decoded and encoded rows hold, whoever reads them."""

from __future__ import annotations

import io
import json
import random
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder

from assets.bronze import BronzeRows
from assets.encoded_rows import EncodedRows
from assets.errors import SourceAccessError
from assets.lakehouse.interface import TableId
from assets.lakehouse.local import LocalLakehouse
from assets.lakehouse.parquet_parts import BackgroundPartWriter, delta_statistics
from assets.lakehouse.storage import FolderStorage
from assets.settings import Settings
from assets.sources import parquet_chunks
from assets.sources.file_reading import TableFile
from assets.sources.file_tables import FileTable
from assets.sources.file_values import contract_of
from assets.sources.interface import UNFIT_COLUMN
from assets.sources.object_files import METADATA
from assets.sources.upload import UploadConfig, UploadedFile, UploadStore
from assets.sync import Column, Part
from assets.thrift_compact import I32, LIST, STRUCT, decode, encode
from assets.types import arrow_type
from assets.uploaded_files import UploadedFiles

MOMENT = datetime(2024, 2, 29, 12, tzinfo=UTC)
GROUP = 500


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_chunks, "LEAST_GROUP_ROWS", 1)


class Files:
    """Parquet files of one table, staged as a sync stages them, under the columns of all of them or given ones."""

    def __init__(self, folder: Path, *contents: bytes, columns: Sequence[Column] = ()) -> None:
        uploads = UploadedFiles(folder)
        uploaded = []
        for number, content in enumerate(contents):
            sha256, size = uploads.store(io.BytesIO(content), "x")
            uploaded.append(
                UploadedFile(name=f"{number}.parquet", sha256=sha256, size=size, table="t", format="parquet")
            )
        store = UploadStore(UploadConfig(files=uploaded), uploads, "uploads")
        table = FileTable(name="t", glob="*")
        self.files = [TableFile(store, found, table, "parquet", "none") for found in store.objects("")]
        if not columns:
            kinds = {
                f.name: contract_of(f.type)
                for content in contents
                for f in pq.ParquetFile(pa.BufferReader(content)).schema_arrow
            }
            columns = [Column(name=name, source_type="", arrow_type=kind) for name, kind in kinds.items()]
        self.columns = (*METADATA, *columns)
        schema = pa.schema([*((c.name, arrow_type(c.arrow_type)) for c in self.columns), (UNFIT_COLUMN, pa.string())])
        self.bronze = BronzeRows(schema, "tag", 7, MOMENT)
        self.folder = folder
        self.spliced = 0

    def staged(self, encoded: bool) -> list[Part]:
        writer = BackgroundPartWriter(FolderStorage(), str(self.folder / f"staged-{encoded}"), self.bronze.schema)
        with writer:
            for file in self.files:
                for batch in file.encoded_batches(self.columns) if encoded else file.batches(self.columns):
                    self.spliced += isinstance(batch, EncodedRows)
                    writer.write(self.bronze.upserts(batch))
        assert all(part.bytes == Path(part.uri).stat().st_size for part in writer.parts)
        return list(writer.parts)

    def rows(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        rows = []
        for part in parts:
            table = pq.read_table(part.uri)
            table.validate(full=True)
            assert table.num_rows == part.rows
            rows += table.cast(self.bronze.schema).to_pylist()
        return sorted(rows, key=lambda row: (row["_file"], row["_row"]))


def statistics(files: Files, parts: Sequence[Part]) -> dict[str, Any]:
    """Of all parts together."""
    found: dict[str, Any] = {"numRecords": 0, "nullCount": {}, "minValues": {}, "maxValues": {}}
    for part in parts:
        told = json.loads(delta_statistics(pa.OSFile(part.uri), files.bronze.schema))
        found["numRecords"] += told["numRecords"]
        for name, count in told["nullCount"].items():
            found["nullCount"][name] = found["nullCount"].get(name, 0) + count
        for side, choose in (("minValues", min), ("maxValues", max)):
            for name, value in told[side].items():
                found[side][name] = choose(value, found[side].get(name, value))
    return found


def assert_alike(files: Files, spliced: int | None = None) -> None:
    """``spliced``: how many row groups are; None: all of them."""
    with_copies, decoded = files.staged(True), files.staged(False)
    groups = sum(pq.read_metadata(file.store._files.path(file.found.version)).num_row_groups for file in files.files)  # type: ignore[attr-defined]
    assert files.spliced == (groups if spliced is None else spliced)
    assert repr(files.rows(with_copies)) == repr(files.rows(decoded))  # NaN equals itself
    assert statistics(files, with_copies) == statistics(files, decoded)


def written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **{"row_group_size": GROUP, "store_schema": False} | options)
    return sink.getvalue()


def values(chance: random.Random) -> dict[str, Callable[[], Any]]:
    return {
        "bool": lambda: chance.random() < 0.5,
        "int16": lambda: chance.randrange(-(2**15), 2**15),
        "int32": lambda: chance.randrange(-(2**31), 2**31),
        "int64": lambda: chance.randrange(-(2**63), 2**63),
        "float": lambda: chance.choice([0.5, -0.0, float("nan"), float("inf"), 1e30]),
        "double": lambda: chance.choice([chance.random(), -0.0, float("nan"), float("-inf")]),
        "decimal128(9, 2)": lambda: Decimal(chance.randrange(-(10**9) + 1, 10**9)) / 100,
        "decimal128(38, 0)": lambda: Decimal(chance.randrange(-(10**38) + 1, 10**38)),
        "date32[day]": lambda: date(1, 1, 1) + timedelta(days=chance.randrange(3_652_059)),
        "timestamp[us]": lambda: datetime(1, 1, 1) + timedelta(microseconds=chance.randrange(315_537_897_600_000_000)),
        "timestamp[us, tz=UTC]": lambda: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=chance.randrange(10**6)),
        "string": lambda: chance.choice(["", "é\0🚰", "a", f"{chance.random()}" * chance.randrange(9)]),
        "binary": lambda: chance.randbytes(chance.choice([0, 3, 40])),
    }


def some_table(chance: random.Random, names: Sequence[str], rows: int) -> pa.Table:
    """Columns of random types, with no, few, many or only NULLs, some REQUIRED, some with few distinct values."""
    made = values(chance)
    arrays, fields = [], []
    for name in names:
        kind = chance.choice(list(made))
        nulls = chance.choice([0.0, 0.0, 0.1, 0.9, 1.0])
        few = [made[kind]() for _ in range(chance.choice([1, 5, rows or 1]))]
        array = pa.array(
            [None if chance.random() < nulls else chance.choice(few) for _ in range(rows)], arrow_type(kind)
        )
        stored = {"string": pa.large_string(), "binary": pa.large_binary()}.get(kind, array.type)
        arrays.append(array.cast(stored) if chance.random() < 0.3 else array)
        fields.append(pa.field(name, arrays[-1].type, nullable=bool(nulls) or chance.random() < 0.5))
    return pa.table(arrays, schema=pa.schema(fields))


@pytest.mark.parametrize("seed", range(24))
def test_spliced_parts_equal_decoded_ones(tmp_path: Path, small_groups: None, seed: int) -> None:
    chance = random.Random(seed)
    hostile = ["a", "A", "x y", "ü,ü", "`q`", "a.b", "_headrace", "🚰" * 30, "select", "'"]
    names = chance.sample(hostile, chance.randrange(1, 8))
    table = some_table(chance, names, chance.choice([1, GROUP - 1, GROUP, 3 * GROUP + 1]))
    contents = []
    for _ in range(chance.randrange(1, 4)):
        order = chance.sample(names, chance.randrange(1, len(names) + 1))  # another order, missing columns
        contents.append(
            written(
                table.select(order).slice(chance.randrange(table.num_rows)),
                compression=chance.choice(["snappy", "zstd", "gzip", "none"]),
                data_page_version=chance.choice(["1.0", "2.0"]),
                use_dictionary=chance.choice([True, False]),
                store_schema=chance.choice([True, False]),
                data_page_size=chance.choice([200, 1 << 20]),
                write_page_index=chance.choice([True, False]),
                write_page_checksum=chance.choice([True, False]),
            )
        )
    columns = [Column(name=f.name, source_type="", arrow_type=contract_of(f.type)) for f in table.schema]
    assert_alike(Files(tmp_path, *contents, columns=columns))


def test_files_of_other_writers_are_spliced(tmp_path: Path, small_groups: None) -> None:
    files = []
    for codec in ("snappy", "zstd"):
        path = tmp_path / f"{codec}.parquet"
        rows = """SELECT range::INT AS i, range AS l, (range / 7)::DECIMAL(12, 3) AS d, range / 3 AS f,
            CASE WHEN range % 3 = 0 THEN 'k' || range END AS s, DATE '2024-01-01' + range::INT AS "day",
            TIMESTAMP '2024-01-01' + INTERVAL 1 HOUR * range AS "at" FROM range(5000)"""
        duckdb.sql(rows).write_parquet(str(path), compression=codec, row_group_size=2048)
        files.append(path.read_bytes())
    assert b"DuckDB" in files[0]
    assert_alike(Files(tmp_path, *files))


def integers_for_decimals() -> bytes:
    """As Spark writes short decimals."""
    table = pa.table({"d": pa.array([Decimal("-1.25"), None, Decimal("99.99")], pa.decimal128(4, 2)), "n": [1, 2, 3]})
    return written(table, store_decimal_as_integer=True)


def test_files_of_several_kinds_have_parts_of_their_own(tmp_path: Path, small_groups: None) -> None:
    required = pa.schema([pa.field("d", pa.decimal128(4, 2), nullable=False), pa.field("n", pa.int64())])
    plain = {"d": [Decimal("0.01"), Decimal("2.00")], "n": [None, 7]}
    files = Files(tmp_path, integers_for_decimals(), *[written(pa.table(plain, schema=required))] * 2)
    assert len(files.staged(True)) == 2
    files.spliced = 0
    assert_alike(files)


def test_rows_and_bytes_of_a_part_are_bounded(
    tmp_path: Path, small_groups: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = written(pa.table({"n": range(6 * GROUP)}))
    with monkeypatch.context() as patch:
        patch.setattr(BackgroundPartWriter, "part_rows", 2 * GROUP)
        assert [part.rows for part in Files(tmp_path / "rows", content).staged(True)] == [2 * GROUP] * 3
    with monkeypatch.context() as patch:
        patch.setattr(BackgroundPartWriter, "part_bytes", 3 * GROUP * 8)
        assert len(Files(tmp_path / "bytes", content).staged(True)) > 1


def test_an_aborted_writer_leaves_no_part(tmp_path: Path, small_groups: None) -> None:
    files = Files(tmp_path, written(pa.table({"n": range(4 * GROUP)})))
    writer = BackgroundPartWriter(FolderStorage(), str(tmp_path / "staged"), files.bronze.schema)
    with pytest.raises(KeyError), writer:
        for rows in files.files[0].encoded_batches(files.columns):
            writer.write(files.bronze.upserts(rows))
        raise KeyError
    assert list(tmp_path.glob("staged/*")) == []


def test_a_large_file_is_spliced_by_ranges(tmp_path: Path, small_groups: None, monkeypatch: pytest.MonkeyPatch) -> None:
    content = written(pa.table({"n": range(8 * GROUP), "s": [f"{n}" * 3 for n in range(8 * GROUP)]}))
    monkeypatch.setattr("assets.sources.object_store.WHOLE_BYTES", 1000)
    assert_alike(Files(tmp_path, content))


def of_column(**columns: Any) -> bytes:
    return written(pa.table({"n": range(5), **columns}))


def without_statistics() -> bytes:
    return written(pa.table({"n": range(5)}), write_statistics=False)


MILLIS = pa.array([datetime(2024, 1, 1)] * 5, pa.timestamp("ms"))
FALLS_BACK = {
    "int96": written(pa.table({"at": MILLIS.cast("timestamp[ns]")}), use_deprecated_int96_timestamps=True),
    "nested": of_column(l=[[1], [], None, [2], [3]]),
    "struct": of_column(s=[{"a": 1}] * 5),
    "milliseconds": of_column(at=MILLIS),
    "nanoseconds": of_column(at=MILLIS.cast("timestamp[ns]")),
    "beyond year 9999": of_column(at=pa.array([0, 1, 2, 3, 300_000_000_000_000_000], pa.timestamp("us"))),
    "before year 1": of_column(day=pa.array([0, 1, 2, 3, -1_000_000], pa.int32()).cast(pa.date32())),
    "unsigned": of_column(u=pa.array([0, 1, 2, 3, 2**32 - 1], pa.uint32())),
    "int8": of_column(i=pa.array([0, 1, 2, 3, -128], pa.int8())),
    "time": of_column(t=pa.array([0, 1, 2, 3, 4], pa.time64("us"))),
    "half floats": of_column(f=pa.array([0, 1, 2, 3, 4.5], pa.float16())),
    "fixed binary": of_column(b=pa.array([b"ab"] * 5, pa.binary(2))),
    "lz4": written(pa.table({"n": range(5)}), compression="lz4"),
    "brotli": written(pa.table({"n": range(5)}), compression="brotli"),
    "delta encoding": written(
        pa.table({"n": range(5)}), use_dictionary=False, column_encoding={"n": "DELTA_BINARY_PACKED"}
    ),
    "byte stream split": written(
        pa.table({"f": [0.5] * 5}), use_dictionary=False, column_encoding={"f": "BYTE_STREAM_SPLIT"}
    ),
    "no statistics": without_statistics(),
    "no rows": written(pa.table({"n": pa.array([], pa.int64())})),
    "no column": written(pa.table({"other": [1]})),
}


@pytest.mark.parametrize("content", FALLS_BACK.values(), ids=FALLS_BACK)
def test_what_has_to_be_looked_at_is_decoded(tmp_path: Path, small_groups: None, content: bytes) -> None:
    columns = [Column(name="n", source_type="", arrow_type="int64")] if b"other" in content else []
    assert_alike(Files(tmp_path, content, columns=columns), spliced=0)


def test_a_type_wider_than_the_files_is_decoded(tmp_path: Path, small_groups: None) -> None:
    narrow, wide = written(pa.table({"n": pa.array([1], pa.int32())})), written(pa.table({"n": [2**40]}))
    assert_alike(Files(tmp_path, narrow, wide, columns=[Column(name="n", source_type="", arrow_type="int64")]), 1)


def test_tiny_row_groups_are_put_together(tmp_path: Path) -> None:
    least = parquet_chunks.LEAST_GROUP_ROWS
    table = pa.table({"n": range(4 * least)})
    tiny = Files(tmp_path / "tiny", written(table, row_group_size=least // 2))
    assert_alike(tiny, spliced=0)
    assert_alike(Files(tmp_path / "fine", written(table, row_group_size=least)))


def pages(content: bytes) -> list[tuple[dict[int, Any], int, int]]:
    """Headers of all pages, and where their bodies begin and end."""
    length = int.from_bytes(content[-8:-4], "little")
    footer, _ = decode(content[-8 - length : -8])
    found = []
    for group in footer[4][1][1]:
        for column in group[1][1][1]:
            metadata = column[3][1]
            at = metadata[11][1] if 11 in metadata else metadata[9][1]
            past = at + metadata[7][1]
            while at < past:
                header, at = decode(content, at)
                found.append((header, at, at + header[3][1]))
                at += header[3][1]
    return found


@pytest.mark.parametrize("codec", ["snappy", "gzip", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_damaged_page_fails_the_read_as_it_does_when_decoded(
    tmp_path: Path, small_groups: None, codec: str, version: str
) -> None:
    table = pa.table({"s": [f"some text {n % 97}" for n in range(3 * GROUP)]})
    content = written(table, compression=codec, data_page_version=version, use_dictionary=False)
    damaged = bytearray(content)
    _, start, past = pages(content)[-1]
    damaged[start + 8 : past] = bytes(past - start - 8)  # a hole in the file, in its last row group
    files = Files(tmp_path, bytes(damaged))
    with pytest.raises(SourceAccessError):
        files.staged(False)
    with pytest.raises(SourceAccessError):
        files.staged(True)
    assert list(tmp_path.glob("staged-True/*")) == []


@pytest.mark.parametrize("codec", ["snappy", "zstd", "none"])
def test_what_decoding_refuses_is_never_spliced(tmp_path: Path, small_groups: None, codec: str) -> None:
    chance = random.Random(11)
    table = pa.table(
        {
            "few": [chance.choice([None, 1, 2, 3]) for _ in range(GROUP)],
            "many": [chance.randrange(2**60) for _ in range(GROUP)],
            "s": [f"text {chance.randrange(40)}" for _ in range(GROUP)],
            "t": [f"{chance.random()}" if chance.random() < 0.7 else None for _ in range(GROUP)],
            "d": pa.array([Decimal(chance.randrange(10**9)) for _ in range(GROUP)], pa.decimal128(12, 0)),
        }
    )
    content = written(table, compression=codec)
    columns = [Column(name=f.name, source_type="", arrow_type=contract_of(f.type)) for f in table.schema]
    past = max(end for _, _, end in pages(content))
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        at = chance.randrange(4, past - 64)
        damage = chance.choice([bytes([damaged[at] ^ 1 << chance.randrange(8)]), bytes(16), damaged[at + 1 : at + 65]])
        damaged[at : at + len(damage)] = damage
        source = pa.BufferReader(bytes(damaged))
        try:
            pq.ParquetFile(source).read()
        except (pa.ArrowException, OSError):
            refused += 1
            assert list(parquet_chunks.encoded_groups(source, len(damaged), columns)) == []
    assert refused > 20


def test_a_page_that_is_not_its_checksum_is_decoded(tmp_path: Path, small_groups: None) -> None:
    table = pa.table({"n": pa.array(range(100), pa.int64())})
    content = written(table, compression="none", use_dictionary=False, write_page_checksum=True)
    header, start, past = pages(content)[0]
    assert zlib.crc32(content[start:past]) == header[4][1] & 0xFFFFFFFF
    damaged = content[: past - 8] + (77).to_bytes(8, "little") + content[past:]
    assert_alike(Files(tmp_path, damaged), spliced=0)


def test_text_that_is_not_utf8_comes_as_it_does_when_decoded(tmp_path: Path, small_groups: None) -> None:
    content = written(pa.table({"s": ["abcd", "efgh"]}), use_dictionary=False, compression="none")
    files = Files(tmp_path, content.replace(b"abcd", b"\xff\xfe\xfd\xfc"))
    stored = [
        pq.read_table(parts[0].uri).column("s").cast(pa.binary()).to_pylist()
        for parts in map(files.staged, (True, False))
    ]
    assert stored == [[b"\xff\xfe\xfd\xfc", b"efgh"]] * 2
    assert files.spliced == 1


def test_every_reader_of_delta_reads_spliced_files(tmp_path: Path, small_groups: None) -> None:
    chance = random.Random(1)
    arrays = {kind: [make() for _ in range(2 * GROUP)] for kind, make in values(chance).items()}
    fields = [pa.field(f"c{n}", arrow_type(kind), nullable=n % 2 == 0) for n, kind in enumerate(arrays)]
    table = pa.table(list(arrays.values()), schema=pa.schema(fields))
    contents = [
        written(table, data_page_version=version, compression=codec, store_decimal_as_integer=integers)
        for version, codec, integers in (("1.0", "snappy", False), ("2.0", "zstd", True), ("2.0", "gzip", False))
    ]
    files = Files(tmp_path, *contents)
    lakehouse = LocalLakehouse.from_settings(Settings(home=tmp_path / "home"))
    bronze = TableId(layer="bronze", connector="files", table="t")
    with lakehouse.part_writer("files", "t", "run", 1, "rows", files.bronze.schema) as writer:
        for file in files.files:
            for rows in file.encoded_batches(files.columns):
                assert isinstance(rows, EncodedRows)
                writer.write(files.bronze.upserts(rows))
    assert len(writer.parts) == 2
    lakehouse.commit(bronze, writer.parts, files.bronze.schema, tag="run", replace=True)
    wanted = files.rows(files.staged(False))

    def rows_of(found: pa.Table) -> list[dict[str, Any]]:
        found = found.select(files.bronze.schema.names).cast(files.bronze.schema)
        return sorted(found.to_pylist(), key=lambda row: (row["_file"], row["_row"]))

    uri = lakehouse.uri(bronze)
    with lakehouse.scan(bronze) as scanned:
        assert repr(rows_of(scanned.read_all())) == repr(wanted)
    assert repr(rows_of(DeltaTable(uri).to_pyarrow_table())) == repr(wanted)
    query = QueryBuilder().register("t", DeltaTable(uri)).execute("SELECT * FROM t")
    assert repr(rows_of(pa.table(query))) == repr(wanted)
    paths = [part.uri for part in writer.parts]
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        assert repr(rows_of(database.read_parquet(paths).to_arrow_table())) == repr(wanted)


def test_a_footer_is_encoded_as_it_was_decoded() -> None:
    chance = random.Random(3)
    content = written(some_table(chance, [f"c{n}" for n in range(40)], 2 * GROUP), write_page_index=True)
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8]
    assert encode(decode(footer)[0]) == footer
    tree = {1: (I32, -1), 40: (LIST, (STRUCT, [{2: (I32, 2**31 - 1)}] * 20)), 41: (I32, -(2**31))}
    assert decode(encode(tree))[0] == tree
    for end in chance.sample(range(len(footer) - 1), 100):
        with pytest.raises(ValueError):
            decode(footer[:end])
