"""``headrace plan`` for every kind of source: the window's estimate comes from the source, without reading rows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from assets.settings import Settings
from assets.sources.interface import Connector, connector_types
from assets.sync_plan import TablePlan
from orchestration.cli import app
from orchestration.headrace import Headrace
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.behaviour.test_rest_api import PAGES
from tests.behaviour.test_s3_files import Bucket
from tests.servers.mariadb_server import MariadbServer
from tests.servers.rest_server import RestServer
from tests.servers.s3_server import S3Server


def plan(settings: Settings, connector: str, table: str, **options: object) -> TablePlan:
    (found,) = Headrace(settings=settings).plan(connector, [table], **options)
    assert found.error is None
    return found


def test_every_type_says_more_than_the_catalogue_does() -> None:
    own = {name for name, kind in connector_types().items() if kind.estimate is not Connector.estimate}
    assert own >= {"postgres", "mysql", "s3", "gcs", "upload", "rest_api"}


def test_of_files_only_the_new_ones_are_counted(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    bucket = Bucket(s3_server, tmp_path / "home")
    bucket.put("orders/a.parquet", pa.table({"id": [1, 2, 3]}))
    bucket.put("orders/b.parquet", pa.table({"id": [4]}))
    settings = bucket.installation.settings
    first = plan(settings, "src", "files.orders")
    assert (first.mode, first.rows, len(first.source_statements)) == ("full", 4, 3)
    bucket.installation.sync("files.orders")
    bucket.put("orders/c.parquet", pa.table({"id": [5, 6]}))
    second = plan(settings, "src", "files.orders")
    assert (second.mode, second.rows) == ("incremental", 2)
    assert next(line for line in second.source_statements if "parquet" in line).startswith("GET ")
    assert bucket.installation.sync("files.orders").rows_read == 2


def test_of_mariadb_the_planner_tells_the_window(mariadb: MariadbServer, mariadb_database: str, tmp_path: Path) -> None:
    shop = MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name text, updated_at timestamp(6) NOT NULL, INDEX (updated_at))",
        "INSERT INTO t SELECT seq, 'x', '2024-01-01' + INTERVAL seq HOUR FROM seq_1_to_2000",
        "ANALYZE TABLE t",
    )
    first = plan(shop.settings, "shop", shop.name("t"))
    assert first.mode == "full" and first.rows is not None and 1000 < first.rows < 4000
    shop.sync(shop.name("t"))
    second = plan(shop.settings, "shop", shop.name("t"), deletes="keys")
    assert second.mode == "incremental" and second.rows is not None and second.rows < 1000
    assert any("updated_at" in text and text.startswith("SELECT") for text in second.source_statements)
    assert len(second.source_statements) == 3


def test_of_an_api_the_first_request_is_told_and_none_is_sent_for_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    with RestServer() as api:
        api.tables["orders"] = [{"id": i} for i in range(35)]
        hr = Headrace(home=tmp_path / "home")
        endpoint = {"name": "orders", "path": "json/orders", "primary_key": ["id"], "params": {"region": "EU"}}
        config = {"base_url": api.url, "paginator": PAGES["json"], "endpoints": [endpoint]}
        hr.connectors.add("api", "rest_api", config)
        found = plan(hr.settings, "api", "api.orders")
    assert (found.mode, found.rows) == ("full", None)
    assert found.source_statements == (f"GET {api.url}/json/orders?region=EU, page by page",)


def test_the_command_and_the_two_routes_print_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.testclient import TestClient

    from orchestration.api.app import build_api
    from tests.orchestration.api.conftest import AsAdministrator

    hr = Headrace(home=tmp_path / "home")
    source = tmp_path / "sales.csv"
    source.write_text("id,amount\n1,2.50\n2,3.75\n")
    hr.datasets.upload("sales", [source])
    monkeypatch.setenv("HEADRACE_HOME", str(hr.settings.home_path))
    printed = CliRunner().invoke(app, ["plan", "sales", "--json"])
    assert printed.exit_code == 0, printed.output
    (table,) = json.loads(printed.stdout)["tables"]
    assert (table["mode"], table["rows"], table["reason"]) == ("full", 2, "first load")
    people = CliRunner().invoke(app, ["plan", "sales"])
    assert people.exit_code == 0 and "first load" in people.stdout and "one commit" in people.stdout
    hr.pipelines.add("nightly", "sales", all_tables=True)
    with TestClient(AsAdministrator(build_api(hr))) as client:
        asked = [
            client.get("/connectors/sales/plan"),
            client.post("/connectors/sales/plan", json={"tables": [table["table"]], "mode": "full"}),
            client.get("/pipelines/nightly/plan"),
            client.post("/pipelines/nightly/plan"),
        ]
        assert [answer.status_code for answer in asked] == [200] * 4
        assert {answer.json()["tables"][0]["rows"] for answer in asked} == {2}
        assert client.get("/connectors/none/plan").status_code == 404
