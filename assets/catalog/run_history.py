"""The rows of runs and of their tables. Every row reaches a terminal state: by its end, or by `reconcile`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Select, func, select

from assets.catalog.models import RunRow, TableRunRow, now
from assets.catalog.records import TERMINAL, RunRecord, TableRunRecord
from assets.errors import NotFoundError, TableHeldError
from assets.naming import workflow_id as table_workflow_id
from assets.sync import TableResult, TableSync

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

ABANDONED_AFTER = timedelta(minutes=1)
"""A run whose workflow is not there yet is being started; after this silence it is not."""
UNKNOWN_ABANDONED_AFTER = timedelta(minutes=10)
"""The same where no workflow was named (Dagster names one a table later); longer than the wait for a worker."""
MAX_TEXT = 8_000
_RESULT_COLUMNS = (
    "mode",
    "status",
    "window_low",
    "window_high",
    "rows_read",
    "rows_bronze",
    "rows_silver",
    "rows_deleted",
    "bytes",
    "equal",
    "watermark_before",
    "watermark_after",
)

Alive = Callable[[str], str | None]


class RunHistory(ABC):
    """Base of `assets.catalog.store.Catalog`: what ran, and how it ended."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Session]: ...

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Session]: ...

    # write

    def begin_run(
        self,
        run_group: str,
        connector: str,
        pipeline: str | None = None,
        trigger: str = "manual",
        tables: Sequence[str] = (),
        workflow_id: str | None = None,
        dagster_run_id: str | None = None,
        deferred: bool = False,
    ) -> None:
        """Open the run's row, or add to it. The run ends by itself when all its tables have ended.

        Args:
            run_group: identity of the run; begun twice it is one run.
            tables: the tables that it will sync; more may come by `begin_table_run`.
            workflow_id: the workflow that carries the run.
            deferred: no Dagster run reports its tables; `ended_table_runs` tells the sensor that does.
        """
        with self._writing() as session:
            run = _open_run(session, run_group, connector, pipeline, trigger)
            run.pipeline = run.pipeline or pipeline
            run.workflow_id = workflow_id or run.workflow_id
            run.dagster_run_id = dagster_run_id or run.dagster_run_id
            run.deferred = run.deferred or deferred
            _add_tables(run, tables)
            _close_if_done(session, run)

    def begin_table_run(self, work: TableSync, workflow_id: str | None = None) -> None:
        """Open the table's row. A row that failed is opened again; one that succeeded stays as it is.

        Another run's open row of this table is closed: a table's syncs exclude each other, so that run is over.

        Raises:
            TableHeldError: a run that syncs many tables in one workflow has claimed it.
        """
        with self._writing() as session:
            run = _open_run(session, work.run_group, work.connector, work.pipeline, work.trigger)
            run.dagster_run_id = run.dagster_run_id or work.dagster_run_id
            _add_tables(run, [work.table])
            row = _table_row(session, work.run_group, work.connector, work.table)
            if row is None:
                session.add(_new_table_row(work, workflow_id))
            elif row.status not in ("succeeded", "skipped"):
                _reopen(row, workflow_id)
            session.flush()
            stale = session.scalars(
                select(TableRunRow).where(
                    TableRunRow.connector == work.connector,
                    TableRunRow.table_name == work.table,
                    TableRunRow.status == "running",
                    TableRunRow.run_group != work.run_group,
                )
            ).all()
            for other in stale:
                own_id = table_workflow_id(other.connector, other.table_name)
                if other.workflow_id not in (None, workflow_id, own_id):  # a claim: `assets.catalog.run_claims`
                    raise TableHeldError(
                        f"run {other.run_group} is syncing this table", where=f"{work.connector}/{work.table}"
                    )
                _abandon(other, f"the run ended without a report; run {work.run_group} followed it")
            _close_if_done(session, run)
            session.flush()
            for run_group in sorted({other.run_group for other in stale}):
                _close_if_done(session, session.get(RunRow, run_group))

    def end_table_run(self, result: TableResult, work: TableSync) -> None:
        """Close the table's row with its result, and the run's row with its last table. A success is never undone."""
        with self._writing() as session:
            run = _open_run(session, work.run_group, work.connector, work.pipeline, work.trigger)
            _end_row(session, run, result, work)
            session.flush()
            _close_if_done(session, run)

    def end_run(self, run_group: str, error: str | None = None) -> None:
        """Close the run and whatever of its tables has not ended.

        Args:
            error: why the run as a whole failed, if it did.

        Raises:
            NotFoundError: there is no such run.
        """
        with self._writing() as session:
            run = session.get(RunRow, run_group, with_for_update=True)
            if run is None:
                raise NotFoundError(f"there is no run {run_group!r}.")
            _end_run(session, run, error or "the run ended before this table did")
            if error:
                run.status, run.error = "failed", error[:MAX_TEXT]

    def reconcile(self, alive: Alive, *, abandoned_after: timedelta | None = None) -> int:
        """Close the rows of runs whose workflow is gone. Returns how many tables and runs were closed.

        Args:
            alive: the status of the workflow with that id (``running``, ...), or None if there is none. It is called
                outside any transaction; what it raises is passed on and nothing is closed.
            abandoned_after: silence after which a run that nothing carries is given up; default: a minute, ten where
                no workflow of it was named.
        """
        with self._reading() as session:
            tables = [
                (row.id, row.workflow_id or table_workflow_id(row.connector, row.table_name))
                for row in session.scalars(select(TableRunRow).where(TableRunRow.status == "running"))
            ]
            runs = [(row.run_group, row.workflow_id) for row in session.scalars(_open_runs())]
        ids = {workflow for _, workflow in tables} | {workflow for _, workflow in runs if workflow}
        running = {workflow for workflow in sorted(ids) if (alive(workflow) or "").lower() == "running"}
        closed = 0
        with self._writing() as session:
            for row_id, workflow in tables:
                row = session.get(TableRunRow, row_id, with_for_update=True)
                if row is not None and row.status == "running" and workflow not in running:
                    _abandon(row, "the workflow is gone: it was terminated, or its server lost it")
                    closed += 1
            session.flush()
            for run_group, workflow in runs:
                run = session.get(RunRow, run_group, with_for_update=True)
                if run is None or run.status in TERMINAL or workflow in running:
                    continue
                rows = _table_rows(session, run_group)
                if any(row.status == "running" for row in rows):
                    continue
                last = max([run.started_at, *(row.completed_at or row.started_at for row in rows)])
                if _close_if_done(session, run):
                    closed += 1
                elif now() - last >= (abandoned_after if abandoned_after is not None else _patience(workflow)):
                    _end_run(session, run, "the workflow ended before this table was synced")
                    closed += 1
        return closed

    # read

    def run(self, run_group: str) -> RunRecord:
        """One run with its tables.

        Raises:
            NotFoundError: there is no such run.
        """
        with self._reading() as session:
            row = session.get(RunRow, run_group)
            if row is None:
                raise NotFoundError(f"there is no run {run_group!r}.")
            return _run_record(session, row)

    def ended_tables(self, run_group: str) -> int:
        """How many tables of a run have ended."""
        query = select(func.count()).where(TableRunRow.run_group == run_group, TableRunRow.status != "running")
        with self._reading() as session:
            return session.scalar(query) or 0

    def runs(
        self, *, connector: str | None = None, pipeline: str | None = None, open_only: bool = False, limit: int = 50
    ) -> list[RunRecord]:
        """The latest runs with their tables, newest first."""
        query = _open_runs() if open_only else select(RunRow)
        if connector is not None:
            query = query.where(RunRow.connector == connector)
        if pipeline is not None:
            query = query.where(RunRow.pipeline == pipeline)
        with self._reading() as session:
            rows = session.scalars(query.order_by(RunRow.started_at.desc(), RunRow.run_group.desc()).limit(limit))
            return [_run_record(session, row) for row in rows.all()]

    def table_runs(self, connector: str, table: str | None = None, *, limit: int = 100) -> list[TableRunRecord]:
        """The latest runs of a connector's tables, or of one table, newest first."""
        query = select(TableRunRow).where(TableRunRow.connector == connector)
        if table is not None:
            query = query.where(TableRunRow.table_name == table)
        with self._reading() as session:
            rows = session.scalars(query.order_by(TableRunRow.started_at.desc(), TableRunRow.id.desc()).limit(limit))
            return [_table_run_record(row) for row in rows]

    def last_table_run(self, connector: str, table: str) -> TableRunRecord | None:
        """The table's latest run that succeeded, else none."""
        query = (
            select(TableRunRow)
            .where(
                TableRunRow.connector == connector,
                TableRunRow.table_name == table,
                TableRunRow.status == "succeeded",
            )
            .order_by(TableRunRow.started_at.desc(), TableRunRow.id.desc())
            .limit(1)
        )
        with self._reading() as session:
            row = session.scalars(query).first()
            return _table_run_record(row) if row else None

    def ended_table_runs(self, since: datetime, *, limit: int = 500) -> list[tuple[int, TableRunRecord]]:
        """Tables that ended after ``since`` in runs that no Dagster run reports, oldest first, with their row's id."""
        query = (
            select(TableRunRow)
            .join(RunRow, RunRow.run_group == TableRunRow.run_group)
            .where(
                TableRunRow.completed_at > since,
                TableRunRow.status.in_(sorted(TERMINAL)),
                RunRow.deferred | RunRow.dagster_run_id.is_(None),
            )
            .order_by(TableRunRow.completed_at, TableRunRow.id)
            .limit(limit)
        )
        with self._reading() as session:
            return [(row.id, _table_run_record(row)) for row in session.scalars(query)]

    def failed_deferred_runs(self, since: datetime, *, limit: int = 50) -> list[RunRecord]:
        """Deferred runs that failed after ``since``, oldest first, with their tables."""
        query = (
            select(RunRow)
            .where(RunRow.deferred, RunRow.status == "failed", RunRow.completed_at > since)
            .order_by(RunRow.completed_at)
            .limit(limit)
        )
        with self._reading() as session:
            return [_run_record(session, row) for row in session.scalars(query)]

    def failed_table_runs(self, since: datetime, *, limit: int = 50) -> list[TableRunRecord]:
        """Tables that failed after ``since``, oldest first."""
        query = (
            select(TableRunRow)
            .where(TableRunRow.status == "failed", TableRunRow.completed_at > since)
            .order_by(TableRunRow.completed_at, TableRunRow.id)
            .limit(limit)
        )
        with self._reading() as session:
            return [_table_run_record(row) for row in session.scalars(query)]

    def latest_table_runs(self, connector: str | None = None) -> list[TableRunRecord]:
        """The latest run of each table that ever ran, however it ended, by connector and table."""
        place = func.row_number().over(
            partition_by=(TableRunRow.connector, TableRunRow.table_name),
            order_by=(TableRunRow.started_at.desc(), TableRunRow.id.desc()),
        )
        ranked = select(TableRunRow.id, place.label("place"))
        if connector is not None:
            ranked = ranked.where(TableRunRow.connector == connector)
        ranked_rows = ranked.subquery()
        query = (
            select(TableRunRow)
            .join(ranked_rows, ranked_rows.c.id == TableRunRow.id)
            .where(ranked_rows.c.place == 1)
            .order_by(TableRunRow.connector, TableRunRow.table_name)
        )
        with self._reading() as session:
            return [_table_run_record(row) for row in session.scalars(query)]


