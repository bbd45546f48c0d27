"""Knowledge as kits use it: extract from a source, search, and the tables that queries may read."""

from __future__ import annotations

from typing import Any

from assets.errors import ConfigurationError
from assets.kits.model import Tool
from assets.lakehouse.interface import Lakehouse, TableId
from assets.settings import Settings


def knowledge_tables() -> list[TableId]:
    """The tables that extraction writes."""
    from assets.knowledge.tables import SILVER, silver

    return [silver(name) for name in SILVER]


def extraction_input(tool: Tool, arguments: dict[str, Any], run_group: str, where: str) -> dict[str, Any]:
    """Input of ``KnowledgeExtractionWorkflow`` for the sources that the step names, or the tool's only one."""
    from assets.knowledge.work import KnowledgeExtraction, SourceExtraction

    named = [str(name) for name in arguments.get("sources") or ([tool.source] if tool.source else [])]
    if not named:
        raise ConfigurationError("the step needs the argument `sources`", where=where)
    if tool.source is not None and set(named) - {tool.source}:
        raise ConfigurationError(f"the tool may extract from {tool.source} only", where=where)
    works = tuple(SourceExtraction(source=name, run_group=run_group, trigger="kit") for name in named)
    return KnowledgeExtraction(sources=works, run_group=run_group).model_dump(mode="json")


def search(settings: Settings, lakehouse: Lakehouse, arguments: dict[str, Any], where: str) -> dict[str, Any]:
    """Search what was extracted: ``query``, ``kind``, ``limit``; ``by: meaning`` compares vectors."""
    from assets.knowledge.search import KINDS, KnowledgeIndex

    query, kind = arguments.get("query"), arguments.get("kind")
    if not isinstance(query, str) or (kind is not None and kind not in KINDS):
        raise ConfigurationError(
            f"the step needs the argument `query`; `kind` is one of {', '.join(KINDS)}", where=where
        )
    limit = max(1, min(int(arguments.get("limit", 20)), 200))
    index = KnowledgeIndex(settings, lakehouse)
    find = index.nearest if arguments.get("by") == "meaning" else index.search
    return {"hits": find(query, kind, limit)}
