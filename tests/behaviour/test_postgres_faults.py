"""Cut, silent and restarted PostgreSQL servers, a full disk: resumed or failed clean, nothing lost or doubled."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from assets.errors import HeadraceError, SourceUnreachableError
from assets.sync import TableResult
from orchestration.embedded_postgres import EmbeddedPostgres
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.installation import Installation
from tests.polling import wait_until
from tests.servers.tcp_proxy import TcpProxy

TABLE = "public.t"
ROWS = 60_000


@pytest.fixture
def proxied(
    tmp_path: Path, postgres: EmbeddedPostgres, database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Installation, TcpProxy]]:
    """An installation that reaches its database through the proxy, by one connection that reads."""
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_HEARTBEAT_TIMEOUT_SECONDS", "2")
    monkeypatch.setenv("HEADRACE_HEARTBEAT_THROTTLE_SECONDS", "0.3")
    monkeypatch.setenv("HEADRACE_READ_SILENCE_SECONDS", "4")
    with TcpProxy(postgres.host, postgres.port) as proxy:
        yield through(proxy, Installation(tmp_path / "home", postgres, database())), proxy


def through(proxy: TcpProxy, shop: Installation) -> Installation:
    config = shop.server.config(shop.database) | {"host": proxy.host, "port": proxy.port, "silence_seconds": 5}
    shop.steps.catalog.add_connector("shop", "postgres", config, replace=True)
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, note text, updated_at timestamptz)",
        f"INSERT INTO t SELECT i, md5(i::text) || md5((-i)::text), now() FROM generate_series(1, {ROWS}) i",
    )
    return shop


def assert_complete(shop: Installation, result: TableResult) -> None:
    assert (result.status, result.equal, result.rows_read) == ("succeeded", True, ROWS)
    assert (result.rows_bronze, result.rows_silver) == (ROWS, ROWS)
    assert shop.verify(TABLE).equal is True
    assert [path for path in (shop.settings.home_path / "staging").rglob("*") if path.is_file()] == []


def bytes_of_a_read(shop: Installation, proxy: TcpProxy) -> int:
    before = proxy.received
    work = shop.work(TABLE, mode="full")
    shop.steps.extract(work, shop.steps.open_window(work), 1)
    shop.steps.fail(work, "Cancelled", "measured")
    return proxy.received - before


def cutting(proxy: TcpProxy, told: threading.Event) -> Callable[[], None]:
    def cut() -> None:
        told.set()
        proxy.cut()

    return cut


def test_a_connection_cut_at_1_50_and_99_percent_is_taken_up_again(proxied: tuple[Installation, TcpProxy]) -> None:
    shop, proxy = proxied
    size = bytes_of_a_read(shop, proxy)
    with LocalStack(shop.settings).start(temporal=True, worker=True, dagster=False):
        for percent in (1, 50, 99):
            cut = threading.Event()
            proxy.at(size * percent // 100, cutting(proxy, cut))
            (result,) = Headrace(home=shop.settings.home_path).sync("shop", [TABLE], mode="full").tables
            assert cut.is_set()
            assert_complete(shop, result)


def test_a_connection_that_falls_silent_is_given_up_and_its_work_done_by_another_one(
    proxied: tuple[Installation, TcpProxy],
) -> None:
    shop, proxy = proxied
    size = bytes_of_a_read(shop, proxy)
    silent = threading.Event()
    with LocalStack(shop.settings).start(temporal=True, worker=True, dagster=False):

        def fall_silent() -> None:
            silent.set()
            proxy.silence()

        proxy.at(size // 2, fall_silent)
        (result,) = Headrace(home=shop.settings.home_path).sync("shop", [TABLE]).tables
        assert silent.is_set()
        assert_complete(shop, result)
        proxy.cut()


@pytest.mark.slow
def test_a_server_that_restarts_in_the_middle_of_a_read_fails_it_clean_and_the_next_try_is_complete(
    tmp_path: Path, server_folder: Path
) -> None:
    with (
        EmbeddedPostgres(server_folder / "postgres-restarted") as server,
        TcpProxy(server.host, server.port) as proxy,
    ):
        shop = through(proxy, Installation(tmp_path / "home", server, server.create_database("restarted")))
        size = bytes_of_a_read(shop, proxy)
        shop.execute("CHECKPOINT")  # this server commits before its log is written

        def crash() -> None:
            """A backend that dies makes the server end all others, recover from its log, and come up again."""
            with shop.connect() as connection:
                (pid,) = connection.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'headrace' LIMIT 1"
                ).fetchone() or (0,)
            os.kill(pid, signal.SIGKILL)

        proxy.at(size // 2, crash)
        work = shop.work(TABLE)
        plan = shop.steps.open_window(work)
        with pytest.raises(SourceUnreachableError):
            shop.steps.extract(work, plan, 1)
        wait_until(lambda: answers(shop))
        manifest = shop.steps.extract(work, plan, 2)
        bronze = shop.steps.commit_bronze(work, manifest)
        silver = shop.steps.merge_silver(work, manifest)
        assert_complete(shop, shop.steps.record(work, shop.steps.verify(work, manifest, bronze, silver)))


def answers(shop: Installation) -> bool:
    try:
        shop.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size``: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_while_parts_are_staged_fails_the_step_and_leaves_no_part(
    proxied: tuple[Installation, TcpProxy],
) -> None:
    shop, _ = proxied
    work = shop.work(TABLE)
    plan = shop.steps.open_window(work)
    with files_up_to(1 << 20), pytest.raises((OSError, HeadraceError)):
        shop.steps.extract(work, plan, 1)
    assert [path for path in (shop.settings.home_path / "staging").rglob("*") if path.is_file()] == []
    manifest = shop.steps.extract(work, plan, 2)
    bronze = shop.steps.commit_bronze(work, manifest)
    silver = shop.steps.merge_silver(work, manifest)
    assert_complete(shop, shop.steps.record(work, shop.steps.verify(work, manifest, bronze, silver)))
