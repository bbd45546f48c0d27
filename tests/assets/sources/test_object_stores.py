"""What the connector types s3 and gcs say of each prerequisite, and what they do when an object moves under them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.sources.gcs import GcsConfig, GcsConnector
from assets.sources.object_files import ObjectFilesConnector
from assets.sources.object_store import ObjectChangedError, ObjectStream
from assets.sources.s3 import S3Config, S3Connector
from tests.behaviour.source_installation import SourceInstallation
from tests.servers.gcs_server import GcsServer
from tests.servers.s3_server import S3Server

Put = Callable[[str, bytes], None]


@pytest.fixture(autouse=True)
def loopback_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")


def s3_config(server: S3Server, bucket: str) -> dict[str, Any]:
    return {
        "bucket": bucket,
        "endpoint_url": server.endpoint_url,
        "access_key_id": server.access_key_id,
        "secret_access_key": server.secret_access_key,
    }


@pytest.fixture(params=["s3", "gcs"])
def store(request: pytest.FixtureRequest) -> Iterator[tuple[ObjectFilesConnector, Put]]:
    if request.param == "s3":
        s3: S3Server = request.getfixturevalue("s3_server")
        bucket, client = s3.create_bucket(), s3.client()
        yield (
            S3Connector("lake", S3Config.model_validate(s3_config(s3, bucket))),
            lambda key, body: client.put_object(Bucket=bucket, Key=key, Body=body),
        )
    else:
        gcs: GcsServer = request.getfixturevalue("gcs_server")
        bucket = gcs.create_bucket()
        handle = gcs.client().bucket(bucket)
        config = GcsConfig(bucket=bucket, endpoint_url=gcs.url, anonymous=True)
        yield GcsConnector("lake", config), lambda key, body: handle.blob(key).upload_from_string(body)


def failed(connector: ObjectFilesConnector) -> tuple[str, str, str]:
    results = connector.check()
    assert [result.name for result in results] == ["network", "login", "bucket", "list", "read"]
    bad = next(result for result in results if not result.ok)
    assert all(result.ok for result in results[: results.index(bad)])
    assert all("not tried" in result.detail for result in results[results.index(bad) + 1 :])
    return bad.name, bad.detail, bad.fix


def test_all_is_well(store: tuple[ObjectFilesConnector, Put]) -> None:
    connector, put = store
    assert all(result.ok for result in connector.check()), "an empty bucket is no fault"
    put("a/x.csv", b"a\n1\n")
    assert all(result.ok for result in connector.check())


def test_a_range_of_an_overwritten_object_is_never_read(store: tuple[ObjectFilesConnector, Put]) -> None:
    connector, put = store
    put("a/x.csv", b"0123456789")
    opened = connector.store()
    (found,) = opened.objects("")
    assert opened.read(found, 2, 3) == b"234"
    put("a/x.csv", b"abcdefghij")
    with pytest.raises(ObjectChangedError):
        opened.read(found, 2, 3)
    again = opened.stat("a/x.csv")
    assert again and again.version != found.version and opened.read(again, 0, 2) == b"ab"
    assert opened.stat("a/nothing") is None
    with pytest.raises(ObjectChangedError):
        ObjectStream(opened, found).read()


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_more_objects_than_a_page_holds_are_all_listed(store: tuple[ObjectFilesConnector, Put]) -> None:
    connector, put = store
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: put(f"n/{i:05d}.csv", b"a\n1\n"), range(1050)))
    assert len(list(connector.store().objects("n/"))) == 1050


def test_s3_says_what_is_wrong_and_how_to_put_it_right(s3_server: S3Server) -> None:
    good = s3_config(s3_server, s3_server.create_bucket())

    def connector(**changed: Any) -> S3Connector:
        return S3Connector("lake", S3Config.model_validate(good | changed))

    assert failed(connector(endpoint_url="http://127.0.0.1:9"))[0] == "network"
    name, detail, fix = failed(connector(endpoint_url="http://169.254.169.254"))
    assert name == "network" and "metadata" in detail and "HEADRACE_URL_ALLOW" in fix
    assert failed(connector(access_key_id="nobody"))[0] == "login"
    assert failed(connector(secret_access_key="wrong"))[0] == "login"
    name, detail, fix = failed(connector(bucket="no-such-bucket-here"))
    assert (name, "no such bucket" in detail, fix) == ("bucket", True, "Correct `bucket`.")
    s3_server.client().put_object(Bucket=good["bucket"], Key="in/x.csv", Body=b"a\n1\n")
    name, detail, fix = failed(connector(access_key_id="headrace-nothing"))
    assert (name, "s3:ListBucket" in detail, '"s3:ListBucket"' in fix) == ("list", True, True)
    name, detail, fix = failed(connector(access_key_id="headrace-lists"))
    assert (name, "s3:GetObject" in detail, '"s3:GetObject"' in fix) == ("read", True, True)
    policy = json.loads(connector(prefix="in/").store().policy().removeprefix("Attach this IAM policy: "))
    assert [s["Action"] for s in policy["Statement"]] == ["s3:ListBucket", "s3:GetObject"]
    assert policy["Statement"][1]["Resource"].endswith("/in/*")


def test_gcs_says_what_is_wrong_and_how_to_put_it_right(gcs_server: GcsServer) -> None:
    bucket = gcs_server.create_bucket()

    def connector(**changed: Any) -> GcsConnector:
        config = {"bucket": bucket, "endpoint_url": gcs_server.url, "anonymous": True} | changed
        return GcsConnector("lake", GcsConfig.model_validate(config))

    assert failed(connector(endpoint_url="http://127.0.0.1:9"))[0] == "network"
    assert failed(connector(bucket="no-such-bucket-here"))[0] == "bucket"
    name, detail, _ = failed(connector(anonymous=False, service_account_json="{}"))
    assert name == "login" and "service_account_json" in detail
    assert "roles/storage.objectViewer" in connector().store().grant()


def test_gcs_objects_sync_and_are_told_by_their_generation(gcs_server: GcsServer, tmp_path: Path) -> None:
    bucket = gcs_server.create_bucket()
    handle = gcs_server.client().bucket(bucket)
    lake = SourceInstallation(
        tmp_path / "home", "gcs", {"bucket": bucket, "endpoint_url": gcs_server.url, "anonymous": True}
    )
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": [1, 2], "v": ["a", "b"]}), sink)
    handle.blob("t/1.parquet").upload_from_string(sink.getvalue())
    handle.blob("t/2.csv").upload_from_string("id,v\n3,c\n4,d\n")
    assert lake.sync("files.t").equal
    handle.blob("t/2.csv").upload_from_string("id,v\n3,c2\n")
    second = lake.sync("files.t")
    assert (second.mode, second.rows_read, second.rows_deleted, second.equal) == ("incremental", 1, 1, True)
    assert lake.silver("files.t", "id", "v") == [(1, "a"), (2, "b"), (3, "c2")]
    assert lake.verify("files.t").equal


def s3_store(server: S3Server) -> tuple[Any, Any, Callable[[str, bytes], None]]:
    bucket, client = server.create_bucket(), server.client()
    connector = S3Connector("lake", S3Config.model_validate(s3_config(server, bucket)))
    return connector.store(), connector, lambda key, body: client.put_object(Bucket=bucket, Key=key, Body=body)


@pytest.mark.parametrize("key", ["a/x.csv", "a b/ü+%25&?#=.csv", "a/~c'(d)*!@$,;:.csv"])
def test_a_range_of_s3_takes_no_request_of_the_client(
    s3_server: S3Server, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, put = s3_store(s3_server)
    put(key, b"0123456789")
    (found,) = store.objects("")
    assert found.key == key
    monkeypatch.setattr(store._client, "get_object", lambda **asked: pytest.fail(f"the client was asked for {asked}"))
    assert store.read(found, 2, 3) == b"234"
    assert store.read(found, 0, 10) == b"0123456789"


def test_what_is_refused_without_the_client_is_asked_by_the_client_from_then_on(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.credentials import Credentials

    store, _, put = s3_store(s3_server)
    put("a/x.csv", b"0123456789")
    (found,) = store.objects("")
    tries: list[str] = []

    def other() -> Credentials:
        tries.append("asked")
        return Credentials(s3_server.access_key_id, "wrong")

    monkeypatch.setattr(store._ranges._session, "get_credentials", other)
    assert [store.read(found, at, 2) for at in (0, 2, 4)] == [b"01", b"23", b"45"]
    assert tries == ["asked"]
