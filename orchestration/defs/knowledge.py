"""Knowledge as assets: one multi-asset over all sources, its checks, and a sensor that extracts after each chat sync.

No postponed annotations here: Dagster looks at a body's annotations as they stand.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import dagster as dg

from assets.settings import Settings
from orchestration.code_locations import CodeLocation
from orchestration.registry_state import asset_parts

GROUP = "knowledge"
SOURCE_TAG = "headrace/knowledge_source"
_UPSTREAM = {
    "messages": (),
    "mentions": ("bronze/answers", "messages"),
    "statements": ("bronze/answers", "messages"),
    "entities": ("mentions",),
    "relations": ("statements", "entities"),
    "observations": ("statements", "entities"),
    "entity_history": ("entities",),
    "sessions": ("bronze/answers",),
}
_WHAT = {
    "messages": "The messages that knowledge rests on, as they were read.",
    "mentions": "Every place where an entity or a value is named.",
    "statements": "Every place where a fact, preference, decision or relation is stated.",
    "entities": "People, organizations, places, products and identifiers: one row each, with aliases and why.",
    "relations": "Relations between entities, with evidence and the time they hold.",
    "observations": "Facts, preferences and decisions, each with the place where it was said.",
    "entity_history": "How entities changed from run to run.",
    "sessions": "Which sessions were extracted, by what, and how much of them.",
}
_CHECKS = {
    "observations": "spans_quote_their_message",
    "mentions": "spans_quote_their_message",
    "relations": "relations_point_to_entities",
    "sessions": "extraction_coverage",
}
LINKS = 15


def silver_key(name: str) -> dg.AssetKey:
    return dg.AssetKey(["silver", GROUP, name])


ANSWERS_KEY = dg.AssetKey(["bronze", GROUP, "answers"])


@dg.definitions
def knowledge() -> dg.Definitions:
    """The assets of the stored sources; none where there is no source."""
    from assets.catalog.knowledge import KnowledgeCatalog
    from assets.knowledge.source_config import ChatTables
    from assets.lakehouse.interface import open_lakehouse

    settings = Settings()
    first = CodeLocation.of_process(settings).is_first
    sources = KnowledgeCatalog.from_settings(settings).sources() if first else []
    if not sources:
        return dg.Definitions()
    chats = {record.name: record.source for record in sources if isinstance(record.source, ChatTables)}
    upstream = [chat_key(chat.connector, table) for chat in chats.values() for table in chat_tables(chat)]
    files = [
        dg.AssetSpec(["source", GROUP, record.name], group_name=GROUP, kinds={"source", record.source.kind})
        for record in sources
        if record.name not in chats
    ]
    upstream = list(dict.fromkeys([*upstream, *(spec.key for spec in files)]))
    lakehouse = open_lakehouse(settings)

    @dg.multi_asset(
        name="extract_knowledge",
        specs=list(_specs(lakehouse, upstream)),
        check_specs=[dg.AssetCheckSpec(check, asset=silver_key(table)) for table, check in _CHECKS.items()],
    )
    def extract(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from extract_sources(context)

    job = dg.define_asset_job("knowledge", selection=dg.AssetSelection.assets(extract))

    @dg.sensor(
        name="knowledge_after_sync",
        job=job,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def after_sync(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return request_after_sync(context)

    return dg.Definitions(assets=[*files, extract], jobs=[job], sensors=[after_sync])


def chat_tables(chat: Any) -> list[str]:
    return [chat.messages, *([chat.sessions] if chat.sessions else [])]


def chat_key(connector: str, table: str) -> dg.AssetKey:
    return dg.AssetKey(["silver", connector, asset_parts([table])[table]])


def _specs(lakehouse: Any, upstream: list[dg.AssetKey]) -> Iterator[dg.AssetSpec]:
    from assets.knowledge.tables import SILVER, answers_table, silver

    common: dict[str, Any] = {"group_name": GROUP, "owners": ["team:headrace"]}
    yield dg.AssetSpec(
        ANSWERS_KEY,
        deps=upstream,
        description="What each extractor said about each text, raw: one row a text, model and prompt.",
        kinds={"delta", "bronze"},
        metadata={"dagster/uri": lakehouse.uri(answers_table()), "dagster/storage_kind": "delta"},
        **common,
    )
    for name in SILVER:
        deps = [ANSWERS_KEY if up == "bronze/answers" else silver_key(up) for up in _UPSTREAM[name]] or upstream
        yield dg.AssetSpec(
            silver_key(name),
            deps=deps,
            description=_WHAT[name],
            kinds={"delta", "silver"},
            metadata={"dagster/uri": lakehouse.uri(silver(name)), "dagster/storage_kind": "delta"},
            **common,
        )


def extract_sources(context: dg.AssetExecutionContext) -> Iterator[Any]:
    """Run `KnowledgeExtractionWorkflow` over the active sources, or the one that the run's tag names."""
    from assets.catalog.knowledge import KnowledgeCatalog
    from assets.knowledge.tables import SILVER, answers_table
    from assets.knowledge.work import KnowledgeExtraction, KnowledgeResult, SourceExtraction
    from assets.lakehouse.interface import open_lakehouse
    from temporal_bridge.pipes import PipesTemporalClient, run_group
    from temporal_bridge.resource import TemporalResource
    from temporal_bridge.workflows.knowledge_extraction import KnowledgeExtractionWorkflow

    settings = Settings()
    only = context.run.tags.get(SOURCE_TAG)
    stored = KnowledgeCatalog.from_settings(settings).sources()
    names = [source.name for source in stored if source.name == only or (not only and source.active)]
    group = run_group(context)
    extraction = KnowledgeExtraction(
        run_group=group,
        sources=tuple(SourceExtraction(source=name, run_group=group, trigger="dagster") for name in names),
    )
    client = PipesTemporalClient(TemporalResource(worker_wait_seconds=settings.worker_wait_seconds))
    done = client.run(
        context=context,
        workflow=KnowledgeExtractionWorkflow.run,
        input=extraction,
        task_queue=settings.task_queue,
    )
    result: KnowledgeResult = done.result
    failed = [source for source in result.results if source.status in ("failed", "cancelled")]
    if failed:
        raise dg.Failure("; ".join(f"{source.source}: {source.error}" for source in failed), allow_retries=False)
    for source in result.results:
        context.log.info(f"{source.source}: {source.model_dump_json(exclude_defaults=True)}")
    totals = {
        name: sum(getattr(source.totals, name) for source in result.results)
        for name in ("extracted", "incomplete", "gone", "calls", "tokens_in", "tokens_out", "cost")
    }
    lakehouse = open_lakehouse(settings)
    state = lakehouse.state(answers_table())
    yield dg.MaterializeResult(
        asset_key=ANSWERS_KEY, metadata={"dagster/row_count": state.rows if state else 0, **totals, **done.metadata}
    )
    yield from _results(settings, lakehouse, SILVER)


