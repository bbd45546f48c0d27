"""Many tables of one run, opened and closed in one transaction. An open row of such a run is the table's lock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from sqlalchemy import select

from assets.catalog import run_history as history
from assets.catalog.models import RunRow, TableRunRow
from assets.sync import TableResult, TableSync

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class RunClaims(ABC):
    """Base of `assets.catalog.store.Catalog`: tables that one workflow syncs together."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Session]: ...

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Session]: ...

    def claim_tables(self, works: Sequence[TableSync], holder: str) -> tuple[set[str], list[TableResult]]:
        """Open the rows of tables of one run that no other run holds, in the name of the workflow ``holder``.

        Returns:
            The tables that are claimed now, and the results of those that this run has synced already. What is in
            neither is held by another run.
        """
        first = works[0]
        by_table = {work.table: work for work in works}
        with self._writing() as session:
            run = history._open_run(session, first.run_group, first.connector, first.pipeline, first.trigger)
            run.dagster_run_id = run.dagster_run_id or first.dagster_run_id
            history._add_tables(run, list(by_table))
            of_these = select(TableRunRow).where(
                TableRunRow.connector == first.connector, TableRunRow.table_name.in_(by_table)
            )
            held = session.scalars(
                of_these.where(TableRunRow.status == "running", TableRunRow.run_group != first.run_group)
            )
            others = {row.table_name for row in held}
            own = {
                row.table_name: row for row in session.scalars(of_these.where(TableRunRow.run_group == run.run_group))
            }
            claimed: set[str] = set()
            done: list[TableResult] = []
            for table, work in by_table.items():
                row = own.get(table)
                if row is not None and row.status == "succeeded" and row.result:
                    done.append(TableResult.model_validate(row.result))
                elif table not in others:
                    claimed.add(table)
                    if row is None:
                        session.add(history._new_table_row(work, holder))
                    else:
                        history._reopen(row, holder)
            session.flush()
            history._close_if_done(session, run)
        return claimed, done

    def holds_table(self, work: TableSync, holder: str) -> bool:
        """Whether the table's row of this run is still open in the name of ``holder``."""
        with self._reading() as session:
            row = history._table_row(session, work.run_group, work.connector, work.table)
            return row is not None and row.status == "running" and row.workflow_id == holder

    def release_tables(self, works: Sequence[TableSync]) -> None:
        """Leave claimed tables to workflows of their own; their rows stay open."""
        with self._writing() as session:
            for work in works:
                row = history._table_row(session, work.run_group, work.connector, work.table)
                if row is not None and row.status == "running":
                    row.workflow_id = None

    def end_table_runs(self, ended: Sequence[tuple[TableResult, TableSync]]) -> None:
        """`end_table_run` of many tables of one run."""
        if not ended:
            return
        with self._writing() as session:
            run: RunRow | None = None
            for result, work in ended:
                run = run or history._open_run(session, work.run_group, work.connector, work.pipeline, work.trigger)
                history._end_row(session, run, result, work)
            session.flush()
            history._close_if_done(session, run)
