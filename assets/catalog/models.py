"""The catalog's tables. ``tests/assets/catalog`` holds them equal to the migrations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """An instant, stored in UTC, returned with its zone; SQLite keeps none of its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant without a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class ConnectorRow(Base):
    __tablename__ = "connectors"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    type: Mapped[str] = mapped_column(String(63))
    config: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16))
    last_tested_at: Mapped[datetime | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    oauth: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    oauth_claimed_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class OAuthFlowRow(Base):
    """A person's login at a connector's source that was begun; the code verifier is encrypted."""

    __tablename__ = "oauth_flows"

    state_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    connector: Mapped[str] = mapped_column(String(63))
    person: Mapped[str] = mapped_column(String(255))
    redirect_uri: Mapped[str] = mapped_column(Text)
    verifier: Mapped[dict[str, Any]]
    expires_at: Mapped[datetime]


class PipelineRow(Base):
    __tablename__ = "pipelines"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    connector: Mapped[str] = mapped_column(ForeignKey("connectors.name"), index=True)
    tables: Mapped[list[Any]]
    all_tables: Mapped[bool] = mapped_column(Boolean)
    mode: Mapped[str] = mapped_column(String(16))
    cursor: Mapped[str | None] = mapped_column(Text)
    key: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    deletes: Mapped[str] = mapped_column(String(16))
    verify: Mapped[str] = mapped_column(String(16))
    options: Mapped[dict[str, Any]] = mapped_column(JSON, server_default=text("'{}'"))
    schedule_kind: Mapped[str] = mapped_column(String(16))
    schedule_expression: Mapped[str | None] = mapped_column(String(255))
    timezone: Mapped[str] = mapped_column(String(63))
    active: Mapped[bool] = mapped_column(Boolean)
    overlap: Mapped[str] = mapped_column(String(16), server_default="skip")
    deferred: Mapped[bool] = mapped_column(Boolean, server_default=false())
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class SecretRow(Base):
    """A secret that the installation made for itself, encrypted."""

    __tablename__ = "installation_secrets"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class RunRow(Base):
    """One run. No foreign keys: the history outlives connectors and pipelines."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_started_at", "started_at"),
        Index("ix_runs_connector_started_at", "connector", "started_at"),
        Index("ix_runs_status_started_at", "status", "started_at"),
        Index("ix_runs_pipeline_started_at", "pipeline", "started_at"),
        Index(
            "ix_runs_open",
            "started_at",
            sqlite_where=text("status = 'running'"),
            postgresql_where=text("status = 'running'"),
        ),
    )

    run_group: Mapped[str] = mapped_column(String(255), primary_key=True)
    connector: Mapped[str] = mapped_column(String(63))
    pipeline: Mapped[str | None] = mapped_column(String(63))
    trigger: Mapped[str] = mapped_column(String(63))
    status: Mapped[str] = mapped_column(String(16))
    workflow_id: Mapped[str | None] = mapped_column(Text)
    dagster_run_id: Mapped[str | None] = mapped_column(String(255))
    deferred: Mapped[bool] = mapped_column(Boolean, server_default=false(), default=False)
    tables: Mapped[list[Any]]
    started_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)


class TableRunRow(Base):
    __tablename__ = "table_runs"
    __table_args__ = (
        UniqueConstraint("run_group", "connector", "table_name"),
        Index("ix_table_runs_connector_table_name_started_at", "connector", "table_name", "started_at"),
        Index("ix_table_runs_completed_at", "completed_at"),
        Index(
            "ix_table_runs_open",
            "started_at",
            sqlite_where=text("status = 'running'"),
            postgresql_where=text("status = 'running'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_group: Mapped[str] = mapped_column(String(255))
    connector: Mapped[str] = mapped_column(String(63))
    table_name: Mapped[str] = mapped_column(Text)
    mode: Mapped[str | None] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    window_low: Mapped[str | None] = mapped_column(Text)
    window_high: Mapped[str | None] = mapped_column(Text)
    rows_read: Mapped[int] = mapped_column(BigInteger)
    rows_bronze: Mapped[int] = mapped_column(BigInteger)
    rows_silver: Mapped[int] = mapped_column(BigInteger)
    rows_deleted: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    equal: Mapped[bool | None] = mapped_column(Boolean)
    watermark_before: Mapped[str | None] = mapped_column(Text)
    watermark_after: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    error_type: Mapped[str | None] = mapped_column(String(255))
    workflow_id: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    options: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class KnowledgeSourceRow(Base):
    """A knowledge source; ``config`` is ``assets.knowledge.source_config.KnowledgeSource`` without names and times."""

    __tablename__ = "knowledge_sources"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    config: Mapped[dict[str, Any]]
    active: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class KnowledgeRunRow(Base):
    """One extraction of one source. No foreign key: the history outlives sources."""

    __tablename__ = "knowledge_runs"
    __table_args__ = (Index("ix_knowledge_runs_source_started_at", "source", "started_at"),)

    run_group: Mapped[str] = mapped_column(String(255), primary_key=True)
    source: Mapped[str] = mapped_column(String(63), primary_key=True)
    trigger: Mapped[str] = mapped_column(String(63))
    status: Mapped[str] = mapped_column(String(16))
    workflow_id: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class ModelAnswerRow(Base):
    """What a model said about one text under one prompt: written before it is used, so that it is paid once.

    ``claimed_by`` is whoever asks right now. ``uncertain`` counts calls that may have been paid without an answer.
    """

    __tablename__ = "model_answers"

    content_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(String(255), primary_key=True)
    prompt_version: Mapped[str] = mapped_column(String(63), primary_key=True)
    status: Mapped[str] = mapped_column(String(16))
    answer: Mapped[str | None] = mapped_column(Text)
    tokens_in: Mapped[int] = mapped_column(BigInteger)
    tokens_out: Mapped[int] = mapped_column(BigInteger)
    calls: Mapped[int]
    uncertain: Mapped[int]
    claimed_by: Mapped[str | None] = mapped_column(String(255))
    claimed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]


class KitRunRow(Base):
    """One run of an agent kit, with the kit as it was when it started."""

    __tablename__ = "kit_runs"
    __table_args__ = (Index("ix_kit_runs_kit_started_at", "kit", "started_at"),)

    run_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    kit: Mapped[str] = mapped_column(String(63))
    definition: Mapped[dict[str, Any]]
    inputs: Mapped[dict[str, Any]]
    trigger: Mapped[str] = mapped_column(String(63))
    status: Mapped[str] = mapped_column(String(16))
    workflow_id: Mapped[str | None] = mapped_column(Text)
    dagster_run_id: Mapped[str | None] = mapped_column(String(255))
    waiting: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]


class KitOutputRow(Base):
    """What one item of a kit's step brought, stored before it is used; item -1 is the step's plan."""

    __tablename__ = "kit_outputs"
    __table_args__ = (UniqueConstraint("run_id", "step", "item"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(String(255))
    step: Mapped[str] = mapped_column(String(63))
    item: Mapped[int]
    ok: Mapped[bool] = mapped_column(Boolean)
    output: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    tokens: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[float] = mapped_column(Double)
    stored_at: Mapped[datetime]
