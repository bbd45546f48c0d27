"""``headrace kits``: agent kits on the command line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from assets.errors import ConfigurationError
from orchestration.cli_output import HomeOption, JsonOption, open_headrace, print_json, print_table, reports_errors

app = typer.Typer(help="Agent kits: playbooks of tools over the lakehouse, run durably.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the kit.")]
RunArgument = Annotated[str, typer.Argument(help="Id of the run, as `headrace kits runs` prints it.")]
InputOption = Annotated[
    list[str] | None, typer.Option("--input", help="NAME=VALUE, once or more; a value may be JSON.")
]


def _inputs(given: list[str] | None) -> dict[str, Any]:
    import json

    found: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"no NAME=VALUE: {name}", where="--input")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


@app.command("list")
@reports_errors
def list_kits(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """All kits, shipped ones and your own."""
    kits = open_headrace(home).kits.list()
    if as_json:
        print_json(kits)
        return
    rows = [
        (k.name, k.steps, ", ".join(k.triggers), ", ".join(k.writes) or None, k.problem or k.objective) for k in kits
    ]
    print_table("Kits", ("kit", "steps", "triggers", "writes", "objective"), rows)


@app.command()
@reports_errors
def validate(
    kit: Annotated[str, typer.Argument(help="Name of a kit, or a YAML file.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Check a kit; every problem is told with its line."""
    from assets.kits.kit_file import KitFileError

    try:
        found = open_headrace(home).kits.validate(kit)
    except KitFileError as error:
        if as_json:
            print_json({"valid": False, "problems": error.problems})
        else:
            rows = [(p.line, p.field, p.problem) for p in error.problems]
            print_table(f"{error.where} is not valid", ("line", "field", "problem"), rows)
        raise typer.Exit(1) from None
    if as_json:
        print_json({"valid": True, "kit": found.name, "steps": len(found.steps), "problems": []})
    else:
        print_table(
            found.name, ("", ""), [("valid", "yes"), ("steps", len(found.steps)), ("objective", found.objective)]
        )


@app.command()
@reports_errors
def simulate(
    kit: NameArgument, inputs: InputOption = None, as_json: JsonOption = False, home: HomeOption = None
) -> None:
    """Resolved steps, tools, tables and an estimate, without running."""
    found = open_headrace(home).kits.simulate(kit, _inputs(inputs))
    if as_json:
        print_json(found)
    else:
        rows = [
            (s.step, f"{s.tool} ({s.kind})", s.when or s.for_each, ", ".join(s.reads) or None, s.writes, s.problem)
            for s in found.steps
        ]
        print_table(
            f"{found.kit}: {found.objective}", ("step", "tool", "when / for each", "reads", "writes", "problem"), rows
        )
        estimate = [
            ("rows to read", found.rows_to_read),
            ("calls at most", found.most_calls),
            ("tokens at most", found.most_tokens),
            ("time at most", found.max_time),
        ]
        print_table("Estimate", ("", ""), estimate)
    if found.problems:
        raise typer.Exit(1)


@app.command()
@reports_errors
def run(
    kit: NameArgument,
    inputs: InputOption = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end.")] = True,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Run a kit."""
    _told(open_headrace(home).kits.run(kit, _inputs(inputs), wait=wait), as_json)


@app.command()
@reports_errors
def rerun(
    run_id: RunArgument,
    from_step: Annotated[
        str | None, typer.Option("--from", help="Step to begin with; earlier outputs are kept.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end.")] = True,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Do a run again, from a step on if told so."""
    _told(open_headrace(home).kits.rerun(run_id, from_step, wait=wait), as_json)


def _told(result: Any, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        steps = getattr(result, "steps", ())
        print_table(
            f"{result.kit} {result.run_id}: {result.status}",
            ("step", "status", "items", "tokens", "reason"),
            [(s.step, s.status, s.items, s.tokens, s.reason or None) for s in steps],
        )
        metrics = getattr(result, "metrics", {})
        if metrics:
            print_table("Metrics", ("", ""), list(metrics.items()))
    if result.status not in ("succeeded", "running"):
        raise typer.Exit(1)


@app.command()
@reports_errors
def approve(
    run_id: RunArgument,
    refuse: Annotated[bool, typer.Option("--refuse", help="Refuse: the run stops there.")] = False,
    note: Annotated[str, typer.Option(help="Why.")] = "",
    by: Annotated[str | None, typer.Option(help="Who decides; default: you.")] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Decide about the step that waits."""
    answer = open_headrace(home).kits.approve(run_id, approve=not refuse, by=by, note=note)
    print_json({"run_id": run_id, "decision": answer}) if as_json else print(answer)


@app.command()
@reports_errors
def cancel(run_id: RunArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Cancel a run."""
    record = open_headrace(home).kits.cancel(run_id)
    print_json(record) if as_json else print(record.status)


@app.command()
@reports_errors
def runs(
    kit: Annotated[str | None, typer.Argument(help="Name of the kit; default: all.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """The latest runs, and what waits for an approval."""
    found = open_headrace(home).kits.runs(kit, limit=limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            r.run_id,
            r.kit,
            r.status,
            r.trigger,
            r.started_at,
            r.completed_at,
            r.error or (r.waiting or {}).get("question"),
        )
        for r in found
    ]
    print_table("Kit runs", ("run", "kit", "status", "trigger", "started", "completed", "error / waits for"), rows)


@app.command()
@reports_errors
def outputs(run_id: RunArgument, home: HomeOption = None) -> None:
    """What each step of a run brought, as JSON."""
    print_json(open_headrace(home).kits.outputs(run_id))
