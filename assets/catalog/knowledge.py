"""Knowledge in the catalog: sources, runs, and the answers of models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from assets.catalog.database import open_database, reading, unreachable
from assets.catalog.models import KnowledgeRunRow, KnowledgeSourceRow, ModelAnswerRow, now
from assets.catalog.secrets import SecretVault
from assets.errors import ChangedError, ConfigurationError, ConflictError, NotFoundError
from assets.knowledge.source_config import EndpointExtractor, KnowledgeSource
from assets.knowledge.work import ExtractionResult, SourceExtraction
from assets.naming import CONNECTOR_NAME
from assets.settings import Settings

CALLING = "calling"


class AnswerClaimedError(ConflictError):
    """Another worker asks for this answer right now; its answer will serve."""

    retryable_by_default = True


class KnowledgeCatalog:
    """One object serves all threads of a process. Open one with `KnowledgeCatalog.from_settings`."""

    def __init__(self, engine: Engine, vault: SecretVault) -> None:
        self._engine = engine
        self._vault = vault

    @classmethod
    def from_settings(cls, settings: Settings) -> KnowledgeCatalog:
        """Open the catalog, creating or migrating its tables at need.

        Raises:
            ConfigurationError: the database is unreachable, or newer than this program.
        """
        return cls(open_database(settings), SecretVault(settings))

    @contextmanager
    def _session(self, write: bool) -> Iterator[Session]:
        try:
            if write:
                with Session(self._engine) as session, session.begin():
                    yield session
            else:
                with Session(reading(self._engine)) as session:
                    yield session
        except OperationalError as error:
            raise unreachable(error, self._engine) from None

    # sources

    def add_source(
        self,
        name: str,
        source: Mapping[str, Any],
        extractor: Mapping[str, Any] | None = None,
        *,
        active: bool = True,
        replace: bool = False,
        unchanged_since: datetime | None = None,
    ) -> KnowledgeSource:
        """Store a source.

        Args:
            source: config of a kind in ``assets.knowledge.source_config``, its ``kind`` included.
            extractor: default: the embedded one.
            unchanged_since: change it only where this is still its ``updated_at``.

        Raises:
            ConfigurationError: name or config is wrong; the message names the field.
            ConflictError: the name is taken.
            ChangedError: it was changed meanwhile.
        """
        if not CONNECTOR_NAME.match(name):
            raise ConfigurationError(
                f"{name[:80]!r} is no source name.",
                remedy="Use a-z, 0-9 and _, a letter first, at most 63 characters.",
            )
        fields = {"name": name, "source": dict(source), "active": active}
        if extractor is not None:
            fields["extractor"] = dict(extractor)
        try:
            record = KnowledgeSource.model_validate(fields)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)
            )
            raise ConfigurationError(f"{problems}.", where=name, remedy="See docs/knowledge.md.") from None
        with self._session(True) as session:
            row = session.get(KnowledgeSourceRow, name, with_for_update=True)
            if row is not None and not replace:
                raise ConflictError(
                    "a knowledge source of this name exists already.", where=name, remedy="Change it with --replace."
                )
            if unchanged_since is not None and (row is None or row.updated_at != unchanged_since):
                raise ChangedError("this source was changed meanwhile.", where=name, remedy="Read it again.")
            if row is None:
                row = KnowledgeSourceRow(name=name, created_at=now())
                session.add(row)
            row.config, row.active, row.updated_at = _stored(record), active, now()
            try:
                session.flush()
            except IntegrityError:
                raise ConflictError("a knowledge source of this name exists already.", where=name) from None
            return _source(row)

    def sources(self) -> list[KnowledgeSource]:
        with self._session(False) as session:
            return [
                _source(row) for row in session.scalars(select(KnowledgeSourceRow).order_by(KnowledgeSourceRow.name))
            ]

    def source(self, name: str) -> KnowledgeSource:
        """One source.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._session(False) as session:
            row = session.get(KnowledgeSourceRow, name)
            if row is None:
                raise _missing(name)
            return _source(row)

    def remove_source(self, name: str) -> None:
        """Remove a source; what was extracted stays until its sessions are removed from the tables.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._session(True) as session:
            row = session.get(KnowledgeSourceRow, name)
            if row is None:
                raise _missing(name)
            session.delete(row)

    def version(self) -> str:
        """Changes whenever a source does."""
        with self._session(False) as session:
            count, latest = session.execute(
                select(func.count(), func.max(KnowledgeSourceRow.updated_at)).select_from(KnowledgeSourceRow)
            ).one()
            return f"{count}@{latest.isoformat() if latest else '-'}"

    def api_key(self, config: EndpointExtractor, where: str) -> str | None:
        """The key that the reference leads to; the caller keeps it no longer than for its call.

        Raises:
            ConfigurationError: the reference leads nowhere.
        """
        if config.api_key is None:
            return None
        return str(self._vault.in_the_clear(config.api_key, where))

    # runs

    def begin_run(self, work: SourceExtraction, workflow_id: str | None) -> None:
        """Open the run's row; a repeat leaves it."""
        with self._session(True) as session:
            row = session.get(KnowledgeRunRow, (work.run_group, work.source))
            if row is None:
                session.add(
                    KnowledgeRunRow(
                        run_group=work.run_group,
                        source=work.source,
                        trigger=work.trigger,
                        status="running",
                        workflow_id=workflow_id,
                        started_at=now(),
                    )
                )
            elif row.completed_at is not None:  # a failed run that is done again
                row.status, row.completed_at, row.error, row.workflow_id = "running", None, None, workflow_id

    def end_run(self, work: SourceExtraction, result: ExtractionResult) -> None:
        """Close the run's row."""
        self.begin_run(work, result.workflow_id)
        with self._session(True) as session:
            row = session.get(KnowledgeRunRow, (work.run_group, work.source))
            assert row is not None
            row.status, row.completed_at, row.error = result.status, now(), (result.error or None)
            row.result = result.model_dump(mode="json")

    def runs(self, source: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """The latest runs, newest first: times, status, and what they did and cost."""
        query = select(KnowledgeRunRow).order_by(KnowledgeRunRow.started_at.desc()).limit(limit)
        if source is not None:
            query = query.where(KnowledgeRunRow.source == source)
        with self._session(False) as session:
            columns = ("run_group", "source", "trigger", "status", "started_at", "completed_at", "error", "result")
            return [{name: getattr(row, name) for name in columns} for row in session.scalars(query)]

    # answers

    def answer(self, content_hash: str, model: str, prompt_version: str) -> ModelAnswerRow | None:
        """The stored answer, detached; also one that is being asked for (status ``calling``)."""
        with self._session(False) as session:
            row = session.get(ModelAnswerRow, (content_hash, model, prompt_version))
            if row is not None:
                session.expunge(row)
            return row

    def answered(self, keys: Sequence[tuple[str, str, str]]) -> set[str]:
        """Content hashes of those keys whose answer is final. All keys are of one model and prompt version."""
        found: set[str] = set()
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            with self._session(False) as session:
                rows = session.execute(
                    select(ModelAnswerRow.content_hash).where(
                        ModelAnswerRow.content_hash.in_([key[0] for key in part]),
                        ModelAnswerRow.model == part[0][1],
                        ModelAnswerRow.prompt_version == part[0][2],
                        ModelAnswerRow.status.in_(("answered", "refused", "truncated", "malformed")),
                    )
                )
                found.update(row[0] for row in rows)
        return found

    def claim_answer(self, key: tuple[str, str, str], holder: str, lease_seconds: float) -> ModelAnswerRow:
        """Take the right to ask. Written before the call, so that a call whose worker died is known of.

        Returns:
            The row: with status ``calling`` the caller may ask; any other status is an answer that is there.

        Raises:
            AnswerClaimedError: another holder asks, and its lease runs.
        """
        try:
            with self._session(True) as session:
                row = session.get(ModelAnswerRow, key, with_for_update=True)
                if row is None:
                    row = ModelAnswerRow(
                        content_hash=key[0], model=key[1], prompt_version=key[2], status=CALLING, tokens_in=0,
                        tokens_out=0, calls=0, uncertain=0, updated_at=now(),
                    )  # fmt: skip
                    session.add(row)
                elif row.status in (CALLING, "repair") and row.claimed_by is not None:
                    assert row.claimed_at is not None
                    if row.claimed_by != holder and row.claimed_at > now() - timedelta(seconds=lease_seconds):
                        raise AnswerClaimedError("another worker asks for this answer.", where=key[0][:12])
                    row.uncertain += 1  # its call may have been answered, and the answer died with the worker
                if row.status in (CALLING, "repair"):
                    row.claimed_by, row.claimed_at, row.updated_at = holder, now(), now()
                session.flush()
                session.expunge(row)
                return row
        except IntegrityError:
            raise AnswerClaimedError("another worker asks for this answer.", where=key[0][:12]) from None

    def release_answer(self, key: tuple[str, str, str], *, uncertain: bool) -> None:
        """The call ended without an answer."""
        with self._session(True) as session:
            row = session.get(ModelAnswerRow, key, with_for_update=True)
            if row is not None and row.status in (CALLING, "repair"):
                row.claimed_by = row.claimed_at = None
                row.uncertain += int(uncertain)

    def store_answer(
        self, key: tuple[str, str, str], status: str, answer: str, tokens_in: int, tokens_out: int
    ) -> ModelAnswerRow:
        """Keep what a call brought, before anything uses it. ``repair``: it does not fit, and one more call is due."""
        with self._session(True) as session:
            row = session.get(ModelAnswerRow, key, with_for_update=True)
            assert row is not None
            row.status, row.answer, row.updated_at = status, answer, now()
            row.tokens_in += tokens_in
            row.tokens_out += tokens_out
            row.calls += 1
            row.claimed_by = row.claimed_at = None
            session.flush()
            session.expunge(row)
            return row


def _missing(name: str) -> NotFoundError:
    return NotFoundError(
        "there is no knowledge source of this name.", where=name, remedy="See: headrace knowledge sources"
    )


def _stored(record: KnowledgeSource) -> dict[str, Any]:
    document = record.model_dump(mode="json", include={"source", "extractor"})
    key = getattr(record.extractor, "api_key", None)
    if key is not None:
        document["extractor"]["api_key"] = key.get_secret_value()  # a reference: the model refuses a plain key
    return document


def _source(row: KnowledgeSourceRow) -> KnowledgeSource:
    return KnowledgeSource.model_validate(
        row.config
        | {"name": row.name, "active": row.active, "created_at": row.created_at, "updated_at": row.updated_at}
    )
