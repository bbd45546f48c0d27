"""Sessions read botocore's descriptions once, and parse times as botocore does, without dateutil."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.loaders import JSONFileLoader
from botocore.utils import parse_timestamp

from assets.boto_sessions import boto_session, parsed_time
from tests.servers.s3_server import S3Server


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-29T17:20:38.000Z",
        "2026-11-29T17:20:38Z",
        "1970-01-01T00:00:00.123456Z",
        "2026-11-29T17:20:38+02:00",
        "Sun, 29 Nov 2026 17:20:38 GMT",
        "1764436838",
        1764436838.5,
    ],
)
def test_a_time_is_the_moment_that_botocore_says(text: str | float) -> None:
    assert parsed_time(text) == parse_timestamp(text)
    assert parsed_time(text).tzinfo is not None


def client_of(server: S3Server) -> Any:
    session = boto_session(
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        region_name=server.region,
    )
    return session.client("s3", endpoint_url=server.endpoint_url)


def test_the_second_session_reads_no_description(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [len(client_of(s3_server)._loader.search_paths) for _ in range(2)]
    monkeypatch.setattr(JSONFileLoader, "load_file", lambda self, path: pytest.fail(f"{path} was read again"))
    paths.append(len(client_of(s3_server)._loader.search_paths))
    assert len(set(paths)) == 1


def test_a_listing_takes_no_time_through_dateutil(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3_server.create_bucket()
    s3_server.client().put_object(Bucket=bucket, Key="a", Body=b"x")
    client = client_of(s3_server)
    monkeypatch.setattr("botocore.utils.parse_timestamp", lambda value: pytest.fail(f"dateutil was asked for {value}"))
    (found,) = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert found["LastModified"].tzinfo is not None
