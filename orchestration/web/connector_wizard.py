"""The wizard that adds a connector: its type, its credentials and their test, its tables, a last look.

The form stays in the browser from the first step to the last and is sent with each of them, so that nothing half-done
is stored and no secret comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from assets.catalog.connector_config import connector_type
from assets.errors import BridgeError, ConfigurationError, ConflictError, HeadraceError, NotFoundError
from assets.sources.interface import Connector, connector_types
from assets.sync import CheckResult, Column, SourceTable
from orchestration.api.connectors import DISCOVER_SECONDS
from orchestration.headrace import Headrace
from orchestration.web.config_form import PREFIX, config_form, input_of, read_config
from orchestration.web.flash import go_to
from orchestration.web.live_checks import stream_checks
from orchestration.web.principal import audit_note_of
from orchestration.web.routing import Page
from orchestration.web.sent_form import SentForm, sent_form
from orchestration.web.table_choice import (
    COLUMN_CHOICES,
    EXPRESSIONS,
    MODES,
    OPTIONS,
    SCHEDULES,
    ChosenPipeline,
    choice_of,
    chosen_columns,
    column_field,
    read_choice,
)
from orchestration.web.templates import render

TITLES = {
    "postgres": "PostgreSQL",
    "mysql": "MySQL and MariaDB",
    "rest_api": "REST API",
    "s3": "Files in S3",
    "gcs": "Files in Google Cloud Storage",
    "snowflake": "Snowflake",
    "upload": "Uploaded files",
}
NOT_IN_THE_WIZARD = {"upload"}
"""Types whose config is written by something else."""
MAX_SHOWN_TABLES = 500


@dataclass(frozen=True)
class TypeCard:
    """A connector type as the first step shows it."""

    name: str
    title: str
    about: str


def headrace_of(request: Request) -> Headrace:
    return request.app.state.headrace


def type_title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


def new(request: Request) -> HTMLResponse:
    """The first step, or the form of the type that was chosen there."""
    types = {name: kind for name, kind in connector_types().items() if name not in NOT_IN_THE_WIZARD}
    chosen = request.query_params.get("type", "")
    if chosen not in types:
        cards = [
            TypeCard(name, type_title(name), (kind.Config.__doc__ or "").strip().partition("\n")[0])
            for name, kind in types.items()
        ]
        return render(request, "connector_types.html", cards=sorted(cards, key=lambda card: card.title))
    kind = types[chosen]
    return render(
        request,
        "connector_wizard.html",
        type=chosen,
        title=type_title(chosen),
        form=config_form(kind),
        grants=kind.grants,
        may_need_person=kind.oauth_client is not Connector.oauth_client,
        options=OPTIONS,
        schedules=SCHEDULES,
        expressions=EXPRESSIONS,
    )


def _kind(sent: SentForm) -> type[Connector]:
    return connector_type(sent.get("type", ""))


def _trial(headrace: Headrace, sent: SentForm) -> Connector:
    """The connector that the form describes, without storing it."""
    kind = _kind(sent)
    return headrace.catalog.trial_connector(kind.type_name, read_config(kind, sent))


def _check_free(headrace: Headrace, sent: SentForm) -> str:
    """The name of the new connector.

    Raises:
        ConfigurationError: it is missing or taken.
    """
    name = sent.get("name", "").strip()
    if not name:
        raise ConfigurationError("the connector needs a name.", fields=[("name", "is needed")])
    try:
        headrace.connectors.show(name)
    except NotFoundError:
        return name
    raise ConfigurationError("there is a connector of this name.", where=name, fields=[("name", "is taken")])


async def test(request: Request) -> Response:
    """Try what stands in the form, each check told as it is known."""
    sent, headrace = await sent_form(request), headrace_of(request)
    audit_note_of(request.scope).action = "test a new connector"

    def checks() -> Iterator[CheckResult]:
        _check_free(headrace, sent)
        yield from _trial(headrace, sent).checks()

    return stream_checks(request, checks, sent, lambda: _trial(headrace, sent).oauth_client() is not None)


async def store_for_login(request: Request) -> Response:
    """Store a connector whose source a person has to log in at, and lead there: it passes its test only then."""
    sent, headrace = await sent_form(request), headrace_of(request)
    note = audit_note_of(request.scope)
    note.action, note.target = "add connector", sent.get("name", "")[:100]

    def store() -> str:
        name = _check_free(headrace, sent)
        if _trial(headrace, sent).oauth_client() is None:
            raise ConfigurationError("this connector needs no login of a person: test it.", where=name)
        headrace.connectors.add(name, _kind(sent).type_name, read_config(_kind(sent), sent))
        return name

    try:
        name = await run_in_threadpool(store)
    except ConfigurationError as error:
        return _wrong(request, error, sent)
    return go_to(request, f"/headrace/oauth/{name}", f"Connector {name} is stored. Log in at its source now.")


async def tables(request: Request) -> Response:
    """The source's tables, those that match the search, to choose from."""
    sent, headrace = await sent_form(request), headrace_of(request)
    audit_note_of(request.scope).reads_only = True
    found = await request.app.state.blocking.run(lambda: _trial(headrace, sent).discover(), DISCOVER_SECONDS)
    return render(request, "table_choice.html", **tables_context(_kind(sent), found, sent))


