"""Cut, silent and refusing object stores, a full disk: taken up again or failed clean, nothing lost or doubled."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from assets.errors import HeadraceError, SourceUnreachableError
from assets.sync import TableResult
from tests.behaviour.source_installation import SourceInstallation
from tests.behaviour.test_postgres_faults import files_up_to
from tests.servers.gcs_server import GcsServer
from tests.servers.s3_server import S3Server
from tests.servers.tcp_proxy import TcpProxy

TABLE = "files.t"
FILES, ROWS = 3, 20_000


@dataclass
class Store:
    """An installation that reaches its bucket through the proxy."""

    installation: SourceInstallation
    proxy: TcpProxy

    def sync(self) -> TableResult:
        return self.installation.sync(TABLE, mode="full")

    def bytes_of_a_sync(self) -> int:
        """After a first sync, which also looks into every file."""
        self.sync()
        before = self.proxy.received
        assert_complete(self, self.sync())
        return self.proxy.received - before


def assert_complete(store: Store, result: TableResult) -> None:
    assert (result.status, result.equal, result.rows_read) == ("succeeded", True, FILES * ROWS)
    assert (result.rows_bronze, result.rows_silver) == (FILES * ROWS, FILES * ROWS)
    assert store.installation.verify(TABLE).equal is True
    assert staged(store) == []


def staged(store: Store) -> list[Path]:
    return [path for path in (store.installation.settings.home_path / "staging").rglob("*") if path.is_file()]


@pytest.fixture(params=["s3", "gcs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    monkeypatch.setattr("assets.sources.s3.READ_SECONDS", 2)
    monkeypatch.setattr("assets.sources.gcs.TIMEOUT", (5, 2))
    chance = random.Random(7)
    bodies = ["id,v\n" + "".join(f"{i},{chance.getrandbits(128):032x}\n" for i in range(ROWS)) for _ in range(FILES)]
    put: Callable[[str, str], object]
    if request.param == "s3":
        s3: S3Server = request.getfixturevalue("s3_server")
        bucket, client, url = s3.create_bucket(), s3.client(), urlsplit(s3.endpoint_url)
        login = {"access_key_id": s3.access_key_id, "secret_access_key": s3.secret_access_key}
        put = lambda key, body: client.put_object(Bucket=bucket, Key=key, Body=body.encode())  # noqa: E731
    else:
        gcs: GcsServer = request.getfixturevalue("gcs_server")
        bucket, url, login = gcs.create_bucket(), urlsplit(gcs.url), {"anonymous": True}
        handle = gcs.client().bucket(bucket)
        put = lambda key, body: handle.blob(key).upload_from_string(body)  # noqa: E731
    for number, body in enumerate(bodies):
        put(f"t/{number}.csv", body)
    with TcpProxy(url.hostname or "", url.port or 0) as proxy:
        config = {"bucket": bucket, "endpoint_url": f"http://{proxy.host}:{proxy.port}", **login}
        yield Store(SourceInstallation(tmp_path / "home", request.param, config), proxy)


def test_connections_cut_at_1_50_and_99_percent_are_taken_up_again(store: Store) -> None:
    size = store.bytes_of_a_sync()
    for percent in (1, 50, 99):
        cut = threading.Event()

        def break_off(cut: threading.Event = cut) -> None:
            cut.set()
            store.proxy.cut()

        store.proxy.at(size * percent // 100, break_off)
        assert_complete(store, store.sync())
        assert cut.is_set()


def test_a_connection_that_falls_silent_is_given_up_and_the_file_read_by_another_one(store: Store) -> None:
    size = store.bytes_of_a_sync()
    silent = threading.Event()

    def fall_silent() -> None:
        silent.set()
        store.proxy.silence()

    store.proxy.at(size // 2, fall_silent)
    assert_complete(store, store.sync())
    assert silent.is_set()


def test_a_store_that_is_busy_is_asked_again_and_one_that_stays_so_fails_the_sync_clean(store: Store) -> None:
    size = store.bytes_of_a_sync()
    busy = b"HTTP/1.1 503 Slow Down\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    def refuse(times: int) -> Callable[[], None]:
        def refused() -> None:
            store.proxy.answer(busy, times)
            store.proxy.cut()

        return refused

    store.proxy.at(size // 2, refuse(2))
    assert_complete(store, store.sync())
    store.proxy.at(size // 2, refuse(1000))
    with pytest.raises(SourceUnreachableError):
        store.sync()
    store.proxy.answer(busy, 0)
    assert_complete(store, store.sync())


def test_a_disk_that_is_full_while_parts_are_staged_fails_the_step_and_leaves_no_part(store: Store) -> None:
    with files_up_to(1 << 18), pytest.raises((OSError, HeadraceError)):
        store.sync()
    assert staged(store) == []
    assert_complete(store, store.sync())
