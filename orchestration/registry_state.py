"""What Dagster's assets are made from: connectors with their tables, and pipelines. References only, never a secret."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from assets.lakehouse.interface import Lakehouse, TableId, open_lakehouse
from assets.naming import table_slug
from assets.settings import Settings
from assets.sync import Column, Model
from orchestration.code_locations import CodeLocation
from orchestration.discovered_tables import discovered


class RegisteredTable(Model):
    """A table as an asset: ``part`` is the last part of its asset keys."""

    name: str
    part: str
    columns: tuple[Column, ...] = ()
    key: tuple[str, ...] = ()
    bronze_uri: str
    silver_uri: str
    bronze_name: str
    silver_name: str


class RegisteredConnector(Model):
    name: str
    type: str
    tables: tuple[RegisteredTable, ...] = ()
    error: str | None = None


class RegisteredPipeline(Model):
    name: str
    connector: str
    tables: tuple[str, ...]
    cron: str | None = None
    interval_seconds: int | None = None
    on_changes: bool = False
    timezone: str = "UTC"
    active: bool = True


class RegistryState(Model):
    """``spread``: over how many code locations."""

    version: str
    spread: int = 1
    connectors: tuple[RegisteredConnector, ...] = ()
    pipelines: tuple[RegisteredPipeline, ...] = ()


def asset_parts(tables: Sequence[str]) -> dict[str, str]:
    """The last part of each table's asset keys: its own name, or its slug where names would meet in an identifier."""
    identifiers = ["".join(c if c.isalnum() and c.isascii() else "_" for c in name) for name in tables]
    counts = Counter(identifiers)
    plain = {
        name
        for name, identifier in zip(tables, identifiers, strict=True)
        if counts[identifier] == 1 and identifier == name.replace(".", "_")
    }
    return {name: name if name in plain else table_slug(name) for name in tables}


def read_registry(settings: Settings, *, ask_again: bool = True) -> RegistryState:
    """What this process's code location shows of the catalog, each source asked for its tables.

    A source that does not answer keeps the tables it has. ``ask_again``: those whose tables are known are asked, too.
    """
    from assets.catalog.store import Catalog

    catalog, lakehouse = Catalog.from_settings(settings), open_lakehouse(settings)
    location = CodeLocation.of_process(settings)
    version = location.version(catalog)
    stored = [pipeline for pipeline in catalog.pipelines() if location.holds(pipeline.connector)]
    records = [record for record in catalog.connectors() if location.holds(record.name)]
    named: dict[str, set[str]] = {}
    for pipeline in stored:
        named.setdefault(pipeline.connector, set()).update(table.name for table in pipeline.tables)
    connectors = []
    tables_of = discovered(
        settings.home_path / f"discovered{location.suffix}.json", catalog, records, ask_again=ask_again
    )
    for record in records:
        found = tables_of[record.name]
        wanted = named.get(record.name, set())
        shown = [table for table in found.tables if table.by_default or table.name in wanted]
        parts = asset_parts([table.name for table in shown])
        tables = tuple(_table(lakehouse, record.name, t.name, parts[t.name], t.columns, t.key) for t in shown)
        connectors.append(RegisteredConnector(name=record.name, type=record.type, tables=tables, error=found.error))
    known_tables = {connector.name: {table.name for table in connector.tables} for connector in connectors}
    pipelines = []
    for pipeline in stored:
        known = known_tables.get(pipeline.connector, set())
        wanted = known if pipeline.all_tables else {t.name for t in pipeline.tables} & known
        pipelines.append(
            RegisteredPipeline(
                name=pipeline.name,
                connector=pipeline.connector,
                tables=tuple(sorted(wanted)),
                cron=pipeline.schedule_expression if pipeline.schedule_kind == "cron" else None,
                interval_seconds=pipeline.interval_seconds,
                on_changes=pipeline.schedule_kind == "changes",
                timezone=pipeline.timezone,
                active=pipeline.active,
            )
        )
    return RegistryState(
        version=version, spread=location.count, connectors=tuple(connectors), pipelines=tuple(pipelines)
    )


def _table(
    lakehouse: Lakehouse, connector: str, name: str, part: str, columns: tuple[Column, ...], key: tuple[str, ...]
) -> RegisteredTable:
    bronze = TableId(layer="bronze", connector=connector, table=name)
    silver = TableId(layer="silver", connector=connector, table=name)
    return RegisteredTable(
        name=name,
        part=part,
        columns=columns,
        key=key,
        bronze_uri=lakehouse.uri(bronze),
        silver_uri=lakehouse.uri(silver),
        bronze_name=lakehouse.qualified_name(bronze),
        silver_name=lakehouse.qualified_name(silver),
    )
