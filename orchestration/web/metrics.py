"""``/metrics``: the installation's tables and this server's requests, for Prometheus; behind the scope ``metrics``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from assets.catalog.listing import MAX_LIMIT
from assets.catalog.models import now

if TYPE_CHECKING:
    from assets.catalog.store import Catalog
    from assets.catalog.table_states import TableState

MAX_TABLES = 5_000
"""Tables with figures of their own, those that failed first; the rest are counted only."""


class WebFigures:
    """What this server answered since it started."""

    def __init__(self, catalog: Catalog) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        labels = ("method", "part")
        self._requests = Counter(
            "headrace_web_requests", "Requests answered.", (*labels, "status"), registry=self.registry
        )
        self._seconds = Histogram("headrace_web_request_seconds", "Time of a request.", labels, registry=self.registry)
        self.registry.register(CatalogFigures(catalog))  # type: ignore[arg-type]

    def answered(self, method: str, part: str, status: int, seconds: float) -> None:
        self._requests.labels(method, part, str(status)).inc()
        self._seconds.labels(method, part).observe(seconds)


class CatalogFigures:
    """The tables as the catalog knows them at the moment of a scrape."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def describe(self) -> list[Any]:
        """Nothing is read when the collector is registered."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counts = self._catalog.table_counts()
        tables = GaugeMetricFamily("headrace_tables", "Tables by the status of their last sync.", labels=["status"])
        for status, count in counts.items():
            if status != "differing":
                tables.add_metric([status], count)
        yield tables
        yield GaugeMetricFamily(
            "headrace_tables_differing", "Tables whose last sync did not equal the source.", counts["differing"]
        )
        yield from self._connectors()
        yield from self._of_tables()

    def _connectors(self) -> Iterator[GaugeMetricFamily]:
        records = self._catalog.connectors()
        active = GaugeMetricFamily("headrace_connector_active", "1: its last test passed.", labels=["connector"])
        ends = GaugeMetricFamily(
            "headrace_connector_access_seconds", "Until a person has to log in again.", labels=["connector"]
        )
        for record in records:
            active.add_metric([record.name], record.status == "active")
            if record.oauth is not None and record.oauth.ends_at is not None:
                left = 0 if record.oauth.problem else (record.oauth.ends_at - now()).total_seconds()
                ends.add_metric([record.name], left)
        yield active
        yield ends

    def _of_tables(self) -> Iterator[GaugeMetricFamily]:
        names = {
            "lag_seconds": "Age of what Silver shows.",
            "rows": "Rows in Silver.",
            "last_sync_rows": "Rows that the last sync read.",
            "last_sync_bytes": "Bytes that the last success staged.",
            "last_sync_seconds": "Time of the last sync.",
            "failed": "1: the last sync failed.",
            "equal": "1: the last success equalled the source.",
        }
        made = {
            name: GaugeMetricFamily(f"headrace_table_{name}", text, labels=["connector", "table"])
            for name, text in names.items()
        }
        left_out = 0
        for left_out, state in self._states():  # noqa: B007
            for name, value in _figures(state).items():
                if value is not None:
                    made[name].add_metric([state.connector, state.table], value)
        yield from made.values()
        yield GaugeMetricFamily("headrace_tables_left_out", "Tables without figures of their own.", left_out)

    def _states(self) -> Iterator[tuple[int, TableState]]:
        """Each table, and how many are left out of all."""
        for offset in range(0, MAX_TABLES, MAX_LIMIT):
            page = self._catalog.table_page(order="status", limit=min(MAX_LIMIT, MAX_TABLES - offset), offset=offset)
            for state in page.items:
                yield max(0, page.total - MAX_TABLES), state
            if offset + len(page.items) >= page.total:
                return


def _figures(state: TableState) -> dict[str, float | None]:
    ended = state.completed_at
    return {
        "lag_seconds": (now() - state.synced_from).total_seconds() if state.synced_from else None,
        "rows": state.rows,
        "last_sync_rows": state.rows_read if ended else None,
        "last_sync_bytes": state.bytes,
        "last_sync_seconds": (ended - state.started_at).total_seconds() if ended else None,
        "failed": state.status == "failed",
        "equal": state.equal,
    }


def metrics(request: Request) -> Response:
    """The figures now."""
    figures: WebFigures = request.app.state.figures
    return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
