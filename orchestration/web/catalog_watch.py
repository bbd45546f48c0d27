"""Dagster's part of the server follows the catalog: a connector that is added shows its assets after one reload.

Of several code locations only those are loaded anew that show something of what changed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from assets.catalog.store import Catalog
from assets.errors import ConflictError
from orchestration.code_locations import CodeLocation
from orchestration.web.dagster_internals import WorkspaceProcessContext, reload_with_new_state

_log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0


class CatalogWatch:
    """Reloads a code location when its version of the catalog changes while the server runs.

    The sensor ``catalog_refresh`` does the same five seconds later where no server did: what changed while none ran,
    and a reload that failed here.
    """

    def __init__(self, process: WorkspaceProcessContext, catalog: Catalog, locations: Sequence[CodeLocation]) -> None:
        self._process, self._catalog, self._locations = process, catalog, locations
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="headrace-catalog-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """A reload that goes on is not waited for: it ends with the process."""
        self._ended.set()

    def _watch(self) -> None:
        whole = None
        seen: dict[CodeLocation, str] = {}
        while not self._ended.wait(LOOK_SECONDS):
            # the watch goes on, whatever one look ended with
            try:
                if whole == (whole := self._catalog.version()):
                    continue
                now = {location: location.version(self._catalog) for location in self._locations}
            except Exception as error:
                _log.warning("the catalog was not looked at: %s", type(error).__name__)
                continue
            changed = [location for location in seen if seen[location] != now[location]]
            seen = now
            for location in changed:
                try:
                    self._reload(location, now[location])
                except Exception as error:
                    _log.warning("the assets of %s were not reloaded: %s", location.name, type(error).__name__)

    def _reload(self, location: CodeLocation, version: str) -> None:
        if location.name not in self._process.get_current_workspace().code_location_entries:
            return
        # one of several webservers does it
        store, key = self._catalog.idempotency, f"assets of {version}"
        try:
            if store.begin("headrace", key, "") is not None:
                return
        except ConflictError:
            return
        try:
            reload_with_new_state(self._process, location.name, location.state_key)
        finally:
            store.give_up("headrace", key)
