"""Which tables of a connector a pipeline syncs, how and when, as the wizard's form says it."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from assets.catalog.records import PipelineTable
from assets.catalog.schedules import check_timezone, parse_schedule
from assets.errors import ConfigurationError
from assets.sync import ColumnChoice, Deletes, DriftPolicy, RequestedMode, VerifyLevel, WriteMode
from orchestration.web.sent_form import SentForm

MODES = get_args(RequestedMode)
COLUMN_CHOICES = {"sync": "as it is", "exclude": "left out", "hash": "hashed", "mask": "masked"}
OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "deletes": ("Rows that left the source", get_args(Deletes)),
    "verify": ("Proof after each sync", get_args(VerifyLevel)),
    "write": ("How Silver is kept", get_args(WriteMode)),
    "drift": ("When the source's columns change", get_args(DriftPolicy)),
}
"""Of all tables of the pipeline: title and values, the first of which is the default."""
SCHEDULES = {
    "manual": "By hand only",
    "every": "Every so often",
    "changes": "When the source changed",
    "cron": "At fixed times (cron)",
}
EXPRESSIONS = {"every": "15m", "changes": "5m", "cron": "0 6 * * *"}


class ChosenPipeline(BaseModel):
    """A pipeline that is not stored yet."""

    model_config = ConfigDict(frozen=True)
    name: str
    tables: tuple[PipelineTable, ...] = ()
    all_tables: bool = False
    schedule: str = "manual"
    timezone: str = "UTC"
    options: dict[str, str] = {}

    def arguments(self) -> dict[str, Any]:
        """For `assets.catalog.store.Catalog.add_pipeline`, without name and connector."""
        return {
            "tables": list(self.tables),
            "all_tables": self.all_tables,
            "schedule": self.schedule,
            "timezone": self.timezone,
            **self.options,
        }


def column_field(table: str, column: str) -> str:
    """Name of the input with a column's choice; the length keeps names apart, whatever stands in them."""
    return f"column|{len(table)}|{table}|{column}"


def read_choice(sent: SentForm) -> ChosenPipeline:
    """The pipeline that a form describes.

    Raises:
        ConfigurationError: nothing is chosen, or an option is wrong; ``fields`` names the input.
    """
    tables = sent.all("table")
    all_tables = "all_tables" in sent
    if not tables and not all_tables:
        raise ConfigurationError("no table is chosen.", remedy="Choose at least one.", fields=[("table", "choose one")])
    schedule, timezone = _schedule(sent)
    options = {name: sent[name] for name, (_, values) in OPTIONS.items() if sent.get(name) in values[1:]}
    return ChosenPipeline(
        name=sent.get("pipeline", "").strip() or sent.get("name", "").strip(),
        tables=tuple(_table(sent, table) for table in tables),
        all_tables=all_tables,
        schedule=schedule,
        timezone=timezone,
        options=options,
    )


def _schedule(sent: SentForm) -> tuple[str, str]:
    kind = sent.get("schedule", "manual")
    expression = sent.get(f"schedule_{kind}", "").strip()
    written = kind if kind == "manual" else f"{kind}:{expression or EXPRESSIONS.get(kind, '')}"
    try:
        parse_schedule(written)
    except ConfigurationError as error:
        raise _about(f"schedule_{kind}", error) from None
    timezone = (sent.get("timezone", "").strip() or "UTC") if kind == "cron" else "UTC"
    try:
        return written, check_timezone(timezone)
    except ConfigurationError as error:
        raise _about("timezone", error) from None


def _about(field: str, error: ConfigurationError) -> ConfigurationError:
    return ConfigurationError(error.what, where=error.where, remedy=error.remedy, fields=[(field, error.what)])


def _table(sent: SentForm, table: str) -> PipelineTable:
    given: dict[str, Any] = {"name": table}
    if (mode := sent.get(f"mode|{table}", "auto")) != "auto":
        given["mode"] = mode
    if cursor := sent.get(f"cursor|{table}", ""):
        given["cursor"] = cursor
    if key := [part.strip() for part in sent.get(f"key|{table}", "").split(",") if part.strip()]:
        given["key"] = key
    columns = {
        choice: tuple(name for name, _, value in chosen_columns(sent, table) if value == choice)
        for choice in COLUMN_CHOICES
        if choice != "sync"
    }
    if any(columns.values()):
        given["columns"] = ColumnChoice(**columns)
    try:
        return PipelineTable.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = str(first["loc"][0]) if first["loc"] else "table"
        raise ConfigurationError(
            f"{field}: {first['msg']}.", where=table, fields=[(f"{field}|{table}", first["msg"])]
        ) from None


def choice_of(column: str, sent: SentForm, table: str) -> str:
    """What the form says of a column now."""
    value = sent.get(column_field(table, column), "sync")
    return value if value in COLUMN_CHOICES else "sync"


def chosen_columns(sent: SentForm, table: str) -> list[tuple[str, str, str]]:
    """Column, input and choice of each column that is not stored as it is."""
    start = column_field(table, "")
    names = [field[len(start) :] for field in sent if field.startswith(start)]
    found = [(name, column_field(table, name), choice_of(name, sent, table)) for name in names]
    return [item for item in found if item[2] != "sync"]
