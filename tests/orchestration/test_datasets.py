"""Uploaded files as datasets: kept by content, previewed, synced like any connector, and no file does harm."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.errors import ConfigurationError, ConflictError, NotFoundError, SourceAccessError
from assets.uploaded_files import UploadedFiles, plain_name
from orchestration.headrace import Headrace
from tests.behaviour.source_installation import SourceInstallation


@pytest.fixture
def headrace(headrace_home: Path) -> Headrace:
    return Headrace(home=headrace_home)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def workbook(sheets: dict[str, list[list[str | float]]]) -> bytes:
    """A small xlsx, written by hand: strings inline, numbers as Excel keeps them."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    rel = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        names = list(sheets)
        overrides = "".join(
            f'<Override PartName="/xl/worksheets/sheet{i}.xml" ContentType='
            '"application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/>'
            for i in range(len(names))
        )
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Override PartName="/xl/workbook.xml" ContentType='
            '"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>' + overrides + "</Types>",
        )
        package = "http://schemas.openxmlformats.org/package/2006/relationships"
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}"><Relationship Id="r" Type="{rel}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        listed = "".join(f'<sheet name="{n}" sheetId="{i + 1}" r:id="r{i}"/>' for i, n in enumerate(names))
        archive.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{main}" xmlns:r="{rel}"><sheets>{listed}</sheets></workbook>'
        )
        links = "".join(
            f'<Relationship Id="r{i}" Type="{rel}/worksheet" Target="worksheets/sheet{i}.xml"/>'
            for i in range(len(names))
        )
        archive.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{package}">{links}</Relationships>')
        for i, name in enumerate(names):
            rows = ""
            for r, row in enumerate(sheets[name], 1):
                cells = "".join(
                    f'<c r="{chr(65 + c)}{r}" t="inlineStr"><is><t>{v}</t></is></c>'
                    if isinstance(v, str)
                    else f'<c r="{chr(65 + c)}{r}"><v>{v}</v></c>'
                    for c, v in enumerate(row)
                )
                rows += f'<row r="{r}">{cells}</row>'
            archive.writestr(
                f"xl/worksheets/sheet{i}.xml", f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>'
            )
    return sink.getvalue()


def test_files_of_every_format_become_tables_that_sync_and_verify(headrace: Headrace, tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"at": [datetime(2024, 2, 29, 1)], "n": pa.array([3], pa.uint32())}), sink)
    files = [
        written(tmp_path, "sales.csv", "id,code,amount\n1,007,1.50\n2,x,\n"),
        written(tmp_path, "events.jsonl", '{"a": 1}\n{"b": [1, 2]}\n'),
        written(tmp_path, "places.json", '\ufeff[{"name": "Köln", "size": 1.25}, {"name": null}]'),
        written(tmp_path, "parts.tsv", "a\tb\n1\t2\n"),
        written(tmp_path, "rows.parquet", sink.getvalue()),
        written(tmp_path, "book.xlsx", workbook({"One": [["id", "v"], [1, 2.5], [2, "x"]], "Two": [["k"], [7]]})),
    ]
    dataset = headrace.datasets.upload("mine", files)
    assert sorted(dataset.tables) == ["book_one", "book_two", "events", "parts", "places", "rows", "sales"]
    source = SourceInstallation.__new__(SourceInstallation)
    from assets.steps import SyncSteps

    source.settings, source.steps = headrace.settings, SyncSteps.from_settings(headrace.settings)
    source.steps.catalog.add_connector("src", "upload", headrace.catalog.stored_config("mine"))
    for table in dataset.tables:
        assert source.sync(f"files.{table}").equal, table
        assert source.verify(f"files.{table}").equal, table
    assert [tuple(map(str, row)) for row in source.silver("files.sales", "id", "code", "amount")] == [
        ("1", "007", "1.50"),
        ("2", "x", "None"),
    ]
    assert source.silver("files.events", "a", "b") == [(1, None), (None, "[1,2]")]
    assert source.silver("files.places", "name") == [("Köln",), (None,)]
    assert source.silver("files.book_one", "id", "v") == [(1, "2.5"), (2, "x")]
    assert source.silver("files.book_two", "k") == [(7,)]
    assert all(check.ok for check in headrace.catalog.connector("mine").check())


