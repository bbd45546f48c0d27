"""Cut, silent and restarted MariaDB servers, killed workers: resumed or failed clean, nothing lost or doubled."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assets.errors import SourceUnreachableError
from assets.failpoints import WORKER_FAILPOINTS
from assets.lakehouse.interface import TableId
from assets.sync import TableResult
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.servers.mariadb_server import MariadbServer
from tests.servers.tcp_proxy import TcpProxy

ROWS = 40_000
COLUMNS = ["id", "note"]
Proxied = tuple[MysqlInstallation, TcpProxy]


@pytest.fixture
def worker_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the worker processes of a stack; dead and silent ones are found soon."""
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_HEARTBEAT_TIMEOUT_SECONDS", "2")
    monkeypatch.setenv("HEADRACE_HEARTBEAT_THROTTLE_SECONDS", "0.3")
    monkeypatch.setenv("HEADRACE_READ_SILENCE_SECONDS", "4")
    monkeypatch.setenv("HEADRACE_FAILPOINTS_FIRED", str(tmp_path / "fired"))


@pytest.fixture
def proxied(tmp_path: Path, mariadb: MariadbServer, mariadb_database: str, worker_settings: None) -> Iterator[Proxied]:
    """An installation that reaches its database through the proxy."""
    with TcpProxy(mariadb.host, mariadb.port) as proxy:
        yield through(proxy, tmp_path, mariadb, mariadb_database), proxy


def through(proxy: TcpProxy, tmp_path: Path, server: MariadbServer, database: str) -> MysqlInstallation:
    shop = MysqlInstallation(
        tmp_path / "home", server, database, host=proxy.host, port=proxy.port, silence_seconds=25, tls="disable"
    )
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, note varchar(80), updated_at timestamp(6) NULL)",
        f"INSERT INTO t SELECT seq, concat(md5(seq), md5(-seq)), now(6) FROM seq_1_to_{ROWS}",
    )
    return shop


def assert_complete(shop: MysqlInstallation, result: TableResult, rows: int = ROWS) -> None:
    assert (result.status, result.equal, result.rows_read) == ("succeeded", True, rows)
    assert shop.silver(shop.name("t"), COLUMNS) == shop.source_rows("SELECT id, note FROM t")
    assert shop.staged_files() == []


def bytes_of(shop: MysqlInstallation, proxy: TcpProxy, mode: str) -> int:
    """What one extract takes from the server."""
    before = proxy.received
    work = shop.work(shop.name("t"), mode=mode)
    shop.steps.extract(work, shop.steps.open_window(work), 1)
    shop.steps.fail(work, "Cancelled", "measured")
    return proxy.received - before


def finished(shop: MysqlInstallation, work: object, manifest: str) -> TableResult:
    steps = shop.steps
    bronze = steps.commit_bronze(work, manifest)  # type: ignore[arg-type]
    silver = steps.merge_silver(work, manifest)  # type: ignore[arg-type]
    return steps.record(work, steps.verify(work, manifest, bronze, silver))  # type: ignore[arg-type]


def breaking(proxy: TcpProxy, how: Callable[[], None]) -> tuple[threading.Event, Callable[[], None]]:
    told = threading.Event()

    def break_now() -> None:
        told.set()
        how()

    return told, break_now


