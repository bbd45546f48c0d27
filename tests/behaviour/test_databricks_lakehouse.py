"""The same promise on a SQL warehouse: what is particular to it. Shared tests run on it by the fixture ``engine``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestration.embedded_postgres import EmbeddedPostgres
from tests.behaviour.installation import Installation
from tests.servers.databricks_server import DatabricksServer
from tests.servers.gcs_server import GcsServer
from tests.servers.google_tokens import GoogleTokens
from tests.servers.s3_server import S3Server

TABLE = "public.orders"
COLUMNS = ["id", "name", "price"]


@pytest.fixture
def shop(
    tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str], databricks: DatabricksServer
) -> Installation:
    shop = Installation(tmp_path / "home", postgres, database(), **databricks.settings())
    shop.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, name text, price numeric(9,2), updated_at timestamptz DEFAULT now())",
        "INSERT INTO orders SELECT i, 'it''s \\ ' || i, i / 7.0 FROM generate_series(1, 3000) i",
    )
    databricks.forget_calls()
    return shop


def change(shop: Installation) -> None:
    shop.execute(
        "UPDATE orders SET price = 1, updated_at = clock_timestamp() WHERE id % 10 = 0",
        "DELETE FROM orders WHERE id % 100 = 1",
        "INSERT INTO orders VALUES (9000, 'new', 2)",
    )


def assert_equal_and_clean(shop: Installation, databricks: DatabricksServer) -> None:
    assert shop.verify(TABLE).equal
    assert shop.silver(TABLE, COLUMNS) == shop.source_rows("SELECT id, name, price FROM orders")
    assert databricks.volume_files(shop.settings.databricks_catalog) == []


def statements(databricks: DatabricksServer) -> list[str]:
    return [call["statement"] for call in databricks.calls() if call["statement"]]


def test_full_then_incremental_with_deletes_equals_the_source_and_leaves_no_staging(
    shop: Installation, databricks: DatabricksServer
) -> None:
    assert shop.sync(TABLE).mode == "full"
    assert_equal_and_clean(shop, databricks)
    change(shop)
    databricks.forget_calls()
    result = shop.sync(TABLE, deletes="keys")
    assert (result.mode, result.equal, result.rows_deleted) == ("incremental", True, 30)
    commits = [text for text in statements(databricks) if not text.startswith("SELECT")]
    assert [text.split()[0] for text in commits] == ["MERGE", "MERGE"]  # one for Bronze, one for Silver
    assert_equal_and_clean(shop, databricks)


def conflict(pattern: str) -> dict[str, Any]:
    message = "[DELTA_CONCURRENT_APPEND] ConcurrentAppendException: Files were added by a concurrent update."
    return {"call": pattern, "action": "fail", "message": message, "times": 2}


@pytest.mark.parametrize(
    "failpoint",
    [
        {"call": "POST .*statements (CREATE|MERGE)", "action": "drop_after"},
        {"call": "PUT .*parquet", "action": "drop_after"},
        {"call": "POST .*statements", "action": "status", "status": 429, "retry_after": 1, "times": 2},
        {"call": "GET ", "action": "status", "status": 503, "retry_after": 1, "times": 3},
        conflict("(CREATE|MERGE)"),
    ],
    ids=["reply lost after a commit", "reply lost after an upload", "429", "503", "conflict"],
)
def test_a_call_that_goes_wrong_is_done_again_and_its_effect_happens_once(
    shop: Installation, databricks: DatabricksServer, failpoint: dict[str, Any]
) -> None:
    databricks.fail(failpoint)
    try:
        assert shop.sync(TABLE).equal
        change(shop)
        databricks.fail(failpoint)
        assert shop.sync(TABLE, deletes="keys").equal
        assert databricks.fired()[0] > 0
    finally:
        databricks.fail()
    assert len(shop.bronze(TABLE, ["id", "_headrace_op"])) == 3000 + 301 + 30
    assert_equal_and_clean(shop, databricks)


def test_a_stopped_warehouse_is_waited_for(shop: Installation, databricks: DatabricksServer) -> None:
    databricks.stop_warehouse(1.5)
    assert shop.sync(TABLE).equal


@dataclass
class Bucket:
    url: str
    settings: dict[str, Any]
    listed: Callable[[], list[Any]]
    secrets: tuple[str, ...]


@pytest.fixture(params=["s3", "gs"])
def bucket(
    request: pytest.FixtureRequest, databricks: DatabricksServer, s3_server: S3Server, gcs_server: GcsServer
) -> Iterator[Bucket]:
    """An external location that the warehouse may read: its address, settings, listing and secrets."""
    if request.param == "s3":
        name, keys = s3_server.create_bucket(), (s3_server.access_key_id, s3_server.secret_access_key)
        databricks.add_external_location(f"s3://{name}/staged", s3_server.endpoint_url, *keys)
        settings = {"s3_access_key_id": keys[0], "s3_secret_access_key": keys[1]}
        yield Bucket(
            f"s3://{name}/staged",
            settings | {"s3_endpoint_url": s3_server.endpoint_url},
            lambda: s3_server.client().list_objects_v2(Bucket=name).get("Contents", []),
            keys,
        )
        return
    with GoogleTokens() as tokens:
        name, key = gcs_server.create_bucket(), tokens.service_account()
        databricks.add_external_location(f"gs://{name}/staged", gcs_server.url)
        yield Bucket(
            f"gs://{name}/staged",
            {"gcs_service_account_json": key, "gcs_endpoint_url": gcs_server.url},
            lambda: list(gcs_server.client().list_blobs(name)),
            (json.loads(key)["private_key"], "google-token"),
        )
        assert tokens.given, "the service account logged in"


def test_parts_staged_in_a_bucket_are_read_from_there_and_no_key_is_in_a_statement(
    tmp_path: Path,
    postgres: EmbeddedPostgres,
    database: Callable[[], str],
    databricks: DatabricksServer,
    bucket: Bucket,
) -> None:
    shop = Installation(
        tmp_path / "home", postgres, database(), **databricks.settings(), staging_url=bucket.url, **bucket.settings
    )
    shop.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, name text, price numeric(9,2), updated_at timestamptz DEFAULT now())",
        "INSERT INTO orders SELECT i, 'a' || i, i / 7.0 FROM generate_series(1, 300) i",
    )
    databricks.forget_calls()
    for number in range(2):
        assert shop.sync(TABLE, deletes="keys", run_group=f"run {{{number}}}*").equal
        assert shop.silver(TABLE, COLUMNS) == shop.source_rows("SELECT id, name, price FROM orders")
        if not number:
            change(shop)
    assert bucket.listed() == []
    sent = statements(databricks)
    assert any(f"'{bucket.url}/" in text for text in sent)
    assert not any(secret in text for text in sent for secret in bucket.secrets)