def tables_context(kind: type[Connector], found: Sequence[SourceTable], sent: SentForm) -> dict[str, Any]:
    """What the list of tables shows: what is chosen first, then what the search finds, a few hundred at most."""
    search = sent.get("search", "").strip()
    chosen = set(sent.all("table"))
    shown = [table for table in found if table.name in chosen]
    matching = [table for table in found if search.lower() in table.name.lower() and table.name not in chosen]
    shown += matching[: max(0, MAX_SHOWN_TABLES - len(shown))]
    return {
        "tables": shown,
        "gone": sorted(chosen - {table.name for table in found}),
        "columns_at": "/headrace/connectors/add-new/columns",
        "total": len(found),
        "matching": len(matching) + len(chosen & {table.name for table in found}),
        "search": search,
        "chosen": chosen,
        "sent": sent,
        "kept": {table.name: chosen_columns(sent, table.name) for table in shown},
        "choices": COLUMN_CHOICES,
        "modes": [mode for mode in MODES if mode != "cdc" or kind.supports_cdc],
    }


async def columns(request: Request) -> Response:
    """The columns of one table, each with a choice."""
    sent, headrace = await sent_form(request), headrace_of(request)
    audit_note_of(request.scope).reads_only = True
    name = request.query_params.get("of", "")
    found = await request.app.state.blocking.run(lambda: _trial(headrace, sent).discover([name]), DISCOVER_SECONDS)
    rows = column_rows(found, name, sent)
    return render(request, "column_choice.html", table=name, rows=rows, choices=COLUMN_CHOICES)


def column_rows(found: Sequence[SourceTable], table: str, sent: SentForm) -> list[tuple[Column, str, str]]:
    """Each column with its input and what the form says of it now."""
    return [
        (column, column_field(table, column.name), choice_of(column.name, sent, table))
        for one in found
        for column in one.columns
    ]


async def review(request: Request) -> Response:
    """Everything once more before it is stored, or what is wrong with it."""
    sent, headrace = await sent_form(request), headrace_of(request)
    audit_note_of(request.scope).reads_only = True

    def checked() -> tuple[ChosenPipeline, list[tuple[str, str]]]:
        _check_free(headrace, sent)
        chosen = read_choice(sent)
        _check_pipeline(headrace, chosen)
        return chosen, shown_config(_kind(sent), read_config(_kind(sent), sent))

    try:
        chosen, config = await run_in_threadpool(checked)
    except ConfigurationError as error:
        return _wrong(request, error, sent)
    context = {"name": sent["name"].strip(), "title": type_title(sent["type"]), "config": config, "chosen": chosen}
    return render(request, "connector_review.html", options=OPTIONS, **context)


