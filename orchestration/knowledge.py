"""Knowledge in the Python API: sources, extraction, search, entities, export. ``headrace knowledge`` prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from assets.errors import BridgeError, NotFoundError
from assets.knowledge.work import ExtractionResult, KnowledgeExtraction, SourceExtraction
from assets.sync import Model

if TYPE_CHECKING:
    from assets.catalog.knowledge import KnowledgeCatalog
    from assets.knowledge.source_config import KnowledgeSource
    from orchestration.headrace import Headrace

SearchKind = Literal["entity", "observation", "relation", "message"]
SearchBy = Literal["words", "meaning"]


class ExtractionReport(Model):
    """One call of ``extract``: a result a source. ``waited`` is false where the work goes on in the background."""

    run_group: str
    workflow_id: str
    waited: bool = True
    sources: tuple[ExtractionResult, ...] = ()

    @property
    def ok(self) -> bool:
        return all(source.status in ("succeeded", "skipped", "stopped") for source in self.sources)


class SearchHit(Model):
    """One row that fits a search, the best first. ``place`` says where an observation or message stands."""

    kind: SearchKind
    id: str
    text: str
    score: float
    type: str = ""
    source: str | None = None
    session: str | None = None
    message: str | None = None
    start: int | None = None
    end: int | None = None


class EntityView(Model):
    """One entity with all that is known of it. Rows are the tables' own."""

    entity: dict[str, Any]
    observations: tuple[dict[str, Any], ...] = ()
    relations: tuple[dict[str, Any], ...] = ()
    mentions: tuple[dict[str, Any], ...] = ()
    history: tuple[dict[str, Any], ...] = ()


