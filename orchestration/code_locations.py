"""The code locations of an installation: the first holds what exists once; many connectors are spread over several.

Dagster builds, sends and reads a code location as a whole whenever one of its connectors changes: about 25 ms a
connector of ten tables. Spread, only the location of the changed connector is built anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assets.errors import ConfigurationError

if TYPE_CHECKING:
    from assets.catalog.store import Catalog
    from assets.settings import Settings

LOCATION = "headrace"
STATE_KEY = "headrace-connectors"
SPREAD = ((800, 8), (400, 4), (200, 2))
"""From so many connectors on, so many code locations. Each costs two processes, 400 MB together."""


@dataclass(frozen=True)
class CodeLocation:
    """One of ``count`` code locations; ``number`` counts from 1."""

    number: int = 1
    count: int = 1

    @property
    def suffix(self) -> str:
        """Put behind the names of what each location has of its own."""
        return "" if self.number == 1 else f"-{self.number}"

    @property
    def name(self) -> str:
        return f"{LOCATION}{self.suffix}"

    @property
    def state_key(self) -> str:
        """Under which Dagster's instance keeps what the location was built from."""
        return f"{STATE_KEY}{self.suffix}"

    @property
    def is_first(self) -> bool:
        return self.number == 1

    def holds(self, connector: str) -> bool:
        """By the connector's name alone, so that no other connector moves when one comes or goes."""
        if self.count == 1:
            return True
        return int.from_bytes(hashlib.sha256(connector.encode()).digest()[:8]) % self.count == self.number - 1

    def version(self, catalog: Catalog) -> str:
        """Changes whenever something that the location shows does."""
        if self.count == 1:
            return catalog.version()
        return f"{self.number}/{self.count} {catalog.version_of(self.holds, knowledge=self.is_first)}"

    @classmethod
    def of_process(cls, settings: Settings) -> CodeLocation:
        """The one that this process serves.

        Raises:
            ConfigurationError: its number is more than there are.
        """
        location = cls(settings.code_location, settings.code_locations or 1)
        if location.number > location.count:
            raise ConfigurationError(
                f"code location {location.number} of {location.count}.",
                where="HEADRACE_CODE_LOCATION",
                remedy="Set HEADRACE_CODE_LOCATIONS to how many there are.",
            )
        return location


def code_locations(settings: Settings) -> list[CodeLocation]:
    """All of the installation."""
    count = settings.code_locations or 1
    return [CodeLocation(number, count) for number in range(1, count + 1)]


def locations_of_stack(settings: Settings, catalog: Catalog) -> list[CodeLocation]:
    """Those that `headrace up` starts: as many as the settings say, else as the catalog asks for."""
    count = settings.code_locations or wanted_locations(catalog.connector_page(limit=1).total)
    return code_locations(settings.model_copy(update={"code_locations": count}))


def wanted_locations(connectors: int) -> int:
    """How many code locations so many connectors ask for."""
    return next((count for least, count in SPREAD if connectors >= least), 1)
