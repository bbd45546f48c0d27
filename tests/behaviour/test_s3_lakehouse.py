"""The same promise with Bronze, Silver and staging in S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pydantic import SecretStr

from assets.lakehouse.interface import TableId
from assets.lakehouse.local import LocalLakehouse
from orchestration.embedded_postgres import EmbeddedPostgres
from tests.behaviour.installation import Installation
from tests.servers.s3_server import S3Server


@pytest.fixture
def shop(tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str], s3_server: S3Server) -> Installation:
    return Installation(
        tmp_path / "home",
        postgres,
        database(),
        lakehouse_url=f"s3://{s3_server.create_bucket()}/lake",
        s3_endpoint_url=s3_server.endpoint_url,
        s3_access_key_id=SecretStr(s3_server.access_key_id),
        s3_secret_access_key=SecretStr(s3_server.secret_access_key),
    )


def test_full_then_incremental_with_deletes_equals_the_source_and_leaves_no_staging(shop: Installation) -> None:
    shop.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, price numeric(12, 2), updated_at timestamptz DEFAULT now())",
        "INSERT INTO orders SELECT i, i / 7.0 FROM generate_series(1, 5000) i",
    )
    assert shop.sync("public.orders").mode == "full"
    shop.execute(
        "UPDATE orders SET price = 1, updated_at = clock_timestamp() WHERE id % 10 = 0",
        "DELETE FROM orders WHERE id % 100 = 1",
        "INSERT INTO orders VALUES (9000, 2)",
    )
    result = shop.sync("public.orders", deletes="keys")
    assert (result.mode, result.equal, result.rows_deleted) == ("incremental", True, 50)
    assert shop.verify("public.orders").equal

    lakehouse = shop.steps.lakehouse
    assert isinstance(lakehouse, LocalLakehouse)
    uri = lakehouse.uri(TableId(layer="silver", connector="shop", table="public.orders"))
    rows = DeltaTable(uri, storage_options=lakehouse.storage.delta_options).to_pyarrow_table().to_pylist()
    live = [(row["id"], row["price"]) for row in rows if row["_headrace_deleted_at"] is None]
    assert sorted(live, key=repr) == shop.source_rows("SELECT id, price FROM orders")
    assert list(lakehouse.storage._objects(f"{lakehouse.root}/_staging/")) == []  # type: ignore[attr-defined]
