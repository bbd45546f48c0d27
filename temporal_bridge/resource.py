"""Temporal as a Dagster resource."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import dagster as dg  # noqa: TID253
from pydantic import Field

from temporal_bridge.client import TemporalClient

if TYPE_CHECKING:
    from temporal_bridge.pipes import PipesTemporalClient


class TemporalResource(dg.ConfigurableResource):
    """Where Temporal is. What is not given comes from Temporal's own environment and profile (``TEMPORAL_*``)."""

    address: str | None = Field(default=None, description="host:port; default: TEMPORAL_ADDRESS")
    namespace: str | None = Field(default=None, description="default: TEMPORAL_NAMESPACE, else `default`")
    api_key: str | None = Field(default=None, repr=False, description="API key; default: TEMPORAL_API_KEY")
    tls: bool | None = Field(default=None, description="force TLS on or off; default: TEMPORAL_TLS")
    ui_url: str | None = Field(default=None, description="Temporal's web page, for links")
    connect_seconds: float = Field(default=20, description="how long an unreachable server is tried")
    outage_seconds: float = Field(default=300, description="how long the server may be away during a wait")
    worker_wait_seconds: float = Field(default=300, description="how long to wait for a worker to appear")

    def client(self) -> TemporalClient:
        """A new blocking client; close it, or use it as a context manager."""
        return TemporalClient(
            self.address,
            self.namespace,
            api_key=self.api_key,
            tls=self.tls,
            connect_seconds=self.connect_seconds,
            outage_seconds=self.outage_seconds,
            worker_wait_seconds=self.worker_wait_seconds,
        )

    def pipes(self) -> PipesTemporalClient:
        """The Pipes client on this resource."""
        from temporal_bridge.pipes import PipesTemporalClient

        return PipesTemporalClient(self)

    def workflow_url(self, namespace: str, workflow_id: str, run_id: str) -> str | None:
        """Address of a workflow on Temporal's page; None without ``ui_url``."""
        if not self.ui_url:
            return None
        return (
            f"{self.ui_url.rstrip('/')}/namespaces/{quote(namespace, safe='')}/workflows/"
            f"{quote(workflow_id, safe='')}/{quote(run_id, safe='')}/history"
        )
