"""Dagster's part of the server follows the catalog: a connector that is added shows its assets after one reload."""

from __future__ import annotations

import logging
import threading

from assets.catalog.store import Catalog
from assets.errors import ConflictError
from orchestration.components.connector_registry import STATE_KEY
from orchestration.defs.catalog_refresh import LOCATION
from orchestration.web.dagster_internals import WorkspaceProcessContext, reload_with_new_state

_log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0


class CatalogWatch:
    """Reloads the code location when the catalog's version changes while the server runs.

    The sensor ``catalog_refresh`` does the same five seconds later where no server did: what changed while none ran,
    and a reload that failed here.
    """

    def __init__(self, process: WorkspaceProcessContext, catalog: Catalog) -> None:
        self._process, self._catalog = process, catalog
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="headrace-catalog-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """A reload that goes on is not waited for: it ends with the process."""
        self._ended.set()

    def _watch(self) -> None:
        seen = None
        while not self._ended.wait(LOOK_SECONDS):
            try:
                version = self._catalog.version()
                if seen is not None and version != seen:
                    self._reload(version)
                seen = version
            except Exception as error:  # the watch goes on, whatever one look ended with
                seen = seen and version
                _log.warning("the assets were not reloaded: %s", type(error).__name__)

    def _reload(self, version: str) -> None:
        if LOCATION not in self._process.get_current_workspace().code_location_entries:
            return
        # one of several webservers does it
        store, key = self._catalog.idempotency, f"assets of {version}"
        try:
            if store.begin("headrace", key, "") is not None:
                return
        except ConflictError:
            return
        try:
            reload_with_new_state(self._process, LOCATION, STATE_KEY)
        finally:
            store.give_up("headrace", key)
