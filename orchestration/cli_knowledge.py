"""``headrace knowledge``: sources, extract, search, entity, export, check, runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from orchestration.cli_output import HomeOption, JsonOption, open_headrace, print_json, print_table, reports_errors

app = typer.Typer(help="What chat sessions and documents say.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the source.")]
KEY_HINT = "a JSON object, or the path of a file with one"


def _document(text: str | None, option: str) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        document = json.loads(text if text.lstrip().startswith("{") else Path(text).expanduser().read_text())
    except (OSError, ValueError):
        raise typer.BadParameter(f"give {KEY_HINT}", param_hint=option) from None
    if not isinstance(document, dict):
        raise typer.BadParameter(f"give {KEY_HINT}", param_hint=option)
    return document


@app.command("add")
@reports_errors
def add(
    name: NameArgument,
    config: Annotated[str, typer.Option("--config", help=f'Where its sessions are, with "kind": {KEY_HINT}.')],
    extractor: Annotated[str | None, typer.Option("--extractor", help=f"What reads them: {KEY_HINT}.")] = None,
    active: Annotated[bool, typer.Option("--active/--paused", help="Extract after each sync of its tables.")] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Change the source of this name.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Store a source: chat tables, a ChatGPT or Claude export, text, e-mail, HTML or JSON files."""
    source = _document(config, "--config") or {}
    record = open_headrace(home).knowledge.add(
        name, source, _document(extractor, "--extractor"), active=active, replace=replace
    )
    if as_json:
        print_json(record)
    else:
        print(f"Knowledge source {record.name} is stored. Extract it: headrace knowledge extract {record.name}")


@app.command("sources")
@reports_errors
def sources(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """All sources."""
    records = open_headrace(home).knowledge.sources()
    if as_json:
        print_json({"sources": records})
        return
    rows = [(r.name, r.source.kind, _origin(r.source), r.extractor.kind, r.active) for r in records]
    print_table("Knowledge sources", ("name", "kind", "from", "extractor", "active"), rows)


def _origin(source: Any) -> str:
    return source.path if hasattr(source, "path") else f"{source.connector}/{source.messages}"


@app.command("remove")
@reports_errors
def remove(
    name: NameArgument,
    erase: Annotated[bool, typer.Option("--erase", help="Take what was extracted out of the tables first.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Remove a source; what was extracted stays unless it is erased."""
    open_headrace(home).knowledge.remove(name, erase=erase)
    if as_json:
        print_json({"removed": name, "erased": erase})
    else:
        print(f"Knowledge source {name} is removed; what was extracted {'is erased' if erase else 'stays'}.")


@app.command("extract")
@reports_errors
def extract(
    names: Annotated[list[str] | None, typer.Argument(help="Sources; default: every active one.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Every session anew; stored answers stay free.")] = False,
    token_budget: Annotated[
        int | None, typer.Option("--token-budget", min=0, help="Most tokens of each source.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end.")] = True,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Extract what is new or changed."""
    report = open_headrace(home).knowledge.extract(names, again=again, token_budget=token_budget, wait=wait)
    if as_json:
        print_json(report)
    elif not report.waited:
        print(f"Run {report.run_group} is under way. See: headrace knowledge runs")
    else:
        rows = [
            (
                s.source, s.status, s.totals.sessions, s.totals.extracted, s.totals.gone, s.totals.incomplete,
                s.totals.calls, s.totals.tokens_in + s.totals.tokens_out, f"{s.totals.cost:.4f}", s.tables.entities,
                s.tables.observations, s.error or s.reason or s.totals.problem or None,
            )
            for s in report.sources
        ]  # fmt: skip
        columns = ("source", "status", "sessions", "extracted", "gone", "incomplete", "calls", "tokens", "cost")
        print_table(f"Run {report.run_group}", (*columns, "entities", "observations", "note"), rows)
    if not report.ok:
        raise typer.Exit(1)


@app.command("search")
@reports_errors
def search(
    query: Annotated[str, typer.Argument(help='Words that all occur; "a phrase"; begin*.')],
    kind: Annotated[
        Literal["entity", "observation", "relation", "message"] | None, typer.Option("--kind", help="Only these.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20,
    by: Annotated[
        Literal["words", "meaning"], typer.Option("--by", help="meaning: by vectors, an extra: docs/knowledge.md.")
    ] = "words",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Search over entities, observations, relations and messages."""
    hits = open_headrace(home).knowledge.search(query, kind=kind, limit=limit, by=by)
    if as_json:
        print_json({"hits": hits})
        return
    rows = [
        (h.kind, h.type, h.text[:100], h.id, "/".join(filter(None, (h.source, h.session, h.message)))) for h in hits
    ]
    print_table(query, ("kind", "type", "text", "id", "place"), rows)


@app.command("entity")
@reports_errors
def entity(
    name: Annotated[str, typer.Argument(help="Id, canonical name or alias.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """One entity: what is known of it, where that was said, and why names were taken for one."""
    view = open_headrace(home).knowledge.entity(name)
    if as_json:
        print_json(view)
        return
    print_table(view.entity["canonical_name"], ("field", "value"), [(k, _text(v)) for k, v in view.entity.items()])
    rows = [
        (o["kind"], o["quote"], o["status"], f"{o['source']}/{o['session']}/{o['message']}") for o in view.observations
    ]
    print_table("Observations", ("kind", "quote", "status", "place"), rows)
    relations = [(r["subject_name"], r["predicate"], r["object_name"], r["status"]) for r in view.relations]
    print_table("Relations", ("subject", "relation", "object", "status"), relations)


def _text(value: Any) -> str | None:
    return None if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@app.command("export")
@reports_errors
def export(
    folder: Annotated[Path, typer.Argument(help="Folder for one file a table.")],
    format: Annotated[Literal["jsonl", "csv", "parquet"], typer.Option("--format")] = "jsonl",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write the tables into files."""
    written = open_headrace(home).knowledge.export(folder, format)
    if as_json:
        print_json({"folder": str(folder), "rows": written})
    else:
        print_table(str(folder), ("table", "rows"), list(written.items()))


@app.command("check")
@reports_errors
def check(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Spans quote their messages, relations point to entities, every session was extracted."""
    checks = open_headrace(home).knowledge.check()
    if as_json:
        print_json({"checks": checks})
    else:
        rows = [("ok" if c["passed"] else "FAILED", c["name"], c["table"], c["detail"]) for c in checks]
        print_table("Checks", ("", "check", "table", "detail"), rows)
    if not all(c["passed"] for c in checks):
        raise typer.Exit(1)


@app.command("runs")
@reports_errors
def runs(
    name: Annotated[str | None, typer.Argument(help="Source; default: all.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """The latest extractions: what they did, and what they cost."""
    found = open_headrace(home).knowledge.runs(name, limit)
    if as_json:
        print_json({"runs": found})
        return
    rows = []
    for run in found:
        totals = (run["result"] or {}).get("totals", {})
        tokens = totals.get("tokens_in", 0) + totals.get("tokens_out", 0)
        cost = f"{totals.get('cost', 0):.4f}"
        rows.append(
            (run["run_group"], run["source"], run["status"], totals.get("extracted"), totals.get("calls"), tokens, cost,
             run["started_at"], run["completed_at"], run["error"])
        )  # fmt: skip
    columns = ("run", "source", "status", "sessions", "calls", "tokens", "cost", "started", "completed", "error")
    print_table("Extractions", columns, rows)
