"""The connectors of one installation: the part of the Python API that adds, tests and discovers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from assets.catalog.records import ConnectorRecord
from assets.errors import HeadraceError
from assets.sync import SourceTable, Watermark
from orchestration.reports import ConnectorTest

if TYPE_CHECKING:
    from assets.catalog.listing import Page
    from assets.catalog.store import Catalog
    from orchestration.headrace import Headrace


class Connectors:
    """The connectors of one installation."""

    def __init__(self, headrace: Headrace) -> None:
        self._headrace = headrace

    @property
    def _catalog(self) -> Catalog:
        return self._headrace.catalog

    def add(self, name: str, type: str, config: Mapping[str, Any], *, replace: bool = False) -> ConnectorRecord:
        """Store a connector; secrets are encrypted, or kept as ``env:NAME`` and ``file:PATH`` references.

        Raises:
            ConfigurationError: name, type or config is wrong; the message names the field, never a value.
            ConflictError: the name is taken and ``replace`` is not set.
        """
        return self._catalog.add_connector(name, type, config, replace=replace)

    def update(
        self, name: str, config: Mapping[str, Any], *, type: str | None = None, unchanged_since: datetime | None = None
    ) -> ConnectorRecord:
        """Replace a connector's config; a secret that it leaves out stays. Its status is ``pending`` then.

        Args:
            type: another type; its secrets have to be given.
            unchanged_since: change it only where this is still its ``updated_at``.

        Raises:
            NotFoundError: there is none of that name.
            ConfigurationError: the config is wrong.
            ChangedError: somebody else changed it.
        """
        known = self._catalog.connector_record(name)
        return self._catalog.add_connector(
            name,
            type or known.type,
            config,
            replace=True,
            unchanged_since=unchanged_since or known.updated_at,
            keep_secrets=True,
        )

    def list(self) -> list[ConnectorRecord]:
        return self._catalog.connectors()

    def page(self, **options: Any) -> Page[ConnectorRecord]:
        """One page of the connectors. Options: `assets.catalog.listing.Listing.connector_page`."""
        return self._catalog.connector_page(**options)

    def show(self, name: str) -> ConnectorRecord:
        """The connector, without its secrets.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self._catalog.connector_record(name)

    def test(self, name: str) -> ConnectorTest:
        """Try each prerequisite of the source and store the outcome.

        Raises:
            NotFoundError: there is none of that name.
            ConfigurationError: a secret cannot be resolved.
        """
        checks = self._catalog.connector(name).check()
        record = self._catalog.record_test(name, checks)
        return ConnectorTest(connector=name, ok=record.status == "active", checks=tuple(checks), record=record)

    def test_config(self, type: str, config: Mapping[str, Any]) -> ConnectorTest:
        """Try a config that is not stored.

        Raises:
            ConfigurationError: type or config is wrong.
        """
        checks = self._catalog.trial_connector(type, config).check()
        return ConnectorTest(connector="", ok=all(check.ok for check in checks), checks=tuple(checks))

    def discover(self, name: str, tables: Sequence[str] | None = None) -> Sequence[SourceTable]:
        """The source's tables with columns, keys and possible cursors.

        Raises:
            NotFoundError: there is no such connector or table.
            SourceUnreachableError, SourceAccessError: the source does not let them be listed.
        """
        return self._catalog.connector(name).discover(tables)

    def followed(self, name: str) -> dict[str, Watermark]:
        """The committed watermarks of the connector's tables that are followed in mode ``cdc``."""
        from assets.change_capture import follows
        from assets.lakehouse.interface import TableId

        lakehouse = self._headrace._lakehouse()
        names = [run.table for run in self._catalog.latest_table_runs(name)]
        states = {table: lakehouse.state(TableId(layer="bronze", connector=name, table=table)) for table in names}
        found = {table: state.watermark for table, state in states.items() if state is not None}
        return {table: watermark for table, watermark in found.items() if watermark and follows(watermark)}

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a connector, and what the source keeps for mode ``cdc``; its tables in the lakehouse stay.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: pipelines use it and ``force`` is not set.
            SourceUnreachableError, SourceAccessError: tables are followed and the source cannot be told so.
        """
        self._catalog.connector_record(name)
        if (force or not self._catalog.pipelines(name)) and self.followed(name):
            try:
                self._catalog.connector(name).stop_changes()
            except HeadraceError:
                if not force:
                    raise
        self._catalog.remove_connector(name, force=force)
