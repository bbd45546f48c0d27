"""Session servers of the tests: PostgreSQL, MariaDB, Temporal and S3, each real, on a free loopback port."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assets.settings import Settings
from orchestration.embedded_postgres import EmbeddedPostgres
from tests.migrated_catalogs import copied_when_new
from tests.servers.databricks_server import DatabricksServer
from tests.servers.gcs_server import GcsServer
from tests.servers.mariadb_server import MISSING, MariadbServer, mariadb_programs
from tests.servers.s3_server import S3Server
from tests.servers.snowflake_server import MISSING as SNOWFLAKE_MISSING
from tests.servers.snowflake_server import PYTHON as SNOWFLAKE_PYTHON
from tests.servers.snowflake_server import SnowflakeServer
from tests.servers.temporal_server import TemporalServer


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A short path: servers keep data and logs here."""
    with tempfile.TemporaryDirectory(prefix="headrace-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # the PostgreSQL user has to pass through
        yield Path(folder)


@pytest.fixture(scope="session", autouse=True)
def migrated_catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """New catalogs of this process are copies of one that was migrated."""
    with copied_when_new(tmp_path_factory.mktemp("migrated")):
        yield


@pytest.fixture(scope="session")
def postgres(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server for the session: ``host``, ``port``, ``user``, ``password``, ``connect(database)``."""
    with EmbeddedPostgres(server_folder / "postgres") as server:
        yield server


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[Callable[[], str]]:
    """A factory of fresh databases: each call creates one and returns its name; all are dropped after the test."""
    names: list[str] = []

    def create() -> str:
        names.append(postgres.create_database(f"t_{uuid.uuid4().hex[:12]}"))
        return names[-1]

    yield create
    for name in names:
        postgres.drop_database(name)


@pytest.fixture(scope="session")
def temporal(server_folder: Path) -> Iterator[TemporalServer]:
    """A Temporal dev server in memory for the session: ``address``, ``namespace``."""
    with TemporalServer(server_folder) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(server_folder: Path) -> Iterator[S3Server]:
    """An S3 server for the session: ``endpoint_url``, keys, ``create_bucket()``."""
    with S3Server(server_folder / "s3") as server:
        yield server


@pytest.fixture(scope="session")
def mariadb(server_folder: Path) -> Iterator[MariadbServer]:
    """A MariaDB server for the session: ``host``, ``port``, ``user``, ``password``, ``connect(database)``."""
    if mariadb_programs() is None:
        pytest.skip(MISSING)
    with MariadbServer(server_folder / "mariadb") as server:
        yield server


@pytest.fixture
def mariadb_database(mariadb: MariadbServer) -> Iterator[str]:
    """An empty database in MariaDB, dropped after the test."""
    name = mariadb.create_database()
    yield name
    mariadb.drop_database(name)


@pytest.fixture(scope="session")
def databricks(server_folder: Path) -> Iterator[DatabricksServer]:
    """The Databricks stand-in for the session: ``url``, ``token``, ``settings()``, failpoints."""
    with DatabricksServer(server_folder / "databricks") as server:
        yield server


@pytest.fixture(scope="session")
def snowflake_server(server_folder: Path) -> Iterator[SnowflakeServer]:
    """The Snowflake stand-in for the session: ``config(database)``, users, ``execute()``, rules."""
    if not SNOWFLAKE_PYTHON.exists():
        pytest.skip(SNOWFLAKE_MISSING)
    with SnowflakeServer(server_folder / "snowflake") as server:
        yield server


@pytest.fixture
def snowflake_database(snowflake_server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database of the Snowflake stand-in, which may be reached on loopback; dropped after the test."""
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    name = snowflake_server.create_database()
    yield name
    snowflake_server.drop_database(name)


@pytest.fixture(scope="session")
def gcs_server(server_folder: Path) -> Iterator[GcsServer]:
    """A GCS server for the session: ``url``, ``client()``, ``create_bucket()``."""
    with GcsServer(server_folder / "gcs") as server:
        yield server


@pytest.fixture
def headrace_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, also in ``HEADRACE_HOME``."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HEADRACE_HOME", str(home))
    return home


@pytest.fixture
def settings(headrace_home: Path) -> Settings:
    """The settings of ``headrace_home``."""
    return Settings(home=headrace_home)