def test_files_of_one_name_never_overwrite_each_other(headrace: Headrace, tmp_path: Path) -> None:
    headrace.datasets.upload("mine", [written(tmp_path, "a/sales.csv", "x\n1\n")])
    dataset = headrace.datasets.upload("mine", [written(tmp_path, "b/sales.csv", "x\n2\n")])
    assert dataset.tables == ("sales", "sales_2")
    assert [headrace.datasets.preview("mine", table).first[0]["x"] for table in dataset.tables] == ["1", "2"]
    again = headrace.datasets.upload("mine", [tmp_path / "a" / "sales.csv"])
    assert again == dataset, "the same content again changes nothing"
    grouped = headrace.datasets.upload("other", [tmp_path / "a" / "sales.csv", tmp_path / "b" / "sales.csv"], table="t")
    assert headrace.datasets.preview("other").rows == 2 and grouped.tables == ("t",)
    headrace.datasets.remove("mine")
    assert headrace.datasets.preview("other").rows == 2, "files that another dataset has stay"
    headrace.datasets.remove("other")
    assert not [path for path in (headrace.settings.home_path / "uploads").rglob("*") if path.is_file()]
    with pytest.raises(NotFoundError):
        headrace.datasets.show("mine")


def test_a_preview_shows_rows_and_summarises_all_of_them(headrace: Headrace, tmp_path: Path) -> None:
    lines = "".join(f"{i},{'' if i % 4 else 'x'},2024-01-{i % 28 + 1:02d}\n" for i in range(100))
    headrace.datasets.upload("mine", [written(tmp_path, "t.csv", "id,v,day\n" + lines)])
    preview = headrace.datasets.preview("mine", rows=3)
    columns = {column.name: column for column in preview.columns}
    assert (preview.rows, len(preview.first)) == (100, 3)
    assert (columns["id"].type, columns["id"].min, columns["id"].max, columns["id"].nulls) == ("int64", "0", "99", 0)
    assert (columns["v"].nulls, columns["v"].distinct, columns["v"].samples) == (75, 1, ("x",))
    assert columns["day"].type == "date32[day]"


def test_harmful_files_are_refused(headrace: Headrace, tmp_path: Path) -> None:
    for name in ("..", "", "x\n.csv", "/"):
        with pytest.raises(ConfigurationError):
            plain_name(name)
    assert plain_name("../../etc/passwd.csv") == plain_name("C:\\x\\passwd.csv") == "passwd.csv"
    dataset = headrace.datasets.upload("mine", [("../../../escape.csv", io.BytesIO(b"a\n1\n"))])
    assert dataset.files[0].name == "escape.csv"
    assert not list(tmp_path.rglob("escape.csv"))
    with pytest.raises(ConfigurationError, match="unpacks"):
        headrace.datasets.upload("mine", [("bomb.csv.gz", io.BytesIO(gzip.compress(b"\0" * (40 << 20))))])
    with pytest.raises(ConfigurationError, match="no whole gzip"):
        headrace.datasets.upload("mine", [("cut.csv.gz", io.BytesIO(gzip.compress(b"abc" * 9999)[:-20]))])
    with pytest.raises(ConfigurationError, match="format"):
        headrace.datasets.upload("mine", [("x.exe", io.BytesIO(b"MZ"))])
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b"\0" * (80 << 20))
    bomb.seek(0)
    with pytest.raises(SourceAccessError, match="zip bomb"):
        headrace.datasets.upload("mine", [("bomb.xlsx", bomb)])
    with pytest.raises(ConfigurationError, match="larger"):
        UploadedFiles(headrace.settings.home_path, max_bytes=10).store(io.BytesIO(b"x" * 11), "big.csv")
    assert headrace.datasets.show("mine") == dataset, "nothing of a refused upload stays"
    headrace.connectors.add(
        "shop", "rest_api", {"base_url": "https://x.example", "endpoints": [{"name": "a", "path": "a"}]}
    )
    with pytest.raises(ConflictError):
        headrace.datasets.upload("shop", [])


def test_the_command_line_adds_shows_and_removes(headrace_home: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from orchestration.cli import app

    file = written(tmp_path, "sales.csv", "id\n1\n")

    def call(*arguments: str) -> dict[str, object]:
        result = CliRunner().invoke(app, ["datasets", *arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert call("add", "mine", str(file))["name"] == "mine"
    assert len(call("list")["datasets"]) == 1  # type: ignore[arg-type]
    assert call("show", "mine")["files"][0]["table"] == "sales"  # type: ignore[index]
    assert call("preview", "mine")["rows"] == 1
    assert call("remove", "mine") == {"removed": "mine"}
