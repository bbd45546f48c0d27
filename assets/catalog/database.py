"""Opens the catalog's database, and brings its tables up to date before anything is read."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, table, text
from sqlalchemy import column as sql_column
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import QueuePool

from assets.errors import ConfigurationError
from assets.settings import Settings

HEAD_REVISION = "0012"
BUSY_SECONDS = 30
_MIGRATIONS = Path(__file__).with_name("migrations")
_POSTGRES_LOCK = 0x48524143_45434154  # an arbitrary constant of its own
_VERSION = table("alembic_version", sql_column("version_num"))


def open_database(settings: Settings) -> Engine:
    """Connect, and migrate if the tables are older than this program. Safe for any number of processes at once.

    Raises:
        ConfigurationError: the database is unreachable, of another kind, or newer than this program.
    """
    url = _database_url(settings)
    engine = _engine(url)
    try:
        if _revision(engine) != HEAD_REVISION:
            _migrate(engine, settings)
    except OperationalError as error:
        raise unreachable(error, engine) from None
    return engine


def unreachable(error: OperationalError, engine: Engine) -> ConfigurationError:
    """What to say of a database that does not answer; the driver's text stands without the URL's password."""
    detail = str(error.orig).strip().splitlines()[0] if error.orig else type(error).__name__
    password = engine.url.password
    if password:
        detail = detail.replace(str(password), "********")
    where = engine.url.render_as_string(hide_password=True)
    return ConfigurationError(
        f"the catalog cannot be opened: {detail[:300]}.",
        where=where,
        remedy="Check HEADRACE_CATALOG_URL and HEADRACE_HOME.",
        retryable=True,
    )


def _database_url(settings: Settings) -> URL:
    if settings.catalog_url is None:
        home = settings.home_path
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the home cannot be made ({error.strerror}).", where=str(home), remedy="Set HEADRACE_HOME."
            ) from None
        return URL.create("sqlite", database=str(home / "catalog.db"))
    try:
        url = make_url(settings.catalog_url.get_secret_value())
        kind = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError):
        raise ConfigurationError(
            "HEADRACE_CATALOG_URL is no database URL.", remedy="Such as postgresql://user@host/database."
        ) from None
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind == "sqlite":
        return url
    raise ConfigurationError("HEADRACE_CATALOG_URL is neither PostgreSQL nor SQLite.")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=4,
            max_overflow=8,
            pool_timeout=30,
            connect_args={"connect_timeout": 10, "application_name": "headrace catalog"},
        )
    # A connection is kept: SQLite copies its log back and syncs whenever a process closes its last one.
    engine = create_engine(
        url,
        hide_parameters=True,
        poolclass=QueuePool,
        pool_size=4,
        max_overflow=-1,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )
    os.register_at_fork(after_in_child=_forgetting(engine))

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin too late and commit by itself
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes then would fail at once where another one writes: lock first.
        reads = connection.get_execution_options().get("reads_only")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _forgetting(engine: Engine) -> Callable[[], None]:
    """Lets a forked process open connections of its own; holds nothing of an engine that is not used any more."""
    weak = weakref.ref(engine)

    def forget() -> None:
        known = weak()
        if known is not None:
            known.dispose(close=False)

    return forget


def reading(engine: Engine) -> Engine:
    """The same database for transactions that only read."""
    return engine.execution_options(reads_only=True)


def _revision(engine: Engine) -> str | None:
    with reading(engine).connect() as connection:
        if not inspect(connection).has_table(_VERSION.name):
            return None
        return connection.scalar(select(_VERSION.c.version_num))


def _migrate(engine: Engine, settings: Settings) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with _migration_lock(engine, settings):
        if _revision(engine) == HEAD_REVISION:
            return
        if engine.dialect.name == "sqlite":
            with engine.connect() as connection:
                connection.connection.driver_connection.execute("PRAGMA journal_mode = WAL")  # type: ignore[union-attr]
        try:
            with engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError:
            raise ConfigurationError(
                "the catalog was written by a newer Headrace.",
                where=engine.url.render_as_string(hide_password=True),
                remedy="Update this installation.",
            ) from None


@contextmanager
def _migration_lock(engine: Engine, settings: Settings) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        from filelock import FileLock

        database = engine.url.database
        if not database or database == ":memory:":
            raise ConfigurationError("the catalog has to be a file, or a PostgreSQL database.")
        with FileLock(f"{database}.lock", timeout=120):
            yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET lock_timeout = '120s'"))
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _POSTGRES_LOCK})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _POSTGRES_LOCK})
            connection.execute(text("RESET lock_timeout"))