_IDENTITY = {"connector", "table", "run_group", "pipeline", "trigger", "dagster_run_id"}


def _patience(workflow: str | None) -> timedelta:
    return ABANDONED_AFTER if workflow else UNKNOWN_ABANDONED_AFTER


def _open_runs() -> Select[RunRow]:
    return select(RunRow).where(RunRow.status == "running")


def _open_run(session: Session, run_group: str, connector: str, pipeline: str | None, trigger: str) -> RunRow:
    """The run's row, locked, so that of two tables that end at once one sees the other."""
    run = session.get(RunRow, run_group, with_for_update=True)
    if run is not None:
        return run
    values = {
        "run_group": run_group,
        "connector": connector,
        "pipeline": pipeline,
        "trigger": trigger,
        "status": "running",
        "deferred": False,
        "tables": [],
        "started_at": now(),
    }
    if session.get_bind().dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    session.execute(insert(RunRow).values(values).on_conflict_do_nothing())
    run = session.get(RunRow, run_group, with_for_update=True)
    assert run is not None
    return run


def _add_tables(run: RunRow, tables: Sequence[str]) -> None:
    added = [table for table in dict.fromkeys(tables) if table not in run.tables]
    if added:
        run.tables = [*run.tables, *added]


def _table_row(session: Session, run_group: str, connector: str, table: str) -> TableRunRow | None:
    return session.scalars(
        select(TableRunRow).where(
            TableRunRow.run_group == run_group, TableRunRow.connector == connector, TableRunRow.table_name == table
        )
    ).one_or_none()