def test_a_connection_cut_at_1_50_and_99_percent_is_taken_up_again(proxied: Proxied) -> None:
    shop, proxy = proxied
    size = bytes_of(shop, proxy, "full")
    with LocalStack(shop.settings).start(temporal=True, worker=True, dagster=False):
        for percent in (1, 50, 99):
            cut, action = breaking(proxy, proxy.cut)
            proxy.at(size * percent // 100, action)
            (result,) = Headrace(home=shop.settings.home_path).sync("shop", [shop.name("t")], mode="full").tables
            assert cut.is_set()
            assert_complete(shop, result)


@pytest.mark.slow
def test_a_connection_that_falls_silent_is_given_up_and_its_work_done_by_another_one(proxied: Proxied) -> None:
    shop, proxy = proxied
    size = bytes_of(shop, proxy, "full")
    with LocalStack(shop.settings).start(temporal=True, worker=True, dagster=False):
        silent, action = breaking(proxy, proxy.silence)
        proxy.at(size // 2, action)
        (result,) = Headrace(home=shop.settings.home_path).sync("shop", [shop.name("t")]).tables
        assert silent.is_set()
        assert_complete(shop, result)
        proxy.cut()


def test_a_stream_cut_at_1_50_and_99_percent_fails_the_step_clean_and_is_read_again_from_where_it_was(
    proxied: Proxied,
) -> None:
    shop, proxy = proxied
    table = shop.name("t")
    shop.sync(table, mode="cdc")
    shop.execute(f"UPDATE t SET note = reverse(note) WHERE id <= {ROWS // 2}", "DELETE FROM t WHERE id > 39000")
    size = bytes_of(shop, proxy, "cdc")
    work = shop.work(table, mode="cdc")
    plan = shop.steps.open_window(work)
    for attempt, percent in enumerate((10, 50, 99), start=1):
        cut, action = breaking(proxy, proxy.cut)
        proxy.at(size * percent // 100, action)
        with pytest.raises(SourceUnreachableError):
            shop.steps.extract(work, plan, attempt)
        assert cut.is_set()
    result = finished(shop, work, shop.steps.extract(work, plan, 4))
    assert result.rows_deleted == 1000
    assert_complete(shop, result, ROWS // 2)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "cdc"])
def test_a_server_killed_in_the_middle_of_a_read_fails_it_clean_and_the_next_try_is_complete(
    tmp_path: Path, server_folder: Path, mode: str, worker_settings: None
) -> None:
    with (
        MariadbServer(server_folder / f"killed-{uuid.uuid4().hex[:6]}") as server,
        TcpProxy(server.host, server.port) as proxy,
    ):
        shop = through(proxy, tmp_path, server, server.create_database())
        table, rows = shop.name("t"), ROWS
        if mode == "cdc":
            shop.sync(table, mode="cdc")
            shop.execute("UPDATE t SET note = reverse(note) WHERE id <= 30000")
            rows = 30_000
        size = bytes_of(shop, proxy, mode)

        def crash() -> None:
            server.kill()
            proxy.cut()  # what the dead server had sent already does not arrive either

        killed, action = breaking(proxy, crash)
        proxy.at(size // 2, action)
        work = shop.work(table, mode=mode)
        plan = shop.steps.open_window(work)
        with pytest.raises(SourceUnreachableError):
            shop.steps.extract(work, plan, 1)
        assert killed.is_set()
        server.start()  # a server ends with the thread that started it
        assert_complete(shop, finished(shop, work, shop.steps.extract(work, plan, 2)), rows)


AROUND_COMMITS = ("during_extract", "after_manifest", "after_bronze_commit", "before_silver_commit", "before_record")
UNCHUNKED = tuple(name for name in WORKER_FAILPOINTS if "chunk" not in name)


@pytest.mark.parametrize(
    ("first", "names"),
    [
        pytest.param(False, AROUND_COMMITS, marks=pytest.mark.slow),
        pytest.param(False, UNCHUNKED, marks=pytest.mark.slow),
        pytest.param(True, UNCHUNKED, marks=pytest.mark.slow),
    ],
)
def test_a_followed_table_whose_worker_dies_at_failpoints_in_turn_is_exact(
    tmp_path: Path,
    mariadb: MariadbServer,
    mariadb_database: str,
    worker_settings: None,
    monkeypatch: pytest.MonkeyPatch,
    first: bool,
    names: tuple[str, ...],
) -> None:
    shop = MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)
    table = shop.name("t")
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, note text)", "INSERT INTO t SELECT seq, seq / 7 FROM seq_1_to_5000"
    )
    kill = ",".join(f"{name}=kill" for name in names)

    def synced() -> TableResult:
        with LocalStack(shop.settings).start(temporal=True, worker=True, dagster=False):
            (result,) = Headrace(home=shop.settings.home_path).sync("shop", [table], mode="cdc").tables
        return result

    if first:
        monkeypatch.setenv("HEADRACE_FAILPOINTS", kill)
    assert_complete(shop, synced(), 5000)
    if not first:
        shop.execute(
            "UPDATE t SET note = 'changed' WHERE id <= 300",
            "DELETE FROM t WHERE id > 4900",
            "INSERT INTO t SELECT seq, 'new' FROM seq_6001_to_6100",
        )
        monkeypatch.setenv("HEADRACE_FAILPOINTS", kill)
        result = synced()
        assert (result.mode, result.rows_deleted) == ("cdc", 100)
        assert_complete(shop, result, 400)
        bronze = shop.steps.lakehouse.state(TableId(layer="bronze", connector="shop", table=table))
        assert bronze is not None and bronze.rows == 5000 + 400 + 100
    assert {path.name for path in (tmp_path / "fired").iterdir()} == set(names)
    assert shop.verify(table).equal is True
