"""The steps of one extraction as plain blocking calls; the Temporal activities call them one to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from assets.errors import NotFoundError
from assets.failpoints import failpoint
from assets.knowledge.dialogue import CHUNK_CHARACTERS, OVERLAP_CHARACTERS, Chunk, Session, chunked
from assets.knowledge.extractor import Answer, Extractor, embedded_extractor, endpoint_identity
from assets.knowledge.fold import Fold
from assets.knowledge.plan import SessionPlanner, source_sessions, staged_sessions, write_parts
from assets.knowledge.prompt import estimated_tokens, problem_of, read_answer, request_messages
from assets.knowledge.session_rows import session_rows
from assets.knowledge.source_config import EndpointExtractor, KnowledgeSource
from assets.knowledge.tables import ANSWER_COLUMNS, ANSWERS, COLUMNS, CONNECTOR
from assets.knowledge.work import (
    BatchInput,
    BatchResult,
    CallInput,
    CallOutcome,
    ExtractionPlan,
    ExtractionResult,
    FoldInput,
    FoldResult,
    ModelCall,
    SourceExtraction,
)
from assets.lakehouse.interface import Lakehouse, open_lakehouse
from assets.process_memory import release_unused
from assets.settings import Settings
from assets.url_guard import UrlGuard

if TYPE_CHECKING:
    from assets.catalog.knowledge import KnowledgeCatalog
    from assets.catalog.models import ModelAnswerRow
    from assets.catalog.store import Catalog

Progress = Callable[[int, int], None]
EMBEDDED_PARALLEL = 2


def _no_progress(rows: int, size: int) -> None: ...


class KnowledgeSteps:
    """The steps, bound to one installation. Every step may be repeated: its effect happens once."""

    def __init__(self, settings: Settings, catalog: Catalog, knowledge: KnowledgeCatalog, lakehouse: Lakehouse) -> None:
        self.settings, self.catalog, self.knowledge, self.lakehouse = settings, catalog, knowledge, lakehouse

    @classmethod
    def from_settings(cls, settings: Settings) -> KnowledgeSteps:
        from assets.catalog.knowledge import KnowledgeCatalog
        from assets.catalog.store import Catalog

        return cls(
            settings,
            Catalog.from_settings(settings),
            KnowledgeCatalog.from_settings(settings),
            open_lakehouse(settings),
        )

    # step 1

    def plan(
        self,
        work: SourceExtraction,
        generation: int,
        attempt: int,
        workflow_id: str | None = None,
        progress: Progress = _no_progress,
    ) -> ExtractionPlan:
        """Find the sessions that are new or changed and stage them in batches.

        Raises:
            NotFoundError: the source, or what it reads, is not there.
        """
        failpoint("knowledge_before_plan")
        self.knowledge.begin_run(work, workflow_id)
        source = self.knowledge.source(work.source)
        endpoint = source.extractor if isinstance(source.extractor, EndpointExtractor) else None
        model, version = self._identity(source)
        counts: dict[str, int] = dict.fromkeys(("sessions", "messages", "changed", "changed_messages"), 0)
        with SessionPlanner(self.settings, self.lakehouse, work, f"{model}/{version}") as planner:
            sessions = (
                (session for session in ())  # as a source that has no session any more
                if work.erase
                else source_sessions(source, self.settings, self.catalog, self.lakehouse)
            )
            with closing(sessions) as all_sessions:  # type: ignore[type-var]
                changed = planner.changed(_watched(all_sessions, progress), counts, endpoint is None)
                batches, more = planner.stage(changed, generation, attempt, endpoint is not None)
            gone, gone_part = (0, ()) if more else planner.gone(generation, attempt)
        plan = ExtractionPlan.model_validate(
            {"batches": batches, "more": more, "gone": gone, "gone_part": gone_part} | counts
        )
        if endpoint is not None:
            budget = work.token_budget if work.token_budget is not None else endpoint.token_budget
            plan = plan.model_copy(
                update={
                    "paid": True,
                    "parallel": endpoint.parallel,
                    "token_budget": budget,
                    "seconds_between_calls": 60 / endpoint.calls_per_minute if endpoint.calls_per_minute else 0,
                    "price_in": endpoint.price_in,
                    "price_out": endpoint.price_out,
                }
            )
        failpoint("knowledge_after_plan")
        return plan

    @staticmethod
    def _identity(source: KnowledgeSource) -> tuple[str, str]:
        if isinstance(source.extractor, EndpointExtractor):
            return endpoint_identity(source.extractor)
        from assets.knowledge.embedded import MODEL, PROMPT_VERSION

        return MODEL, PROMPT_VERSION

    # steps 2 and 3, for models that may cost money

    def prepare_calls(self, batch: BatchInput) -> tuple[ModelCall, ...]:
        """The calls that a batch needs: chunks whose answer is not stored yet, each text once."""
        source = self.knowledge.source(batch.work.source)
        config = _endpoint(source)
        model, version = endpoint_identity(config)
        calls: dict[str, ModelCall] = {}
        for number, (session, _) in enumerate(staged_sessions(self.lakehouse, batch.batch)):
            for chunk in _chunks(session, config.chunk_characters):
                tokens = estimated_tokens(chunk, config.max_output_tokens)
                calls.setdefault(
                    chunk.content_hash,
                    ModelCall(
                        session=number, chunk=chunk.number, content_hash=chunk.content_hash, estimated_tokens=tokens
                    ),
                )
        there = self.knowledge.answered([(content_hash, model, version) for content_hash in calls])
        return tuple(call for content_hash, call in calls.items() if content_hash not in there)

    def call_model(self, call: CallInput, holder: str) -> CallOutcome:
        """Ask the model about one chunk, and store its answer before anything uses it. A stored one is not asked again.

        Args:
            holder: who asks: the same over the attempts of one call.

        Raises:
            EndpointBusyError: worth a retry, after ``retry_after`` seconds where the endpoint says so.
            EndpointRefusedError, UrlRefusedError, ConfigurationError: the endpoint cannot be used as configured.
            AnswerClaimedError: another worker asks for the same text.
        """
        from assets.knowledge.endpoint import Endpoint, EndpointBusyError

        source = self.knowledge.source(call.work.source)
        config = _endpoint(source)
        key = (call.call.content_hash, *endpoint_identity(config))
        row = self.knowledge.claim_answer(key, holder, config.timeout_seconds + 60)
        if row.status not in ("calling", "repair"):
            return _outcome(row, stored_before=True)
        before = (row.tokens_in, row.tokens_out, row.calls)
        chunk = self._chunk(call, config)
        endpoint = Endpoint(config, self.knowledge.api_key(config, source.name), UrlGuard.from_settings(self.settings))
        while row.status in ("calling", "repair"):
            repair = (row.answer or "", problem_of(row.answer or "") or "") if row.status == "repair" else None
            failpoint("knowledge_before_call")
            try:
                completion = endpoint.complete(request_messages(chunk, repair), "/".join([*key, row.status]))
            except EndpointBusyError as error:
                self.knowledge.release_answer(key, uncertain=error.uncertain)
                raise
            except Exception:
                self.knowledge.release_answer(key, uncertain=False)
                raise
            failpoint("knowledge_after_call_before_store")
            status: str = completion.status
            if status == "answered" and problem_of(completion.content):
                status = "malformed" if row.status == "repair" else "repair"
            row = self.knowledge.store_answer(
                key, status, completion.content, completion.tokens_in, completion.tokens_out
            )
            failpoint("knowledge_after_store")
            if row.status == "repair":
                row = self.knowledge.claim_answer(key, holder, config.timeout_seconds + 60)
        return _outcome(row, before=before)

    def _chunk(self, call: CallInput, config: EndpointExtractor) -> Chunk:
        for number, (session, _) in enumerate(staged_sessions(self.lakehouse, call.batch)):
            if number == call.call.session:
                for chunk in _chunks(session, config.chunk_characters):
                    if chunk.number == call.call.chunk and chunk.content_hash == call.call.content_hash:
                        return chunk
        remedy = "Run the extraction again."
        raise NotFoundError("the chunk is not in its batch.", where=call.work.source, remedy=remedy)

    # step 4

    def extract_batch(self, batch: BatchInput, attempt: int, progress: Progress = _no_progress) -> BatchResult:
        """Turn a batch's answers into rows and stage them.

        A session with a chunk that has no usable answer is staged as ``incomplete``, with why.
        """
        failpoint("knowledge_before_extract")
        source = self.knowledge.source(batch.work.source)
        model, version = self._identity(source)
        config = source.extractor
        paid = isinstance(config, EndpointExtractor)
        size = config.chunk_characters if isinstance(config, EndpointExtractor) else CHUNK_CHARACTERS
        embedded = None if paid else embedded_extractor()
        names = ("messages", "mentions", "statements", "sessions")
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        answers: list[dict[str, Any]] = []
        incomplete = dropped = 0
        for done, (session, content_hash) in enumerate(staged_sessions(self.lakehouse, batch.batch), 1):
            chunks = list(_chunks(session, size))
            found, problem = self._answers(chunks, embedded, model, version, answers)
            useful = [(chunk, answer) for chunk, answer in zip(chunks, found, strict=True) if answer is not None]
            result = session_rows(
                source.name, session, [chunk for chunk, _ in useful], [answer for _, answer in useful]
            )
            rows["messages"] += _message_rows(source.name, session)
            rows["mentions"] += result.mentions
            rows["statements"] += result.statements
            rows["sessions"].append(
                _session_row(source.name, session, content_hash, f"{model}/{version}", batch.work.run_group)
                | {
                    "status": "incomplete" if problem else "extracted",
                    "problem": problem,
                    "chunks": len(chunks),
                    "chunks_answered": len(useful),
                    "mentions": len(result.mentions),
                    "statements": len(result.statements),
                }
            )
            incomplete += bool(problem)
            dropped += result.dropped
            progress(done, 0)
        parts = {
            name: write_parts(self.lakehouse, batch.work, f"{name}-{batch.number}", COLUMNS[name], found, attempt)
            for name, found in rows.items()
        }
        parts[ANSWERS] = write_parts(
            self.lakehouse, batch.work, f"answers-{batch.number}", ANSWER_COLUMNS, answers, attempt
        )
        failpoint("knowledge_after_extract")
        return BatchResult(
            parts=parts,
            sessions=len(rows["sessions"]),
            incomplete=incomplete,
            mentions=len(rows["mentions"]),
            statements=len(rows["statements"]),
            dropped=dropped,
        )

    def _answers(
        self,
        chunks: Sequence[Chunk],
        embedded: Extractor | None,
        model: str,
        version: str,
        raw: list[dict[str, Any]],
    ) -> tuple[list[Answer | None], str]:
        """The answer of each chunk, None where there is no usable one; and the first problem in words."""
        found: list[Answer | None] = []
        problem = ""
        if embedded is not None:
            for chunk, answer in zip(chunks, embedded.answers(chunks), strict=True):
                found.append(answer)
                text = answer.model_dump_json(exclude_defaults=True)
                raw.append(_answer_row(chunk.content_hash, model, version, "answered", text))
            return found, ""
        for chunk in chunks:
            row = self.knowledge.answer(chunk.content_hash, model, version)
            answer = None
            if row is None or row.status in ("calling", "repair"):
                problem = problem or f"chunk {chunk.number}: not answered"
            else:
                raw.append(
                    _answer_row(chunk.content_hash, model, version, row.status, row.answer)
                    | {"tokens_in": row.tokens_in, "tokens_out": row.tokens_out, "calls": row.calls}
                )
                if row.status == "answered":
                    answer = read_answer(row.answer or "", chunk)
                else:
                    problem = problem or f"chunk {chunk.number}: {_PROBLEMS[row.status]}"
            found.append(answer)
        return found, problem

    # step 5

    def fold(self, fold: FoldInput, progress: Progress | None = None) -> FoldResult:
        """Bring staged batches, and what left the source, into the tables."""
        failpoint("knowledge_before_fold")
        with Fold(self.lakehouse, fold, self.settings.memory_limit, self.settings.home_path / "scratch") as running:
            result = running.run()
        failpoint("knowledge_after_fold")
        release_unused()
        return result

    # step 6

    def record(self, work: SourceExtraction, result: ExtractionResult) -> ExtractionResult:
        """Close the run's row, then remove the staging."""
        failpoint("knowledge_before_record")
        self.knowledge.end_run(work, result)
        failpoint("knowledge_after_record")
        if result.error_type != "AlreadyRunning":  # the staging is of the run that holds the source
            self.lakehouse.clear_staging(CONNECTOR, f"extract.{work.source}")
        return result