class Knowledge:
    """What the sessions and documents of one installation say."""

    def __init__(self, headrace: Headrace) -> None:
        self._headrace = headrace
        self._opened: KnowledgeCatalog | None = None

    @property
    def _catalog(self) -> KnowledgeCatalog:
        from assets.catalog.knowledge import KnowledgeCatalog

        if self._opened is None:
            self._opened = KnowledgeCatalog.from_settings(self._headrace.settings)
        return self._opened

    # sources

    def add(
        self,
        name: str,
        source: Mapping[str, Any],
        extractor: Mapping[str, Any] | None = None,
        *,
        active: bool = True,
        replace: bool = False,
        unchanged_since: datetime | None = None,
    ) -> KnowledgeSource:
        """Store a source: see ``docs/knowledge.md`` for its kinds.

        Raises:
            ConfigurationError: the name or config is wrong.
            ConflictError: the name is taken.
            ChangedError: ``unchanged_since`` is not its ``updated_at`` any more.
        """
        return self._catalog.add_source(
            name, source, extractor, active=active, replace=replace, unchanged_since=unchanged_since
        )

    def sources(self) -> list[KnowledgeSource]:
        return self._catalog.sources()

    def source(self, name: str) -> KnowledgeSource:
        """One source.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self._catalog.source(name)

    def remove(self, name: str, *, erase: bool = False) -> None:
        """Remove a source. What was extracted of it stays in the tables, unless ``erase`` takes it out of them first.

        Raw answers in Bronze belong to texts, whichever sources hold them, and stay. Earlier versions of the tables go
        with their retention.

        Raises:
            NotFoundError: there is none of that name.
            BridgeError: it could not be erased; the source is still there.
        """
        if erase:
            (result,) = self.extract(name, erase=True, trigger="erase").sources
            if result.status != "succeeded":
                raise BridgeError(
                    f"its knowledge could not be erased: {result.error or result.reason or result.status}",
                    where=name,
                    remedy="Try again when the source's extraction has ended.",
                )
        self._catalog.remove_source(name)

    def runs(self, source: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """The latest extractions, newest first, with what they did and cost."""
        return self._catalog.runs(source, limit)

    # extraction

    def extract(
        self,
        source: str | Sequence[str] | None = None,
        *,
        again: bool = False,
        erase: bool = False,
        token_budget: int | None = None,
        wait: bool = True,
        run_group: str | None = None,
        trigger: str = "manual",
    ) -> ExtractionReport:
        """Extract what is new or changed. Starts the one-machine stack if none runs.

        Args:
            source: one, several, or None for every active source.
            again: every session anew; answers that are stored are not paid twice.
            erase: instead, take every session of the sources out of the tables, with what rests on them alone.
            token_budget: of this run and each source; default: the source's own.
            wait: False returns as soon as the work is started; needs a running stack.
            run_group: identity of the work; the same one attaches to it.

        Raises:
            NotFoundError: there is no such source.
            BridgeError: Temporal or its worker is missing.
        """
        from orchestration.dataset_run import new_run_group, temporal_in_use
        from temporal_bridge.workflows.knowledge_extraction import KnowledgeExtractionWorkflow

        if source is None:
            names = [record.name for record in self.sources() if record.active]
        else:
            names = [source] if isinstance(source, str) else list(dict.fromkeys(source))
            for name in names:
                self._catalog.source(name)
        group = run_group or new_run_group()
        workflow_id = f"knowledge-run/{group}"
        report = ExtractionReport(run_group=group, workflow_id=workflow_id, waited=wait)
        if not names:
            return report
        settings = self._headrace.settings
        extraction = KnowledgeExtraction(
            run_group=group,
            sources=tuple(
                SourceExtraction(
                    source=name,
                    run_group=group,
                    again=again,
                    erase=erase,
                    token_budget=token_budget,
                    trigger=trigger,
                )
                for name in names
            ),
        )
        with temporal_in_use(settings, may_start=wait) as (client, _stack):
            run = client.start_workflow(
                KnowledgeExtractionWorkflow,
                extraction,
                id=workflow_id,
                task_queue=settings.task_queue,
                summary=f"knowledge of {', '.join(names)[:150]}",
            )
            if not wait:
                return report
            return report.model_copy(update={"sources": client.wait(run).results})

    # what is known

    def search(
        self, query: str, *, kind: SearchKind | None = None, limit: int = 20, by: SearchBy = "words"
    ) -> list[SearchHit]:
        """Full-text search: all words have to occur, ``"..."`` finds a phrase, ``word*`` a beginning. Best first.

        ``by="meaning"`` compares vectors instead: an extra, see ``docs/knowledge.md``.

        Raises:
            ConfigurationError: search by meaning is not installed.
        """
        from assets.knowledge.search import KnowledgeIndex

        index = KnowledgeIndex(self._headrace.settings, self._headrace._lakehouse())
        find = index.nearest if by == "meaning" else index.search
        return [SearchHit.model_validate(hit) for hit in find(query, kind, limit)]

    def entity(self, entity: str) -> EntityView:
        """One entity by its id, its canonical name or an alias, with observations, relations, mentions and history.

        Raises:
            NotFoundError: there is none.
        """
        from assets.knowledge.reading import KnowledgeReader

        with KnowledgeReader(self._headrace.settings, self._headrace._lakehouse()) as reader:
            found = reader.entity(entity)
        if found is None:
            raise NotFoundError("no entity has this id or name.", where=entity[:80])
        return EntityView.model_validate(found)

    def rows(self, table: str, limit: int = 100) -> list[dict[str, Any]]:
        """The first live rows of one of the tables, in the order of their keys.

        Raises:
            NotFoundError: there is no such table.
        """
        from assets.knowledge.reading import KnowledgeReader

        with KnowledgeReader(self._headrace.settings, self._headrace._lakehouse()) as reader:
            return reader.rows(table, limit)

    def message(self, source: str, session: str, message: str) -> dict[str, Any]:
        """The message that a place points to: where provenance leads.

        Raises:
            NotFoundError: it is not there any more.
        """
        from assets.knowledge.reading import KnowledgeReader

        with KnowledgeReader(self._headrace.settings, self._headrace._lakehouse()) as reader:
            found = reader.message(source, session, message)
        if found is None:
            raise NotFoundError("there is no such message.", where=f"{source}/{session}/{message}"[:200])
        return found

    def check(self) -> list[dict[str, Any]]:
        """Every span quotes its message exactly, relations point to entities, every session was extracted."""
        from assets.knowledge.reading import KnowledgeReader

        with KnowledgeReader(self._headrace.settings, self._headrace._lakehouse()) as reader:
            return reader.checks()

    def export(self, folder: str | Path, format: Literal["jsonl", "csv", "parquet"] = "jsonl") -> dict[str, int]:
        """Write each table into a file of its own. Returns rows by table."""
        from assets.knowledge.reading import KnowledgeReader

        with KnowledgeReader(self._headrace.settings, self._headrace._lakehouse()) as reader:
            return reader.export(Path(folder), format)
