"""The steps of a kit's run as plain blocking calls; each may be repeated, its effect happens once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assets.catalog.kit_history import PLAN, KitOutput
from assets.errors import ConfigurationError, NotFoundError
from assets.failpoints import failpoint
from assets.kits.expressions import ExpressionError, evaluate, render
from assets.kits.kit_file import load_kit
from assets.kits.model import (
    MAX_ITEMS,
    ChildWork,
    ItemInput,
    ItemOutcome,
    Kit,
    KitInput,
    KitResult,
    KitRun,
    Step,
    StepInput,
    StepPlan,
    Tool,
)
from assets.kits.tools import ToolError, Tools, bounded, gold_table
from assets.lakehouse.interface import Lakehouse, TableId
from assets.naming import path_part
from assets.settings import Settings

if TYPE_CHECKING:
    from assets.catalog.store import Catalog


def checked_inputs(kit: Kit, given: dict[str, Any]) -> dict[str, Any]:
    """The run's inputs with their defaults.

    Raises:
        ConfigurationError: one is missing, unknown, or of another type.
    """
    unknown = sorted(set(given) - set(kit.inputs))
    if unknown:
        raise ConfigurationError(f"there is no input {unknown[0]}", where=kit.name)
    return {name: _checked(kit, name, spec, given.get(name)) for name, spec in kit.inputs.items()}


def _checked(kit: Kit, name: str, spec: KitInput, value: Any) -> Any:
    where = f"{kit.name}/{name}"
    if value is None:
        if spec.required and spec.default is None:
            raise ConfigurationError("this input is required", where=where, remedy=f"Give it: --input {name}=...")
        return spec.default
    kinds: dict[str, tuple[type, ...]] = {
        "text": (str,),
        "integer": (int,),
        "number": (int, float),
        "boolean": (bool,),
        "list": (list, tuple),
    }
    fits = isinstance(value, kinds[spec.type]) and (spec.type == "boolean" or not isinstance(value, bool))
    if not fits:
        raise ConfigurationError(f"this input is of type {spec.type}", where=where)
    if spec.choices and value not in spec.choices:
        raise ConfigurationError(f"this input is one of {', '.join(map(str, spec.choices))}", where=where)
    return value


class KitSteps:
    """What the activities of ``AgentKitExecutionWorkflow`` call, bound to one installation."""

    def __init__(self, settings: Settings, catalog: Catalog, lakehouse: Lakehouse) -> None:
        self.settings = settings
        self.catalog = catalog
        self.lakehouse = lakehouse
        self._tools = Tools(settings, catalog, lakehouse, self.readable_tables)

    def readable_tables(self) -> list[TableId]:
        """Tables beside those of syncs: the Gold tables of kits, and what knowledge extraction wrote."""
        from assets.kits.knowledge_tool import knowledge_tables

        found = [TableId(layer="gold", connector=kit, table=name) for kit, name in self.catalog.kit_gold_tables()]
        return [*found, *knowledge_tables()]

    # a run

    def begin(self, run: KitRun, workflow_id: str) -> None:
        """Open the run's row; take over the outputs of the run that is done again, up to the step to begin with."""
        self.catalog.begin_kit_run(run, workflow_id)
        if run.earlier is None or run.from_step is None:
            return
        names = [step.step for step in run.kit.steps]
        if run.from_step not in names:
            raise NotFoundError(f"the kit has no step {run.from_step}", where=run.kit.name)
        before = names[: names.index(run.from_step)]
        for output in self.catalog.kit_outputs(run.earlier, before):
            self.catalog.store_kit_output(run.run_id, output.model_copy(update={"tokens": 0, "cost": 0}))

    def plan_step(self, step_input: StepInput) -> StepPlan:
        """Decide once whether the step runs, and for how many items."""
        run, step = step_input.run, _step(step_input.run.kit, step_input.step)
        stored = self.catalog.kit_output(run.run_id, step.step, PLAN)
        if stored is None:
            values = self._values(run)
            items: list[Any] | None = None
            skip = None
            if step.when is not None and not evaluate(step.when, values):
                skip = f"`{step.when}` is not true"
            elif step.for_each is not None:
                found = evaluate(step.for_each, values)
                if not isinstance(found, list | tuple):
                    raise ExpressionError("for_each is no list", where=f"{run.kit.name}/{step.step}")
                if len(found) > MAX_ITEMS:
                    raise ExpressionError(
                        f"for_each has {len(found)} items, {MAX_ITEMS} are allowed", where=f"{run.kit.name}/{step.step}"
                    )
                items = list(found)
                skip = None if items else "there are no items"
            plan = bounded({"skip": skip, "items": items}, f"{run.kit.name}/{step.step}")
            stored = self.catalog.store_kit_output(
                run.run_id, KitOutput(step=step.step, item=PLAN, ok=True, output=plan)
            )
        value = stored.output or {}
        items = value.get("items")
        done = run.from_step is not None and _before(run.kit, step.step, run.from_step)
        return StepPlan(skip=value.get("skip"), items=len(items) if items is not None else 1, reused=done)

    def question(self, step_input: StepInput) -> str:
        """The approval's question with its values."""
        step = _step(step_input.run.kit, step_input.step)
        assert step.approval is not None
        return str(render(step.approval.question, self._values(step_input.run)))[:2_000]

    def run_item(self, item: ItemInput) -> ItemOutcome:
        """Do one item with a tool that needs no workflow of its own; a stored output is not made again."""
        if (stored := self.catalog.kit_output(item.run.run_id, item.step, item.item)) and stored.ok:
            return _outcome(stored, stored_before=True)
        step, tool, arguments = self._work(item)
        failpoint("kit_before_tool")
        output = self._tools.call(item, tool, arguments)
        failpoint("kit_after_tool_before_store")
        value = output.value
        error = self._unsuccessful(item, step, value)
        made = KitOutput(
            step=item.step,
            item=item.item,
            ok=error is None,
            output=value,
            error=error,
            tokens=output.tokens,
            cost=output.cost,
        )
        kept = self.catalog.store_kit_output(item.run.run_id, made)
        failpoint("kit_after_store")
        return _outcome(kept, rows=output.rows)

    def prepare_child(self, item: ItemInput) -> ChildWork | None:
        """The workflow that does this item, or None where its output is stored already."""
        if (stored := self.catalog.kit_output(item.run.run_id, item.step, item.item)) and stored.ok:
            return None
        _, tool, arguments = self._work(item)
        group = f"{item.run.run_id}-{item.step}-{item.item}"
        child_id = f"kit/{path_part(item.run.kit.name)}/{path_part(group)}"
        return self._child(item, tool, arguments, group, child_id)

    def _child(self, item: ItemInput, tool: Tool, arguments: dict[str, Any], group: str, child_id: str) -> ChildWork:
        where = f"{item.run.kit.name}/{item.step}"
        if tool.kind == "sync":
            return self._sync_child(tool, arguments, group, child_id)
        if tool.kind == "extract_knowledge":
            from assets.kits.knowledge_tool import extraction_input

            work = extraction_input(tool, arguments, group, where)
            return ChildWork(workflow="KnowledgeExtractionWorkflow", workflow_id=child_id, input=work)
        if tool.kind == "databricks_job":
            given = {"name": f"{item.run.kit.name}-{item.step}", **(tool.job or {}), **arguments}
            work = {"job": _databricks_job(given, where)}
            return ChildWork(workflow="DatabricksJobWorkflow", workflow_id=child_id, input=work)
        if tool.kind != "kit" or tool.kit is None:
            raise ToolError(f"a tool of kind {tool.kind} is no workflow", where=where)
        child = self.child_run(item.run, tool.kit, arguments, group)
        work = child.model_dump(mode="json", by_alias=True)
        return ChildWork(workflow="AgentKitExecutionWorkflow", workflow_id=child_id, input=work)

    def child_run(self, run: KitRun, kit_name: str, inputs: dict[str, Any], run_id: str) -> KitRun:
        """The run of another kit that this one hands over to."""
        if run.depth >= 5:
            raise ToolError("kits hand over to each other more than five times", where=run.kit.name)
        kit = load_kit(self.settings, kit_name)
        return KitRun(
            kit=kit,
            run_id=run_id,
            inputs=checked_inputs(kit, inputs),
            trigger=f"kit {run.kit.name}",
            depth=run.depth + 1,
        )

    def _sync_child(self, tool: Tool, arguments: dict[str, Any], group: str, child_id: str) -> ChildWork:
        from assets.sync import TableSync

        connector = str(arguments.get("connector", "")) if tool.connector == "*" else str(tool.connector)
        named = [str(name) for name in arguments.get("tables") or ()]
        found = self.catalog.connector(connector).discover(named or None)
        tables = [table.name for table in found if named or table.by_default]
        options = {name: arguments[name] for name in ("mode", "deletes", "verify") if name in arguments}
        works = [
            TableSync.model_validate(
                {"connector": connector, "table": table, "run_group": group, "trigger": "kit"} | options
            )
            for table in tables
        ]
        self.catalog.begin_run(group, connector, None, "kit", tables, workflow_id=child_id)
        work = {
            "connector": connector,
            "tables": [work.model_dump(mode="json") for work in works],
            "run_group": group,
            "max_parallel": self.settings.sync_concurrency,
        }
        return ChildWork(workflow="DatasetSyncWorkflow", workflow_id=child_id, input=work)

    def store(self, item: ItemInput, output: dict[str, Any] | None, error: str | None) -> ItemOutcome:
        """Store what a workflow of its own returned, or an item's last error."""
        step = _step(item.run.kit, item.step)
        where = f"{item.run.kit.name}/{item.step}"
        value = bounded(output, where) if output is not None else None
        if error is None and value is not None:
            error = self._unsuccessful(item, step, value)
        made = KitOutput(step=item.step, item=item.item, ok=error is None, output=value, error=error)
        return _outcome(self.catalog.store_kit_output(item.run.run_id, made))

    def end(self, run: KitRun, result: KitResult) -> KitResult:
        """Work out the metrics and close the run's row."""
        values = self._values(run)
        metrics: dict[str, Any] = {}
        for name, expression in run.kit.metrics.items():
            try:
                metrics[name] = bounded({"v": evaluate(expression, values)}, name)["v"]
            except ExpressionError:  # a step that it speaks of was not reached
                metrics[name] = None
        tables = {}
        for step in run.kit.steps:
            if step.write and any(o.step == step.step and o.status == "succeeded" for o in result.steps):
                table = gold_table(run.kit, step.write)
                tables[f"{table.layer}.{table.connector}__{step.write}"] = self.lakehouse.uri(table)
        result = result.model_copy(update={"metrics": metrics, "tables": tables})
        failpoint("kit_before_end")
        self.catalog.end_kit_run(run.run_id, result)
        return result

    def next_kits(self, run: KitRun) -> list[ChildWork]:
        """The kits that go on after this one."""
        values, found = self._values(run), []
        for number, hand in enumerate(run.kit.hand_off):
            if hand.when is not None and not evaluate(hand.when, values):
                continue
            group = f"{run.run_id}-next-{number}"
            child = self.child_run(run, hand.kit, render(hand.inputs, values), group)
            child_id = f"kit/{path_part(hand.kit)}/{path_part(group)}"
            work = child.model_dump(mode="json", by_alias=True)
            found.append(ChildWork(workflow="AgentKitExecutionWorkflow", workflow_id=child_id, input=work))
        return found

    # values

    def _work(self, item: ItemInput) -> tuple[Step, Tool, dict[str, Any]]:
        kit = item.run.kit
        step = _step(kit, item.step)
        values = self._values(item.run) | self._item_values(item, step)
        return step, kit.tools[step.tool], render(step.arguments, values)

    def _item_values(self, item: ItemInput, step: Step) -> dict[str, Any]:
        if step.for_each is None:
            return {}
        plan = self.catalog.kit_output(item.run.run_id, step.step, PLAN)
        items = (plan.output or {}).get("items") if plan else None
        if items is None:
            raise NotFoundError("the step was not planned", where=f"{item.run.kit.name}/{step.step}")
        return {"item": items[item.item], "index": item.item}

    def _unsuccessful(self, item: ItemInput, step: Step, value: dict[str, Any]) -> str | None:
        if step.success is None:
            return None
        values = self._values(item.run) | self._item_values(item, step) | {"output": value}
        return None if evaluate(step.success, values) else f"`{step.success}` is not true"

    def _values(self, run: KitRun) -> dict[str, Any]:
        """What expressions see: inputs, the outputs of steps, and the run."""
        steps: dict[str, Any] = {}
        for output in self.catalog.kit_outputs(run.run_id):
            step = _step(run.kit, output.step)
            if output.item == PLAN:
                if step.for_each is not None:
                    steps.setdefault(step.step, {"items": []})
                if (output.output or {}).get("skip"):
                    steps[step.step] = {"skipped": True, "items": [], "rows": [], "row_count": 0}
            elif step.for_each is not None:
                steps.setdefault(step.step, {"items": []})["items"].append(output.output)
            else:
                steps[step.step] = {**(output.output or {}), "error": output.error}
        return {"inputs": run.inputs, "steps": steps, "run": {"id": run.run_id, "trigger": run.trigger}}


def _step(kit: Kit, name: str) -> Step:
    return next(step for step in kit.steps if step.step == name)


def _before(kit: Kit, step: str, other: str) -> bool:
    names = [s.step for s in kit.steps]
    return names.index(step) < names.index(other)


def _outcome(stored: KitOutput, *, stored_before: bool = False, rows: int | None = None) -> ItemOutcome:
    return ItemOutcome(
        ok=stored.ok,
        error=stored.error,
        tokens=stored.tokens,
        cost=stored.cost,
        rows=rows,
        stored_before=stored_before,
    )


def _databricks_job(given: dict[str, Any], where: str) -> dict[str, Any]:
    """The job as its workflow takes it.

    Raises:
        ToolError: a field is missing or wrong; a workflow that cannot read its input would wait for ever.
    """
    from pydantic import ValidationError

    from assets.databricks_job import DatabricksJob

    try:
        return DatabricksJob.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'job'}: {one['msg']}" for one in found[:5])
        raise ToolError(f"this is no Databricks job: {told}", where=where, remedy="See docs/databricks.md.") from None
