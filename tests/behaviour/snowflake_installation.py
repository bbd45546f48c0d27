"""The installation of the behaviour tests with a database of the Snowflake stand-in as its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assets.settings import Settings
from assets.steps import SyncSteps
from tests.behaviour.installation import Installation
from tests.servers.snowflake_server import SnowflakeServer


class SnowflakeInstallation(Installation):
    """``shop`` is the connector; tables are named ``public.<table>``."""

    def __init__(self, home: Path, source: SnowflakeServer, database: str, **config: Any) -> None:
        self.source = source
        self.database = database
        self.settings = Settings(home=home)
        self.steps = SyncSteps.from_settings(self.settings)
        self.steps.catalog.add_connector("shop", "snowflake", source.config(database, **config))

    def execute(self, *statements: str) -> None:
        self.source.execute(self.database, *statements)

    def source_rows(self, query: str) -> list[tuple[Any, ...]]:
        return sorted(self.source.execute(self.database, query), key=repr)
