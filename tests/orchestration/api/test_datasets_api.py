"""Uploads over HTTP: what is kept, what is refused, and that nothing of a name becomes a path."""

from __future__ import annotations

import gzip
import io
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from orchestration.headrace import Headrace
from tests.orchestration.api.conftest import AsAdministrator

CSV = b"id,city\n1,Rome\n2,Oslo\n3,\n"


def upload(client: TestClient, content: bytes, name: str = "sales.csv", **query: Any) -> Any:
    return client.post("/datasets/d/files", files={"files": (name, content)}, params=query)


def test_a_file_is_uploaded_looked_at_and_removed(client: TestClient, hr: Headrace) -> None:
    made = upload(client, CSV)
    assert made.status_code == 201, made.text
    assert [(file["name"], file["table"], file["bytes"]) for file in made.json()["files"]] == [
        ("sales.csv", "sales", len(CSV))
    ]
    again = upload(client, CSV)
    assert again.json() == made.json(), "the same content is one file"
    assert client.get("/datasets").json()["total"] == 1
    preview = client.get("/datasets/d/preview", params={"rows": 2}).json()
    assert (preview["rows"], len(preview["first"])) == (3, 2)
    summary = {column["name"]: column for column in preview["columns"]}
    assert (summary["city"]["nulls"], summary["id"]["min"], summary["id"]["max"]) == (1, "1", "3")
    stored = [path for path in (hr.settings.home_path / "uploads").rglob("*") if path.is_file()]
    assert len(stored) == 1
    etag = client.get("/datasets/d").headers["etag"]
    upload(client, b"x\n1\n", "other.csv")
    assert client.delete("/datasets/d", headers={"If-Match": etag}).status_code == 412
    assert client.delete("/datasets/d").status_code == 204
    assert client.get("/datasets/d").status_code == 404
    assert not any(path.is_file() for path in (hr.settings.home_path / "uploads").rglob("*"))


@pytest.mark.parametrize(
    "name",
    ["../../../evil.csv", "..\\..\\evil.csv", "/etc/evil.csv", "C:\\evil.csv", "a/../../evil.csv", "....//evil.csv"],
)
def test_a_name_with_folders_in_it_reaches_none(client: TestClient, hr: Headrace, name: str) -> None:
    made = upload(client, CSV, name)
    assert made.status_code == 201, made.text
    assert [file["name"] for file in made.json()["files"]] == ["evil.csv"]
    home = hr.settings.home_path
    outside = [path for path in home.parent.rglob("*evil*") if path.is_file()]
    assert outside == [] and not Path("/etc/evil.csv").exists()
    written = [path for path in home.rglob("*") if path.is_file() and path.parent != home]
    assert all(path.is_relative_to(home / "uploads") for path in written)


@pytest.mark.parametrize("name", ["..", ".", "", "x" * 201 + ".csv", "script.exe", "noformat"])
def test_a_name_that_is_none_is_refused(client: TestClient, name: str) -> None:
    answer = upload(client, CSV, name)
    assert answer.status_code == 422, answer.text
    assert client.get("/datasets/d").status_code == 404


def test_bombs_are_refused_and_leave_nothing_listed(client: TestClient) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b"<a>" + b" " * 100_000_000)
    bombs = {
        "bomb.csv.gz": gzip.compress(b"0" * 50_000_000),
        "bomb.xlsx": packed.getvalue(),
        "bomb.ods": packed.getvalue(),
    }
    for name, content in bombs.items():
        answer = upload(client, content, name)
        assert answer.status_code in (422, 502), (name, answer.text)
        assert "unpacks to far more" in answer.json()["detail"], (name, answer.text)
    assert upload(client, b"\x1f\x8b broken", "broken.csv.gz").status_code == 422
    assert client.get("/datasets").json()["total"] == 0


def test_uploads_at_once_lose_nothing(api: FastAPI, client: TestClient) -> None:
    answers: list[int] = []

    def add(number: int) -> None:
        with TestClient(AsAdministrator(api), raise_server_exceptions=False) as other:
            answers.append(upload(other, f"a\n{number}\n".encode(), f"f{number}.csv").status_code)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [201] * 6
    assert len(client.get("/datasets/d").json()["files"]) == 6


def test_a_dataset_is_no_other_connector(client: TestClient, hr: Headrace) -> None:
    hr.connectors.add("d", "postgres", {"host": "127.0.0.1", "database": "x", "user": "u", "password": "p"})
    assert upload(client, CSV).status_code == 409
    assert client.get("/datasets/d").status_code == 409
    assert client.get("/datasets").json()["total"] == 0
