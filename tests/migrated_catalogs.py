"""New catalogs of the tests' own process are copies of one that the migrations made: each takes 0.2 s less."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from assets.catalog import database
from assets.settings import Settings


@contextmanager
def copied_when_new(folder: Path) -> Iterator[None]:
    """In the block a SQLite catalog without tables is filled from one in ``folder``; all others are migrated."""
    migrate = database._migrate
    made = folder / "catalog.db"

    def filled(engine: Engine, settings: Settings) -> None:
        if engine.dialect.name != "sqlite" or not made.exists():
            migrate(engine, settings)
            return
        with database._migration_lock(engine, settings), engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            new = raw.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
            if new:
                with closing(sqlite3.connect(made)) as source:
                    source.backup(raw)
        if not new:
            migrate(engine, settings)

    database.open_database(Settings(home=folder)).dispose()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "_migrate", filled)
        yield