def _check_pipeline(headrace: Headrace, chosen: ChosenPipeline) -> None:
    try:
        headrace.pipelines.show(chosen.name)
    except NotFoundError:
        return
    raise ConfigurationError(
        "there is a pipeline of this name.", where=chosen.name, fields=[("pipeline", "is taken: choose another name")]
    )


def shown_config(kind: type[Connector], config: dict[str, Any]) -> list[tuple[str, str]]:
    """A config in lines for people, secrets as dots."""
    secret = {
        field.path.removeprefix(PREFIX) for field in _all_fields(config_form(kind, config)) if field.kind == "secret"
    }
    return [(_label(path), "•••" if path in secret else text) for path, text in _lines(config, "")]


def _label(path: str) -> str:
    """``endpoints.0.start_param`` -> ``endpoints 1 · start param``."""
    said: list[str] = []
    for part in path.split("."):
        if part.isdecimal() and said:
            said[-1] += f" {int(part) + 1}"
        else:
            said.append(part.replace("_", " "))
    return " · ".join(said)


def _all_fields(form: Any) -> Iterator[Any]:
    waiting = [*form.fields, *form.more]
    while waiting:
        field = waiting.pop()
        yield field
        waiting += field.parts


def _lines(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _lines(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _lines(item, f"{path}.{number}")
    elif value is not None:
        yield path, _words(value)


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _wrong(request: Request, error: ConfigurationError, sent: SentForm) -> Response:
    fields = [(input_of(path, sent), message) for path, message in error.fields]
    return render(request, "form_problem.html", status=422, error=error, fields=fields)


async def save(request: Request) -> Response:
    """Store the connector and its pipeline, test it once more, and run it where that was asked for."""
    sent, headrace = await sent_form(request), headrace_of(request)
    note = audit_note_of(request.scope)
    note.action, note.target = "add connector", sent.get("name", "")[:100]
    try:
        chosen = await run_in_threadpool(_store, headrace, sent)
    except ConfigurationError as error:
        return _wrong(request, error, sent)
    except ConflictError as error:
        return _wrong(request, ConfigurationError(error.what, where=error.where, remedy=error.remedy), sent)
    name = sent["name"].strip()
    text, kind = await request.app.state.blocking.run(lambda: _begin(headrace, name, chosen, sent), DISCOVER_SECONDS)
    return go_to(request, f"/headrace/connectors/{name}", text, kind)


def _store(headrace: Headrace, sent: SentForm) -> ChosenPipeline:
    name = _check_free(headrace, sent)
    chosen = read_choice(sent)
    _check_pipeline(headrace, chosen)
    kind = _kind(sent)
    headrace.connectors.add(name, kind.type_name, read_config(kind, sent))
    try:
        headrace.pipelines.add(chosen.name, name, **chosen.arguments())
    except HeadraceError:
        headrace.connectors.remove(name, force=True)
        raise
    return chosen


def _begin(headrace: Headrace, name: str, chosen: ChosenPipeline, sent: SentForm) -> tuple[str, Any]:
    """Test the stored connector and start the pipeline. Returns what to tell the person."""
    tested = headrace.connectors.test(name)
    if not tested.ok:
        return f"Connector {name} is stored, but its test failed.", "problem"
    if "run_now" not in sent:
        return f"Connector {name} and pipeline {chosen.name} are stored.", "done"
    try:
        headrace.pipelines.run(chosen.name, wait=False)
    except BridgeError as error:
        return f"Connector {name} is stored. Its first sync did not start: {error.text}", "problem"
    return f"Connector {name} is stored, and its first sync has begun.", "done"


WIZARD_PAGES = [
    Page("/connectors/add-new", new, permission="admin"),
    Page("/connectors/add-new", save, permission="admin", methods=["POST"]),
    Page("/connectors/add-new/test", test, permission="admin", methods=["POST"]),
    Page("/connectors/add-new/login", store_for_login, permission="admin", methods=["POST"]),
    Page("/connectors/add-new/tables", tables, permission="admin", methods=["POST"]),
    Page("/connectors/add-new/columns", columns, permission="admin", methods=["POST"]),
    Page("/connectors/add-new/review", review, permission="admin", methods=["POST"]),
]
