"""The rows of agent kits' runs, and the outputs of their steps: each stored once, before it is used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError

from assets.catalog.models import KitOutputRow, KitRunRow, now
from assets.errors import NotFoundError
from assets.kits.model import KitResult, KitRun, KitStatus
from assets.sync import Model

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

PLAN = -1
MAX_ERROR = 4_000
OPEN: tuple[KitStatus, ...] = ("running",)


class KitOutput(Model):
    """The stored output of one item."""

    step: str
    item: int
    ok: bool
    output: dict[str, Any] | None = None
    error: str | None = None
    tokens: int = 0
    cost: float = 0


class KitRunRecord(Model):
    """One run as lists show it."""

    run_id: str
    kit: str
    status: KitStatus
    trigger: str
    inputs: dict[str, Any]
    workflow_id: str | None = None
    dagster_run_id: str | None = None
    waiting: dict[str, Any] | None = None
    result: KitResult | None = None
    error: str | None = None
    started_at: datetime
    completed_at: datetime | None = None


class KitHistory(ABC):
    """Part of `assets.catalog.store.Catalog`."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Session]: ...

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Session]: ...

    def begin_kit_run(self, run: KitRun, workflow_id: str | None = None) -> None:
        """Open the run's row; a repeat changes nothing but the workflow's id."""
        with self._writing() as session:
            row = session.get(KitRunRow, run.run_id, with_for_update=True)
            if row is None:
                row = KitRunRow(
                    run_id=run.run_id,
                    kit=run.kit.name,
                    definition=run.kit.model_dump(mode="json", by_alias=True, exclude_defaults=True),
                    inputs=run.inputs,
                    trigger=run.trigger,
                    status="running",
                    dagster_run_id=run.dagster_run_id,
                    started_at=now(),
                )
                session.add(row)
            elif row.status != "succeeded":
                row.status, row.completed_at, row.error, row.result = "running", None, None, None
            row.workflow_id = workflow_id or row.workflow_id

    def end_kit_run(self, run_id: str, result: KitResult) -> None:
        """Close the run's row. A success is never undone."""
        with self._writing() as session:
            row = session.get(KitRunRow, run_id, with_for_update=True)
            if row is None:
                raise NotFoundError("there is no such kit run", where=run_id)
            if row.status == "succeeded":
                return
            row.status, row.completed_at, row.waiting = result.status, now(), None
            row.error = result.reason[:MAX_ERROR] if result.status != "succeeded" else None
            row.result = result.model_dump(mode="json")

    def set_kit_waiting(self, run_id: str, waiting: dict[str, Any] | None) -> None:
        """Note which approval a run waits for, or that it waits no more."""
        with self._writing() as session:
            row = session.get(KitRunRow, run_id, with_for_update=True)
            if row is not None:
                row.waiting = waiting

    def kit_run(self, run_id: str) -> KitRunRecord:
        """One run.

        Raises:
            NotFoundError: there is none.
        """
        with self._reading() as session:
            row = session.get(KitRunRow, run_id)
            if row is None:
                raise NotFoundError("there is no such kit run", where=run_id, remedy="See: headrace kits runs")
            return _record(row)

    def kit_definition(self, run_id: str) -> dict[str, Any]:
        """The kit as it was when the run started."""
        with self._reading() as session:
            row = session.get(KitRunRow, run_id)
            if row is None:
                raise NotFoundError("there is no such kit run", where=run_id, remedy="See: headrace kits runs")
            return dict(row.definition)

    def kit_runs(self, kit: str | None = None, *, open_only: bool = False, limit: int = 50) -> list[KitRunRecord]:
        """The latest runs, newest first."""
        query = select(KitRunRow)
        if kit is not None:
            query = query.where(KitRunRow.kit == kit)
        if open_only:
            query = query.where(KitRunRow.status.in_(OPEN))
        with self._reading() as session:
            rows = session.scalars(query.order_by(KitRunRow.started_at.desc(), KitRunRow.run_id.desc()).limit(limit))
            return [_record(row) for row in rows]

    def kit_gold_tables(self) -> list[tuple[str, str]]:
        """The Gold tables that kits may have written: kit and table, from each kit's latest run."""
        newest = select(func.max(KitRunRow.started_at)).group_by(KitRunRow.kit)
        query = select(KitRunRow.kit, KitRunRow.definition).where(KitRunRow.started_at.in_(newest)).limit(10_000)
        found: dict[tuple[str, str], None] = {}
        with self._reading() as session:
            for kit, definition in session.execute(query):
                written = definition.get("constraints", {}).get("tables", {}).get("write", ())
                found.update(dict.fromkeys((kit, name) for name in written))
        return list(found)

    # outputs

    def kit_output(self, run_id: str, step: str, item: int) -> KitOutput | None:
        with self._reading() as session:
            row = session.scalar(_outputs(run_id).where(KitOutputRow.step == step, KitOutputRow.item == item))
            return _output(row) if row else None

    def kit_outputs(self, run_id: str, steps: Sequence[str] | None = None) -> list[KitOutput]:
        """All stored outputs of a run, by step and item."""
        query = _outputs(run_id)
        if steps is not None:
            query = query.where(KitOutputRow.step.in_(list(steps)))
        with self._reading() as session:
            return [_output(row) for row in session.scalars(query.order_by(KitOutputRow.step, KitOutputRow.item))]

    def store_kit_output(self, run_id: str, output: KitOutput) -> KitOutput:
        """Store an output unless one is stored already; returns the one that is stored: the first one counts.

        A failed output is replaced by a later one.
        """
        try:
            with self._writing() as session:
                query = _outputs(run_id).where(KitOutputRow.step == output.step, KitOutputRow.item == output.item)
                row = session.scalar(query.with_for_update())
                if row is not None and row.ok:
                    return _output(row)
                if row is None:
                    row = KitOutputRow(run_id=run_id, step=output.step, item=output.item)
                    session.add(row)
                row.ok, row.output, row.stored_at = output.ok, output.output, now()
                row.error = output.error[:MAX_ERROR] if output.error else None
                row.tokens, row.cost = output.tokens, output.cost
                session.flush()
        except IntegrityError:  # a rival stored it between our look and our insert
            stored = self.kit_output(run_id, output.step, output.item)
            assert stored is not None
            return stored
        return output

    def drop_kit_outputs(self, run_id: str, step: str) -> None:
        """Forget a step's outputs, so that it is planned anew."""
        with self._writing() as session:
            session.execute(delete(KitOutputRow).where(KitOutputRow.run_id == run_id, KitOutputRow.step == step))


def _outputs(run_id: str) -> Any:
    return select(KitOutputRow).where(KitOutputRow.run_id == run_id)


def _record(row: KitRunRow) -> KitRunRecord:
    fields = {name: getattr(row, name) for name in KitRunRecord.model_fields if name != "result"}
    result = KitResult.model_validate(row.result) if row.result else None
    return KitRunRecord(**fields, result=result)


def _output(row: KitOutputRow) -> KitOutput:
    return KitOutput(**{name: getattr(row, name) for name in KitOutput.model_fields})
