"""SQL warehouses: states, start and stop."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.standins.databricks.errors import ApiError

WAREHOUSE_ID = "5ea1ab1e5ea1ab1e"


class Warehouses:
    """One warehouse, ``5ea1ab1e5ea1ab1e``. Stopped, it takes ``start_seconds`` to start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = "RUNNING"
        self._running_at = 0.0
        self.start_seconds = 0.5

    def get(self, id: str) -> dict[str, Any]:
        if id != WAREHOUSE_ID:
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"SQL warehouse {id} does not exist")
        with self._lock:
            self._settle()
            return {
                "id": id,
                "name": "stand-in",
                "state": self._state,
                "cluster_size": "2X-Small",
                "warehouse_type": "PRO",
                "enable_serverless_compute": True,
            }

    def _settle(self) -> None:
        if self._state == "STARTING" and time.monotonic() >= self._running_at:
            self._state = "RUNNING"

    def start(self, id: str) -> dict[str, Any]:
        self.get(id)
        with self._lock:
            if self._state == "STOPPED":
                self._state, self._running_at = "STARTING", time.monotonic() + self.start_seconds
        return {}

    def stop(self, id: str) -> dict[str, Any]:
        self.get(id)
        with self._lock:
            self._state = "STOPPED"
        return {}

    def serve(self, id: str) -> bool:
        """Whether the warehouse runs; a stopped one is started."""
        self.start(id)
        return self.get(id)["state"] == "RUNNING"
