"""The installation of the behaviour tests with a MariaDB database as its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pymysql

from assets.settings import Settings
from assets.steps import SyncSteps
from tests.behaviour.installation import Installation
from tests.servers.mariadb_server import MariadbServer


class MysqlInstallation(Installation):
    """``shop`` is the connector; tables are named ``<database>.<table>``, see ``name``."""

    def __init__(self, home: Path, source: MariadbServer, database: str, **config: Any) -> None:
        self.source = source
        self.database = database
        self.settings = Settings(home=home)
        self.steps = SyncSteps.from_settings(self.settings)
        self.steps.catalog.add_connector("shop", "mysql", {**source.config(database), **config})

    def name(self, table: str) -> str:
        return f"{self.database}.{table}"

    def execute(self, *statements: str) -> None:
        self.source.execute(self.database, *statements)

    def open(self, **options: Any) -> pymysql.Connection[Any]:
        """A connection that stays open until it is closed."""
        return self.source.connect(self.database, **options)

    def source_rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.open() as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return sorted(cursor.fetchall(), key=repr)