def _end_row(session: Session, run: RunRow, result: TableResult, work: TableSync) -> None:
    _add_tables(run, [work.table])
    row = _table_row(session, work.run_group, work.connector, work.table)
    if row is None:
        row = _new_table_row(work, result.workflow_id)
        session.add(row)
    if row.status != "succeeded" or result.status == "succeeded":
        for column in _RESULT_COLUMNS:
            setattr(row, column, getattr(result, column))
        row.error = result.error[:MAX_TEXT] if result.error else None
        row.error_type = result.error_type
        row.workflow_id = result.workflow_id or row.workflow_id
        row.completed_at = result.completed_at or now()
        row.result = result.model_dump(mode="json")


def _reopen(row: TableRunRow, workflow_id: str | None) -> None:
    row.status, row.completed_at, row.error, row.error_type, row.result = "running", None, None, None, None
    row.workflow_id = workflow_id or row.workflow_id


def _table_rows(session: Session, run_group: str) -> Sequence[TableRunRow]:
    return session.scalars(
        select(TableRunRow).where(TableRunRow.run_group == run_group).order_by(TableRunRow.table_name)
    ).all()


def _new_table_row(work: TableSync, workflow_id: str | None) -> TableRunRow:
    return TableRunRow(
        run_group=work.run_group,
        connector=work.connector,
        table_name=work.table,
        status="running",
        rows_read=0,
        rows_bronze=0,
        rows_silver=0,
        rows_deleted=0,
        bytes=0,
        workflow_id=workflow_id,
        started_at=now(),
        options=work.model_dump(mode="json", exclude=_IDENTITY, exclude_defaults=True),
    )