_PROBLEMS = {
    "refused": "the model refused",
    "truncated": "the answer was cut off at the token limit",
    "malformed": "the answer did not fit the schema, nor did its repair",
}


def _endpoint(source: KnowledgeSource) -> EndpointExtractor:
    if not isinstance(source.extractor, EndpointExtractor):
        raise NotFoundError("the source has no endpoint.", where=source.name)
    return source.extractor


def _chunks(session: Session, size: int) -> Iterator[Chunk]:
    return chunked(session.messages, size, min(OVERLAP_CHARACTERS, size // 4))


def _watched(sessions: Iterator[Session], progress: Progress) -> Iterator[Session]:
    for number, session in enumerate(sessions, 1):
        if number % 500 == 0:
            progress(number, 0)
        yield session


def _outcome(
    row: ModelAnswerRow, *, before: tuple[int, int, int] = (0, 0, 0), stored_before: bool = False
) -> CallOutcome:
    """What the calls of this step cost; an answer that was there costs nothing."""
    tokens_in, tokens_out, calls = (
        (0, 0, 0) if stored_before else (row.tokens_in - before[0], row.tokens_out - before[1], row.calls - before[2])
    )
    return CallOutcome(
        answered=row.status == "answered",
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        calls=calls,
        stored_before=stored_before,
        uncertain=row.uncertain,
        problem=_PROBLEMS.get(row.status, ""),
    )


def _answer_row(content_hash: str, model: str, version: str, status: str, answer: str | None) -> dict[str, Any]:
    return {
        "content_hash": content_hash,
        "model": model,
        "prompt_version": version,
        "status": status,
        "answer": answer,
        "tokens_in": 0,
        "tokens_out": 0,
        "calls": 0,
    }


def _message_rows(source: str, session: Session) -> Iterator[dict[str, Any]]:
    for position, message in enumerate(session.messages):
        yield {
            "source": source,
            "session": session.id,
            "message": message.id,
            "position": position,
            "role": message.role,
            "at": message.at,
            "text": message.text,
        }


def _session_row(source: str, session: Session, content_hash: str, extractor: str, run_group: str) -> dict[str, Any]:
    times = [message.at for message in session.messages if message.at]
    return {
        "source": source,
        "session": session.id,
        "title": session.title,
        "content_hash": content_hash,
        "extractor": extractor,
        "messages": len(session.messages),
        "characters": sum(len(message.text) for message in session.messages),
        "first_at": min(times, default=None),
        "last_at": max(times, default=None),
        "run_group": run_group,
    }
