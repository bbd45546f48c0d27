"""What a kit's run would do, without doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assets.errors import HeadraceError
from assets.kits.expressions import ExpressionError, render
from assets.kits.model import Kit, Step, Tool
from assets.sync import Model

if TYPE_CHECKING:
    from orchestration.headrace import Headrace

UNKNOWN = "(known when it runs)"
CHARACTERS_A_TOKEN = 4


class SimulatedStep(Model):
    """One step. Arguments that rest on earlier outputs are shown as they are written."""

    step: str
    tool: str
    kind: str
    when: str | None = None
    for_each: str | None = None
    approval: str | None = None
    arguments: dict[str, Any]
    reads: tuple[str, ...] = ()
    writes: str | None = None
    rows_to_read: int | None = None
    most_calls: int | None = None
    tokens_a_call: int | None = None
    problem: str | None = None


class KitSimulation(Model):
    """Steps, tools, tables and an estimate. ``most_tokens``: the budget, or None where nothing bounds it."""

    kit: str
    objective: str
    inputs: dict[str, Any]
    steps: tuple[SimulatedStep, ...]
    tools: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    rows_to_read: int
    model_steps: int
    most_calls: int
    most_tokens: int | None
    most_cost: float | None
    max_time: str
    problems: tuple[str, ...] = ()


def simulated(headrace: Headrace, kit: Kit, inputs: dict[str, Any]) -> KitSimulation:
    """Resolve what can be resolved before a run.

    Raises:
        ConfigurationError: the inputs are wrong.
    """
    from assets.kits.steps import checked_inputs

    values = {"inputs": checked_inputs(kit, inputs), "run": {"id": UNKNOWN, "trigger": "simulation"}}
    steps = tuple(_simulated(headrace, kit, step, values) for step in kit.steps)
    reads = tuple(dict.fromkeys(table for step in steps for table in step.reads))
    return KitSimulation(
        kit=kit.name,
        objective=kit.objective,
        inputs=values["inputs"],
        steps=steps,
        tools=tuple(sorted({f"{step.tool} ({step.kind})" for step in steps})),
        reads=reads,
        writes=tuple(step.writes for step in steps if step.writes),
        rows_to_read=sum(step.rows_to_read or 0 for step in steps),
        model_steps=sum(step.kind == "model" for step in steps),
        most_calls=kit.constraints.max_calls,
        most_tokens=kit.constraints.max_tokens,
        most_cost=kit.constraints.max_cost,
        max_time=kit.constraints.max_time,
        problems=tuple(f"{step.step}: {step.problem}" for step in steps if step.problem),
    )


def _simulated(headrace: Headrace, kit: Kit, step: Step, values: dict[str, Any]) -> SimulatedStep:
    tool = kit.tools[step.tool]
    arguments = {name: _resolved(value, values) for name, value in step.arguments.items()}
    made = SimulatedStep(
        step=step.step,
        tool=step.tool,
        kind=tool.kind,
        when=step.when,
        for_each=step.for_each,
        approval=step.approval.question if step.approval else None,
        arguments=arguments,
        writes=f"gold.{kit.name}__{step.write}" if step.write else None,
        most_calls=kit.constraints.max_calls if step.for_each else 1,
        tokens_a_call=_tokens(tool, arguments),
    )
    try:
        update = _sql(headrace, kit, arguments) if tool.kind == "sql" else _other(headrace, tool)
    except HeadraceError as error:
        update = {"problem": error.text}
    return made.model_copy(update=update)


def _resolved(value: Any, values: dict[str, Any]) -> Any:
    try:
        return render(value, values)
    except ExpressionError:  # it rests on outputs of earlier steps
        return value


def _tokens(tool: Tool, arguments: dict[str, Any]) -> int | None:
    if tool.kind != "model":
        return None
    return len(str(arguments)) // CHARACTERS_A_TOKEN + tool.max_output_tokens


def _sql(headrace: Headrace, kit: Kit, arguments: dict[str, Any]) -> dict[str, Any]:
    from fnmatch import fnmatchcase

    from assets.kits.steps import KitSteps
    from assets.lakehouse.interface import open_lakehouse
    from assets.lakehouse_sql import known_tables, tables_of

    lakehouse = open_lakehouse(headrace.settings)
    others = KitSteps(headrace.settings, headrace.catalog, lakehouse).readable_tables()
    known = known_tables(headrace.catalog, others)
    reads = tables_of(str(arguments.get("sql", "")))
    written = {f"gold.{kit.name}__{name}" for name in kit.constraints.tables.write}
    problems, rows = [], 0
    for name in reads:
        if not any(fnmatchcase(name, pattern) for pattern in kit.constraints.tables.read):
            problems.append(f"the table {name} may not be read here")
        elif name not in known:
            if name not in written:
                problems.append(f"there is no table {name} yet")
        elif (state := lakehouse.state(known[name])) is not None:
            rows += state.rows
    return {"reads": reads, "rows_to_read": rows, "problem": "; ".join(problems) or None}


def _other(headrace: Headrace, tool: Tool) -> dict[str, Any]:
    if tool.kind == "sync" and tool.connector not in (None, "*"):
        assert tool.connector is not None
        headrace.catalog.connector_record(tool.connector)
    if tool.kind == "function" and tool.function is not None:
        from assets.kits.functions import registered_function

        registered_function(headrace.settings, tool.function)
    if tool.kind == "kit" and tool.kit is not None:
        headrace.kits.show(tool.kit)
    return {}