def _results(settings: Settings, lakehouse: Any, tables: tuple[str, ...]) -> Iterator[Any]:
    from assets.knowledge.reading import KnowledgeReader

    with KnowledgeReader(settings, lakehouse) as reader:
        checks = {check["table"]: check for check in reader.checks()}
        for name in tables:
            metadata: dict[str, Any] = {"dagster/row_count": reader.count(name)}
            if name == "observations":
                metadata["provenance"] = dg.MetadataValue.md(_links(reader.rows(name, LINKS)))
            found = checks.get(name)
            results = []
            if found and name in _CHECKS:
                results.append(
                    dg.AssetCheckResult(
                        check_name=found["name"],
                        asset_key=silver_key(name),
                        passed=found["passed"],
                        severity=dg.AssetCheckSeverity.WARN
                        if found["name"] == "extraction_coverage"
                        else dg.AssetCheckSeverity.ERROR,
                        description=found["detail"],
                        metadata={"rows": found["rows"], "wrong": found["wrong"]},
                    )
                )
            yield dg.MaterializeResult(asset_key=silver_key(name), metadata=metadata, check_results=results)


def _links(rows: list[dict[str, Any]]) -> str:
    """Observations, each with a link to the message it quotes."""
    lines = ["| kind | quote | message |", "|---|---|---|"]
    for row in rows:
        quote = row["quote"].replace("|", "\\|").replace("\n", " ")[:120]
        place = {name: row[name] for name in ("source", "session", "message", "start", "end")}
        lines.append(f"| {row['kind']} | {quote} | [open](/headrace/knowledge/message?{urlencode(place)}) |")
    return "\n".join(lines)


def request_after_sync(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request a run when a chat table of an active source has another version than at the last request."""
    from assets.catalog.knowledge import KnowledgeCatalog
    from assets.knowledge.source_config import ChatTables
    from assets.lakehouse.interface import TableId, open_lakehouse

    settings = Settings()
    lakehouse = open_lakehouse(settings)
    versions: dict[str, int | None] = {}
    for record in KnowledgeCatalog.from_settings(settings).sources():
        if not record.active or not isinstance(record.source, ChatTables):
            continue
        found = {}
        for table in chat_tables(record.source):
            state = lakehouse.state(TableId(layer="silver", connector=record.source.connector, table=table))
            found[f"{record.name} {table}"] = state.version if state else None
        if None not in found.values():
            versions |= found
    if not versions:
        return dg.SkipReason("no active source reads chat tables that were synced")
    seen = json.dumps(versions, sort_keys=True)
    if seen == context.cursor:
        return dg.SkipReason("no chat table has changed")
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"knowledge/{seen}")], cursor=seen)
