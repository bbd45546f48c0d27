"""The lakehouse of one installation: set up, examined, and moved to Databricks when one machine is outgrown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from assets.errors import NotFoundError
from assets.lakehouse.interface import TableId, open_lakehouse
from assets.lakehouse.lakehouse_status import LakehouseStatus, StoredTable

if TYPE_CHECKING:
    from assets.lakehouse.table_copy import CopiedTable
    from orchestration.headrace import Headrace


class LakehouseAdministration:
    """``hr.lakehouse``."""

    def __init__(self, headrace: Headrace) -> None:
        self._headrace = headrace

    def init(self) -> list[str]:
        """Make what is missing: folders, or catalog, schemas and volume. Returns what was made.

        Raises:
            LakehouseError: the workspace does not answer, or denies it.
        """
        return open_lakehouse(self._headrace.settings).initialise()

    def status(self) -> LakehouseStatus:
        """Whether a sync could work: reachability, warehouse, grants; and, on the local engine, every table's format.

        Starts no warehouse.
        """
        lakehouse = open_lakehouse(self._headrace.settings)
        found = lakehouse.examine()
        if self._headrace.settings.lakehouse != "local":
            return found
        tables: list[StoredTable] = []
        for connector, name in self._synced(None):
            for layer in ("bronze", "silver", "quarantine"):
                table = TableId(layer=layer, connector=connector, table=name)
                state = lakehouse.state(table)
                if state is None:
                    continue
                reader, writer = lakehouse.table_format(table) or (None, None)
                facts = state.model_dump(include={"rows", "bytes", "files", "version"})
                tables.append(StoredTable(name=lakehouse.qualified_name(table), reader=reader, writer=writer, **facts))
        return found.model_copy(update={"tables": tuple(tables)})

    def copy(
        self,
        connector: str | None = None,
        tables: Sequence[str] | None = None,
        progress: Callable[[str, int], None] | None = None,
    ) -> Iterator[CopiedTable]:
        """Copy synced tables from the local lakehouse to the Databricks workspace that the settings name.

        Repeat it after a failure: what is there already is compared, not copied. Let no sync run meanwhile; afterwards
        set ``HEADRACE_LAKEHOUSE=databricks``, and syncs go on from the same watermarks.

        Raises:
            NotFoundError: nothing of that name was synced.
            ConflictError, MismatchError, LakehouseError: see `assets.lakehouse.table_copy.copy_tables`.
        """
        from assets.lakehouse.databricks import DatabricksLakehouse
        from assets.lakehouse.local import LocalLakehouse
        from assets.lakehouse.table_copy import copy_tables

        settings = self._headrace.settings
        staging = settings.staging_url if settings.lakehouse == "local" else None
        local = settings.model_copy(update={"lakehouse": "local", "staging_url": staging})
        remote = settings.model_copy(
            update={
                "lakehouse": "databricks",
                "staging_url": settings.staging_url if settings.lakehouse == "databricks" else None,
            }
        )
        known = self._synced(connector)
        wanted = [(c, t) for c, t in known if tables is None or t in tables]
        missing = sorted({*(tables or ())} - {table for _, table in wanted})
        if missing or not wanted:
            raise NotFoundError(
                f"nothing was synced of: {', '.join(missing) or connector or 'any connector'}",
                remedy="See: headrace tables",
            )
        source, target = LocalLakehouse.from_settings(local), DatabricksLakehouse.from_settings(remote)
        target.prepare()
        yield from copy_tables(source, target, wanted, progress)

    def _synced(self, connector: str | None) -> list[tuple[str, str]]:
        if connector is not None:
            self._headrace.catalog.connector_record(connector)
        runs = self._headrace.catalog.latest_table_runs(connector)
        return list(dict.fromkeys((run.connector, run.table) for run in runs))
