"""Agent kits through Python: ``hr.kits.validate``, ``simulate``, ``run``, ``approve``, ``runs``."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.catalog.kit_history import KitRunRecord
from assets.errors import ConflictError, NotFoundError
from assets.kits.model import Decision, Kit, KitResult, KitRun
from assets.sync import Model
from orchestration.kit_simulation import KitSimulation, simulated

if TYPE_CHECKING:
    from orchestration.headrace import Headrace

CANCEL_SECONDS = 60


class KitSummary(Model):
    """One kit file as lists show it."""

    name: str
    file: Path
    objective: str = ""
    steps: int = 0
    triggers: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    problem: str | None = None


def kit_workflow_id(kit: str, run_id: str) -> str:
    """The id of a kit's run: two starts of one run have one effect."""
    from assets.naming import path_part

    return f"kit/{path_part(kit)}/{path_part(run_id)}"


def told_trigger(trigger: Any) -> str:
    """A trigger in words."""
    return trigger.schedule or trigger.event or (f"after {trigger.after_asset}" if trigger.after_asset else "manual")


class Kits:
    """The agent kits of one installation."""

    def __init__(self, headrace: Headrace) -> None:
        self._headrace = headrace

    def list(self) -> list[KitSummary]:
        """All kits, shipped ones and the installation's own, also those that are not valid."""
        from assets.kits.kit_file import KitFileError, kit_files, load_kit

        found = []
        for name, path in sorted(kit_files(self._headrace.settings).items()):
            try:
                kit = load_kit(self._headrace.settings, name)
            except KitFileError as error:
                found.append(KitSummary(name=name, file=path, problem=error.what))
                continue
            found.append(
                KitSummary(
                    name=name,
                    file=path,
                    objective=kit.objective,
                    steps=len(kit.steps),
                    triggers=tuple(told_trigger(trigger) for trigger in kit.triggers),
                    writes=tuple(f"gold.{name}__{table}" for table in kit.constraints.tables.write),
                )
            )
        return found

    def show(self, name: str) -> Kit:
        """One kit.

        Raises:
            NotFoundError: there is none of that name.
            KitFileError: it is not valid; its ``problems`` have lines.
        """
        from assets.kits.kit_file import load_kit

        return load_kit(self._headrace.settings, name)

    def validate(self, kit: str | Path) -> Kit:
        """Check a kit by name, or a file.

        Raises:
            NotFoundError, KitFileError: as in `show`.
        """
        from assets.kits.kit_file import read_kit

        path = Path(kit)
        if path.suffix in (".yaml", ".yml"):
            if not path.is_file():
                raise NotFoundError("there is no such file", where=str(path))
            return read_kit(path.read_text(encoding="utf-8"), str(path))
        return self.show(str(kit))

    def simulate(self, name: str, inputs: dict[str, Any] | None = None) -> KitSimulation:
        """What a run would do: steps, tools, tables and an estimate. Runs nothing.

        Raises:
            NotFoundError, KitFileError, ConfigurationError.
        """
        return simulated(self._headrace, self.validate(name), inputs or {})

    def run(
        self,
        name: str,
        inputs: dict[str, Any] | None = None,
        *,
        wait: bool = True,
        run_id: str | None = None,
        trigger: str = "manual",
    ) -> KitResult | KitRunRecord:
        """Run a kit. Starts the one-machine stack if none runs and this waits.

        Args:
            inputs: values of the kit's inputs.
            wait: False returns as soon as it is started; needs a running stack.
            run_id: identity of the run; a second start of it attaches.
            trigger: who started it.

        Returns:
            The result, or the run's row where this does not wait.

        Raises:
            NotFoundError, KitFileError, ConfigurationError: kit or inputs are wrong.
            BridgeError: Temporal or its worker is missing.
        """
        from assets.kits.steps import checked_inputs
        from orchestration.dataset_run import new_run_group

        kit = self.show(name)
        run = KitRun(
            kit=kit, run_id=run_id or new_run_group(), inputs=checked_inputs(kit, inputs or {}), trigger=trigger
        )
        return self._start(run, wait)

    def rerun(self, run_id: str, from_step: str | None = None, *, wait: bool = True) -> KitResult | KitRunRecord:
        """Do a run again, with the same inputs and the kit as it was then.

        Args:
            run_id: the earlier run.
            from_step: what comes before this step is taken from the earlier run; default: everything is done again.
            wait: as in `run`.
        """
        from orchestration.dataset_run import new_run_group

        earlier = self._headrace.catalog.kit_run(run_id)
        kit = Kit.model_validate(self._headrace.catalog.kit_definition(run_id))
        if from_step is not None and from_step not in {step.step for step in kit.steps}:
            raise NotFoundError(f"the kit has no step {from_step}", where=kit.name)
        run = KitRun(
            kit=kit,
            run_id=new_run_group(),
            inputs=earlier.inputs,
            trigger="rerun",
            earlier=run_id if from_step else None,
            from_step=from_step,
        )
        return self._start(run, wait)

    def _start(self, run: KitRun, wait: bool) -> KitResult | KitRunRecord:
        from orchestration.dataset_run import temporal_in_use
        from temporal_bridge.workflows.agent_kit import AgentKitExecutionWorkflow

        settings, catalog = self._headrace.settings, self._headrace.catalog
        with temporal_in_use(settings, may_start=wait) as (client, _):
            workflow_id = kit_workflow_id(run.kit.name, run.run_id)
            catalog.begin_kit_run(run, workflow_id)
            started = client.start_workflow(
                AgentKitExecutionWorkflow,
                run,
                id=workflow_id,
                task_queue=settings.task_queue,
                summary=f"{run.kit.name}: {run.kit.objective}"[:200],
            )
            return client.wait(started) if wait else catalog.kit_run(run.run_id)

    def approve(
        self, run_id: str, *, approve: bool = True, by: str | None = None, note: str = "", step: str | None = None
    ) -> str:
        """Decide about the step that waits.

        Args:
            approve: False refuses it: the run stops there.
            by: who decides; default: the user of this process.
            note: kept with a refusal.
            step: default: the step that waits.

        Raises:
            ConflictError: nothing waits.
            BridgeError: the workflow refused the decision, and why.
        """
        record = self._headrace.catalog.kit_run(run_id)
        if record.waiting is None or record.workflow_id is None:
            raise ConflictError("this run waits for no approval", where=run_id, remedy="See: headrace kits runs")
        decision = Decision(step=step or record.waiting["step"], by=by or getpass.getuser(), approve=approve, note=note)
        with self._headrace.temporal() as client:
            answer = str(client.update(record.workflow_id, "decide", decision))
        self._headrace.catalog.set_kit_waiting(run_id, None)
        return answer

    def cancel(self, run_id: str) -> KitRunRecord:
        """Cancel a run and wait for its clean-up; one that has ended stays as it is."""
        record = self._headrace.catalog.kit_run(run_id)
        if record.status == "running" and record.workflow_id:
            with self._headrace.temporal() as client:
                client.cancel_latest_and_wait(record.workflow_id, CANCEL_SECONDS)
        return self._headrace.catalog.kit_run(run_id)

    def runs(self, name: str | None = None, *, open_only: bool = False, limit: int = 50) -> Any:
        """The latest runs, newest first."""
        return self._headrace.catalog.kit_runs(name, open_only=open_only, limit=limit)

    def outputs(self, run_id: str) -> Any:
        """What each step's items brought."""
        self._headrace.catalog.kit_run(run_id)
        return [output for output in self._headrace.catalog.kit_outputs(run_id) if output.item >= 0]
