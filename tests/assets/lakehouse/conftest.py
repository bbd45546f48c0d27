"""A local lakehouse in a temporary folder, and ways to put rows into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pydantic import SecretStr

from assets.lakehouse.interface import TableId
from assets.lakehouse.local import LocalLakehouse
from assets.lakehouse.s3_storage import S3Storage
from assets.settings import Settings
from assets.sync import Part
from tests.servers.s3_server import S3Server

BRONZE = TableId(layer="bronze", connector="shop", table="public.orders")
SILVER = TableId(layer="silver", connector="shop", table="public.orders")
Stage = Callable[..., tuple[Part, ...]]


@pytest.fixture(params=["folder", "s3"])
def lake_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Both kinds of storage; the folder's name holds characters that are special to file name patterns."""
    home = tmp_path / "home [1] *"
    if request.param == "folder":
        return Settings(home=home)
    server: S3Server = request.getfixturevalue("s3_server")
    return Settings(
        home=home,
        lakehouse_url=f"s3://{server.create_bucket()}/lake",
        s3_endpoint_url=server.endpoint_url,
        s3_access_key_id=SecretStr(server.access_key_id),
        s3_secret_access_key=SecretStr(server.secret_access_key),
    )


@pytest.fixture
def lakehouse(lake_settings: Settings) -> LocalLakehouse:
    return LocalLakehouse.from_settings(lake_settings)


def delta_table(lakehouse: LocalLakehouse, table: TableId) -> DeltaTable:
    """The table as delta-rs itself opens it."""
    return DeltaTable(lakehouse.uri(table), storage_options=lakehouse.storage.delta_options)


def data_files(lakehouse: LocalLakehouse, table: TableId) -> set[str]:
    return {file.name for file in lakehouse.storage.files(lakehouse.uri(table)) if file.name.endswith(".parquet")}


def live_files(lakehouse: LocalLakehouse, table: TableId) -> set[str]:
    return {uri.rsplit("/", 1)[-1] for uri in delta_table(lakehouse, table).file_uris()}


@pytest.fixture
def stage(lakehouse: LocalLakehouse) -> Stage:
    """Write tables as staged parts, one part each."""

    def write(tag: str, *tables: pa.Table) -> tuple[Part, ...]:
        parts: list[Part] = []
        for number, table in enumerate(tables):
            writer = lakehouse.part_writer("shop", "public.orders", tag, 1, f"s{number}", table.schema)
            for batch in table.to_batches():
                writer.write(batch)
            parts += writer.close()
        return tuple(parts)

    return write


def merge_scratch(lakehouse: LocalLakehouse, home: Path) -> list[str]:
    """What merges left in staging or in the scratch folder."""
    found = [str(path) for path in home.rglob("*") if path.is_file() and {"staging", "scratch"} & set(path.parts)]
    if isinstance(lakehouse.storage, S3Storage):
        found += [entry["Key"] for entry in lakehouse.storage._objects(f"{lakehouse.root}/_staging/")]
    return found