def _abandon(row: TableRunRow, error: str) -> None:
    row.status, row.error, row.error_type, row.completed_at = "failed", error, "Abandoned", now()
    result = TableResult(
        connector=row.connector,
        table=row.table_name,
        status="failed",
        error=error,
        error_type="Abandoned",
        workflow_id=row.workflow_id,
        run_group=row.run_group,
        started_at=row.started_at,
        completed_at=row.completed_at,
    )
    row.result = result.model_dump(mode="json")


def _close_if_done(session: Session, run: RunRow | None) -> bool:
    """Set the run's status by its tables: closed when all have ended, open again when one began again."""
    if run is None:
        return False
    columns = (TableRunRow.table_name, TableRunRow.status, TableRunRow.completed_at)  # not the results: they are large
    rows = session.execute(select(*columns).where(TableRunRow.run_group == run.run_group)).all()
    ended = {row.table_name: row.status for row in rows if row.status in TERMINAL}
    if not run.tables or any(table not in ended for table in run.tables):
        run.status, run.completed_at, run.error = "running", None, None
        return False
    _close(run, list(ended.values()), max([_instant(row.completed_at) for row in rows]))
    return True


def _end_run(session: Session, run: RunRow, error: str) -> None:
    rows = {row.table_name: row for row in _table_rows(session, run.run_group)}
    for table in run.tables:
        row = rows.get(table)
        if row is None:
            row = _new_table_row(TableSync(connector=run.connector, table=table, run_group=run.run_group), None)
            session.add(row)
            rows[table] = row
        if row.status not in TERMINAL:
            _abandon(row, error)
    _close(run, [row.status for row in rows.values()], now())


def _close(run: RunRow, statuses: list[str], completed_at: datetime) -> None:
    failed = sum(status == "failed" for status in statuses)
    if failed:
        run.status, run.error = "failed", f"{failed} of {len(statuses)} tables failed"
    else:
        skipped = bool(statuses) and all(status == "skipped" for status in statuses)
        run.status, run.error = ("skipped" if skipped else "succeeded"), None
    run.completed_at = completed_at


def _instant(value: datetime | None) -> datetime:
    return value or now()


def _table_run_record(row: TableRunRow) -> TableRunRecord:
    fields = {
        name: getattr(row, name) for name in TableRunRecord.model_fields if name not in ("table", "result", "options")
    }
    result = TableResult.model_validate(row.result) if row.result else None
    return TableRunRecord(**fields, table=row.table_name, result=result, options=row.options or {})


def _run_record(session: Session, row: RunRow) -> RunRecord:
    fields = {name: getattr(row, name) for name in RunRecord.model_fields if name not in ("tables", "table_runs")}
    tables = tuple(_table_run_record(table) for table in _table_rows(session, row.run_group))
    return RunRecord(**fields, tables=tuple(row.tables), table_runs=tables)
