"""The Python API: connectors, pipelines, sync, verify, tables. The command line prints what it returns."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from assets.catalog.records import RunRecord, TableRunRecord
from assets.errors import ConfigurationError, HeadraceError, NotFoundError
from assets.settings import Settings
from assets.sync import (
    Backfill,
    ColumnChoice,
    Deletes,
    DriftPolicy,
    Overlap,
    RequestedMode,
    TableSync,
    VerifyLevel,
    VerifyResult,
    WriteMode,
)
from orchestration.connector_logins import ConnectorLogins
from orchestration.connectors import Connectors
from orchestration.datasets import Datasets
from orchestration.kits import Kits
from orchestration.knowledge import Knowledge
from orchestration.lakehouses import LakehouseAdministration
from orchestration.pipelines import Pipelines
from orchestration.reports import (
    PLANNED_RUN,
    DoctorReport,
    PlanReport,
    Progress,
    StatusReport,
    SyncReport,
    TableInfo,
)

if TYPE_CHECKING:
    from assets.catalog.store import Catalog
    from assets.catalog.table_states import TableState
    from assets.lakehouse.interface import Lakehouse
    from orchestration.runs import Run
    from temporal_bridge.client import TemporalClient


class Headrace:
    """One installation: everything it writes is in its home.

    Args:
        home: folder of the installation; default: ``HEADRACE_HOME``, else ``.headrace``.
        settings: all settings; default: from ``HEADRACE_*`` environment variables.

    Example:
        hr = Headrace(home=".headrace")
        hr.connectors.add("shop", type="postgres", config={"host": "127.0.0.1", "database": "shop", "user": "reader"})
        for table in hr.sync("shop"):
            print(table.table, table.status, table.equal)
    """

    def __init__(self, home: str | Path | None = None, settings: Settings | None = None) -> None:
        if settings is None:
            settings = Settings(home=Path(home)) if home is not None else Settings()
        elif home is not None:
            settings = settings.model_copy(update={"home": Path(home)})
        self.settings = settings
        self._catalog: Catalog | None = None
        self._lock = threading.Lock()
        self.connectors = Connectors(self)
        self.datasets = Datasets(self)
        self.logins = ConnectorLogins(self)
        self.pipelines = Pipelines(self)
        self.knowledge = Knowledge(self)
        self.kits = Kits(self)
        self.lakehouse = LakehouseAdministration(self)

    @property
    def catalog(self) -> Catalog:
        """The installation's catalog, opened on first use."""
        from assets.catalog.store import Catalog

        with self._lock:
            if self._catalog is None:
                self._catalog = Catalog.from_settings(self.settings)
            return self._catalog

    def _lakehouse(self) -> Lakehouse:
        from assets.lakehouse.interface import open_lakehouse

        return open_lakehouse(self.settings)

    # the main job

    def sync(
        self,
        connector: str,
        tables: Sequence[str] | None = None,
        mode: RequestedMode | None = None,
        deletes: Deletes | None = None,
        wait: bool = True,
        *,
        cursor: str | None = None,
        key: Sequence[str] | None = None,
        verify: VerifyLevel = "counts",
        write: WriteMode | None = None,
        drift: DriftPolicy | None = None,
        columns: ColumnChoice | Mapping[str, Any] | None = None,
        row_filter: str | None = None,
        fill_added: bool = False,
        backfill: tuple[str | None, str | None] | None = None,
        reset: bool = False,
        progress: Progress | None = None,
    ) -> SyncReport:
        """Bring tables to Bronze and Silver and prove them. Starts the one-machine stack if none runs.

        Args:
            tables: names as ``discover`` prints them; default: all tables (views only when named).
            mode: ``full`` or ``incremental``; default: incremental where the source allows it. A table without key or
                cursor syncs in full, and its ``reason`` says why.
            deletes: ``keys`` finds rows that left the source.
            wait: False returns as soon as the work is started; needs a running stack.
            cursor, key: columns of the named tables; default: found in the source.
            verify: how much is compared after the load.
            write, drift, columns, row_filter, fill_added: see `assets.sync.TableOptions` and docs/tables.md.
            backfill: cursor values ``(from, to)`` to read again, both included, None for open; the watermark stays.
            reset: start the named tables anew: read in full, swapped in atomically, with a new watermark. Their
                options stay.
            progress: called about once a second.

        Returns:
            A report with one result a table; a table that failed has status ``failed`` and its error there.

        Raises:
            NotFoundError: there is no such connector.
            ConfigurationError: the stored config, or a reference in it, is wrong.
            SourceUnreachableError, SourceAccessError: the source does not let its tables be listed.
            BridgeError: Temporal or its worker is missing.
        """
        from orchestration.dataset_run import new_run_group

        run_group = new_run_group()
        works = self._works(
            connector,
            tables,
            run_group,
            mode=mode or "auto",
            deletes=deletes or "none",
            cursor=cursor,
            key=tuple(key) if key else None,
            verify=verify,
            write=write,
            drift=drift,
            columns=columns,
            row_filter=row_filter,
            fill_added=fill_added,
            backfill=backfill and Backfill(low=backfill[0], high=backfill[1]),
            reset=reset,
        )
        return self._run(connector, run_group, works, wait, progress)

    def plan(self, connector: str, tables: Sequence[str] | None = None, **options: Any) -> PlanReport:
        """Say what `sync` with the same options would do, table by table. Nothing runs, nothing is written.

        The source is asked for its catalogue and for estimates, the lakehouse for the tables' state. ``backfill`` is a
        pair as in `sync`.

        Returns:
            One plan a table: mode and why, window, estimated rows and bytes, statements on the source and on the
            lakehouse. A table that would be refused has the error in its plan.

        Raises:
            NotFoundError, ConfigurationError, SourceUnreachableError, SourceAccessError: as `sync`.
        """
        options = {name: value for name, value in options.items() if value is not None}
        if backfill := options.get("backfill"):
            options["backfill"] = Backfill(low=backfill[0], high=backfill[1])
        return self._planned(connector, self._works(connector, tables, PLANNED_RUN, **options))

    def _planned(self, connector: str, works: Sequence[TableSync]) -> PlanReport:
        from assets.table_planning import plan_table

        lakehouse = self._lakehouse()
        plans = [plan_table(self.settings, self.catalog, lakehouse, work) for work in works]
        return PlanReport(connector=connector, lakehouse=self.settings.lakehouse, tables=tuple(plans))

    def _works(self, connector: str, tables: Sequence[str] | None, run_group: str, **options: Any) -> list[TableSync]:
        """One work a table.

        Raises:
            ConfigurationError: the options contradict each other, or belong to named tables.
        """
        of_named = ("cursor", "key", "columns", "row_filter", "backfill", "reset")
        if any(options.get(name) for name in of_named) and not tables:
            raise ConfigurationError(
                "a cursor, a key, columns, a filter, a backfill or a reset belongs to named tables.", where=connector
            )
        given = {"connector": connector, "run_group": run_group} | options
        try:
            return [TableSync.model_validate(given | {"table": t}) for t in self._selected(connector, tables)]
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise ConfigurationError(
                f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}.", where=connector
            ) from None

    def _selected(self, connector: str, tables: Sequence[str] | None) -> list[str]:
        self.catalog.connector_record(connector)
        if tables:
            return list(dict.fromkeys(tables))
        found = self.catalog.connector(connector).discover()
        return [table.name for table in found if table.by_default]

    def _run(
        self,
        connector: str,
        run_group: str,
        works: list[TableSync],
        wait: bool,
        progress: Progress | None,
        overlap: Overlap = "skip",
    ) -> SyncReport:
        from orchestration.dataset_run import DatasetRun, finish_earlier, reconcile, temporal_in_use

        if not works:
            return SyncReport(connector=connector, run_group=run_group, waited=wait)
        with temporal_in_use(self.settings, may_start=wait) as (client, stack):
            reconcile(self.catalog, client)
            if stack.transient:
                finish_earlier(self.catalog, client, connector, [work.table for work in works])
            return DatasetRun(self.settings, self.catalog, works, overlap).run(client, progress, wait)

    def verify(
        self, connector: str, tables: Sequence[str] | None = None, level: VerifyLevel = "counts"
    ) -> list[VerifyResult]:
        """Compare Silver with the source as it is now, in this process.

        Args:
            tables: default: every table that was ever synced.
            level: ``counts``, ``keys`` or ``values``.

        Returns:
            One result a table; where it could not be compared, ``equal`` is None and ``detail`` says why.

        Raises:
            NotFoundError: there is no such connector, or nothing of it was synced yet.
        """
        from assets.steps import SyncSteps
        from assets.verify import verify_table

        self.catalog.connector_record(connector)
        names = list(dict.fromkeys(tables or (row.table for row in self.catalog.latest_table_runs(connector))))
        if not names:
            raise NotFoundError("nothing was synced yet.", where=connector, remedy=f"Run: headrace sync {connector}")
        steps = SyncSteps(self.settings, self.catalog, self._lakehouse())
        results = []
        for table in names:
            try:
                results.append(verify_table(steps, connector, table, level))
            except HeadraceError as error:
                results.append(
                    VerifyResult(connector=connector, table=table, level=level, equal=None, detail=error.text)
                )
        return results

    # what there is

    def run(self, run_group: str) -> Run:
        """One run.

        Raises:
            NotFoundError: there is no such run.
        """
        from orchestration.runs import Run

        return Run(self, self.catalog.run(run_group))

    def table(self, connector: str, table: str) -> TableInfo:
        """One table as it is in the lakehouse.

        Raises:
            NotFoundError: it was never synced.
        """
        for run in self.catalog.table_runs(connector, table, limit=1):
            return self._table_info(self._lakehouse(), run)
        raise NotFoundError(
            "this table was never synced.", where=f"{connector}/{table}", remedy=f"Run: headrace sync {connector}"
        )

    def table_state(self, connector: str, table: str) -> TableState:
        """One table as its latest run left it, and whether that is late.

        Raises:
            NotFoundError: it was never synced.
        """
        state = self.catalog.table_state(connector, table)
        if state is None:
            raise NotFoundError(
                "this table was never synced.", where=f"{connector}/{table}", remedy=f"Run: headrace sync {connector}"
            )
        return state

    def reset_table(self, connector: str, table: str, *, wait: bool = False) -> SyncReport:
        """Start a table anew, with the options of its pipeline, else those of its last run. Raises as `sync` does."""
        from orchestration.dataset_run import new_run_group

        state = self.table_state(connector, table)
        run_group = new_run_group()
        if state.pipeline is not None:
            work = self.catalog.pipeline(state.pipeline).table_sync(table, run_group)
        else:
            (last,) = self.catalog.table_runs(connector, table, limit=1)
            asked = last.options | {"connector": connector, "table": table, "run_group": run_group}
            work = TableSync.model_validate(asked)
        work = work.model_copy(update={"reset": True, "backfill": None})
        return self._run(connector, run_group, [work], wait, None)

    def tables(self, connector: str | None = None) -> list[TableInfo]:
        """Every table that was ever synced: where it is, how many rows, how fresh.

        Raises:
            NotFoundError: there is no such connector.
        """
        if connector is not None:
            self.catalog.connector_record(connector)
        lakehouse = self._lakehouse()
        return [self._table_info(lakehouse, run) for run in self.catalog.latest_table_runs(connector)]

    def _table_info(self, lakehouse: Lakehouse, run: TableRunRecord) -> TableInfo:
        from assets.lakehouse.interface import TableId

        bronze = TableId(layer="bronze", connector=run.connector, table=run.table)
        silver = TableId(layer="silver", connector=run.connector, table=run.table)
        bronze_state, silver_state = lakehouse.state(bronze), lakehouse.state(silver)
        watermark = bronze_state.watermark if bronze_state else None
        proven = self.catalog.last_table_run(run.connector, run.table)
        quarantine = TableId(layer="quarantine", connector=run.connector, table=run.table)
        aside = lakehouse.state(quarantine)
        return TableInfo(
            connector=run.connector,
            table=run.table,
            bronze_uri=lakehouse.uri(bronze) if bronze_state else None,
            silver_uri=lakehouse.uri(silver) if silver_state else None,
            rows=lakehouse.count_live(silver) if silver_state else None,
            watermark=watermark.value if watermark else None,
            last_run=run.completed_at or run.started_at,
            last_status=run.status,
            last_run_group=run.run_group,
            last_error=run.error,
            equal=proven.equal if proven else None,
            write=watermark.shape.write if watermark and watermark.shape else "merge",
            quarantine_uri=lakehouse.uri(quarantine) if aside else None,
            quarantined_values=aside.rows if aside else 0,
        )

    def runs(
        self,
        *,
        connector: str | None = None,
        pipeline: str | None = None,
        open_only: bool = False,
        limit: int = 50,
    ) -> list[Run]:
        """The latest runs, newest first, of whoever started them."""
        from orchestration.runs import Run

        self.reconcile()
        found = self.catalog.runs(connector=connector, pipeline=pipeline, open_only=open_only, limit=limit)
        return [Run(self, record) for record in found]

    def run_again(self, record: RunRecord, tables: Sequence[str], wait: bool) -> SyncReport:
        """Sync tables of an earlier run as a new one: see `orchestration.runs.Run.rerun`."""
        from orchestration.dataset_run import new_run_group

        run_group = new_run_group()
        if record.pipeline is not None:
            pipeline = self.catalog.pipeline(record.pipeline)
            works = [pipeline.table_sync(table, run_group, trigger="rerun") for table in tables]
            return self._run(record.connector, run_group, works, wait, None, pipeline.overlap)
        asked = {row.table: row.options for row in record.table_runs}
        identity = {"connector": record.connector, "run_group": run_group, "trigger": "rerun"}
        works = [TableSync.model_validate(asked.get(table, {}) | identity | {"table": table}) for table in tables]
        return self._run(record.connector, run_group, works, wait, None)

    @contextlib.contextmanager
    def temporal(self) -> Iterator[TemporalClient]:
        """A client of the running stack, or of the server that ``TEMPORAL_ADDRESS`` names.

        Raises:
            BridgeError: there is none.
        """
        from assets.errors import BridgeError
        from orchestration.stack_record import running_stack
        from temporal_bridge.client import TemporalClient

        record = running_stack(self.settings)
        address = os.environ.get("TEMPORAL_ADDRESS") or (record.temporal_address if record else None)
        if address is None:
            raise BridgeError(
                "no stack runs in this home.", where=str(self.settings.home_path), remedy="Start one with: headrace up"
            )
        with TemporalClient(address, connect_seconds=3) as client:
            yield client

    def status(self, recent: int = 10) -> StatusReport:
        """The running stack, the connectors and pipelines, and the latest runs."""
        from orchestration.stack_record import running_stack

        stack = running_stack(self.settings)
        self.reconcile()
        pipelines = self.catalog.pipelines()
        return StatusReport(
            home=self.settings.home_path,
            running=stack is not None or bool(os.environ.get("TEMPORAL_ADDRESS")),
            stack=stack,
            connectors=dict(Counter(record.status for record in self.catalog.connectors())),
            pipelines=dict(Counter("active" if record.active else "paused" for record in pipelines)),
            open_runs=tuple(self.catalog.runs(open_only=True)),
            recent_runs=tuple(self.catalog.runs(limit=recent)),
        )

    def reconcile(self) -> None:
        """Close rows of dead runs where Temporal answers; without it, nothing can be told and rows stay."""
        from assets.errors import BridgeError
        from orchestration.dataset_run import reconcile

        if not self.catalog.runs(open_only=True, limit=1):
            return
        with contextlib.suppress(BridgeError), self.temporal() as client:  # unreachable: the next look does it
            reconcile(self.catalog, client)

    def doctor(self) -> DoctorReport:
        """Try everything that the installation needs on this machine. Connects to no source."""
        from orchestration.doctor import examine

        return examine(self.settings)
