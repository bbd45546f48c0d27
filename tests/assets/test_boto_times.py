"""Times of S3's answers are what botocore makes of them, and botocore still takes a parser of times."""

from __future__ import annotations

import boto3
import pytest
from botocore.utils import parse_timestamp

from assets.boto_times import parsed_time, use_quick_times
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


def test_a_listing_takes_no_time_through_dateutil(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3_server.create_bucket()
    s3_server.client().put_object(Bucket=bucket, Key="a", Body=b"x")
    session = boto3.Session(s3_server.access_key_id, s3_server.secret_access_key, region_name=s3_server.region)
    use_quick_times(session)
    client = session.client("s3", endpoint_url=s3_server.endpoint_url)
    monkeypatch.setattr("botocore.utils.parse_timestamp", lambda value: pytest.fail(f"dateutil was asked for {value}"))
    (found,) = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert found["LastModified"].tzinfo is not None
