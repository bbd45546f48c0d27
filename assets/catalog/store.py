"""The catalog of one installation: connectors, pipelines, runs. One object serves all threads of a process."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from pydantic import SecretStr, ValidationError
from sqlalchemy import Engine, delete, func, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from assets.catalog.access import Access
from assets.catalog.connector_config import checked_config, connector_type
from assets.catalog.database import open_database, reading, unreachable
from assets.catalog.idempotency import Idempotency
from assets.catalog.key_rotation import KeyRotation, share_keys
from assets.catalog.kit_history import KitHistory
from assets.catalog.listing import Listing
from assets.catalog.models import ConnectorRow, KnowledgeSourceRow, PipelineRow, SecretRow, now
from assets.catalog.oauth_state import oauth_state
from assets.catalog.oauth_tokens import OAuthFlows, OAuthTokens
from assets.catalog.password_links import PasswordLinks
from assets.catalog.records import ConnectorRecord, PipelineRecord, PipelineTable
from assets.catalog.run_claims import RunClaims
from assets.catalog.run_history import RunHistory
from assets.catalog.schedules import check_timezone, parse_schedule
from assets.catalog.secrets import SecretVault, UnknownKeyError, masked, with_kept_secrets
from assets.catalog.stored_secret import StoredSecret
from assets.catalog.table_states import TableStates
from assets.errors import ChangedError, ConfigurationError, ConflictError, NotFoundError, told
from assets.naming import CONNECTOR_NAME
from assets.settings import Settings
from assets.sources.interface import Connector
from assets.sync import (
    CheckResult,
    ColumnChoice,
    Deletes,
    DriftPolicy,
    Overlap,
    RequestedMode,
    TableOptions,
    VerifyLevel,
    WriteMode,
)

MAX_ERROR = 4_000
HASH_KEY = "hash_key"
_IN_OPTIONS = TableOptions.model_fields.keys() - {"mode", "cursor", "key", "deletes", "verify"}
"""Options of a pipeline that share one JSON column, so that a new one needs no migration."""


class Catalog(RunHistory, RunClaims, Listing, TableStates, KitHistory):
    """Connectors, pipelines and runs. Open one with `Catalog.from_settings`."""

    def __init__(self, engine: Engine, vault: SecretVault) -> None:
        self._engine = engine
        self._vault = vault
        self.access = Access(self._reading, self._writing)
        self.password_links = PasswordLinks(self._reading, self._writing)
        self.idempotency = Idempotency(self._writing)
        self.oauth_flows = OAuthFlows(self)
        self.key_rotation = KeyRotation(self._reading, self._writing, vault)

    @classmethod
    def from_settings(cls, settings: Settings) -> Catalog:
        """Open the catalog, creating or migrating its tables at need.

        Raises:
            ConfigurationError: the database is unreachable, or newer than this program.
        """
        return cls(open_database(settings), SecretVault(settings))

    def close(self) -> None:
        """Let go of pooled connections."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        try:
            with Session(reading(self._engine)) as session:
                yield session
        except OperationalError as error:
            raise unreachable(error, self._engine) from None

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        try:
            with Session(self._engine) as session, session.begin():
                yield session
        except OperationalError as error:
            raise unreachable(error, self._engine) from None

    @contextmanager
    def _writing_secrets(self) -> Iterator[Session]:
        """`_writing` for what stores a secret, which is encrypted within: no rotation of the keys comes between."""
        with self._writing() as session:
            share_keys(session)
            yield session

    def _connector_record(self, row: ConnectorRow) -> ConnectorRecord:
        return _connector_record(row)

    def _pipeline_record(self, row: PipelineRow) -> PipelineRecord:
        return _pipeline_record(row)

    def stored_hash_key(self) -> bytes | None:
        """`hash_key`, where it was made already."""
        with self._reading() as session:
            row = session.get(SecretRow, HASH_KEY)
            return bytes.fromhex(self._vault.resolve(row.value, "the key of hashed columns")["key"]) if row else None

    def hash_key(self) -> bytes:
        """The key of hashed columns: made once, kept encrypted in the catalog, one an installation.

        Raises:
            ConfigurationError: the key that it is encrypted with is missing or another.
        """
        with self._reading() as session:
            row = session.get(SecretRow, HASH_KEY)
            stored = row.value if row else None
        if stored is None:
            with contextlib.suppress(IntegrityError), self._writing_secrets() as session:  # or another process made it
                fresh = self._vault.store({"key": SecretStr(secrets.token_hex(32))})
                session.add(SecretRow(name=HASH_KEY, value=fresh, created_at=now()))
            with self._reading() as session:
                stored = session.get_one(SecretRow, HASH_KEY).value
        return bytes.fromhex(self._vault.resolve(stored, "the key of hashed columns")["key"])

    # connectors

    def add_connector(
        self,
        name: str,
        type: str,
        config: Mapping[str, Any],
        *,
        replace: bool = False,
        unchanged_since: datetime | None = None,
        keep_secrets: bool = False,
    ) -> ConnectorRecord:
        """Store a connector, its secrets encrypted, with status ``pending``. Opens no connection to the source.

        Args:
            config: as ``Config`` of the type wants it. In a secret field ``env:NAME`` and ``file:PATH`` are
                references; ``********`` keeps the stored secret when a config is replaced.
            replace: change the connector of that name if there is one.
            unchanged_since: change it only where this is still its ``updated_at``.
            keep_secrets: a secret that ``config`` leaves out stays as it is stored.

        Raises:
            ConfigurationError: the name, the type or the config is wrong; wrong fields are named, values never.
            ConflictError: the name is taken.
            ChangedError: it was changed meanwhile.
        """
        _check_name(name, "connector")
        kind = connector_type(type, where=name)
        if keep_secrets:
            with self._reading() as session:
                known = _connector_row(session, name)
                config = with_kept_secrets(config, known.config if known.type == type else {})
        dumped = checked_config(kind, config, name).model_dump(exclude_unset=True)
        with self._writing_secrets() as session:
            row = session.get(ConnectorRow, name, with_for_update=True)
            _check_unchanged(row, name, "connector", unchanged_since)
            if row is not None and not replace:
                raise _taken("connector", name)
            earlier = row.config if row is not None and row.type == type else None
            stored = self._vault.store(dumped, earlier)
            if row is None:
                row = ConnectorRow(name=name, created_at=now())
                session.add(row)
            if row.type != type:
                row.oauth = row.oauth_claimed_until = None
            row.type, row.config, row.status = type, stored, "pending"
            row.last_tested_at = row.last_error = None
            row.updated_at = now()
            try:
                session.flush()
            except IntegrityError:
                raise _taken("connector", name) from None
            return _connector_record(row)

    def connectors(self) -> list[ConnectorRecord]:
        with self._reading() as session:
            return [_connector_record(row) for row in session.scalars(select(ConnectorRow).order_by(ConnectorRow.name))]

    def connector_record(self, name: str) -> ConnectorRecord:
        """The connector as it is shown, without secrets.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._reading() as session:
            return _connector_record(_connector_row(session, name))

    def connector(self, name: str) -> Connector:
        """The connector ready to read, its secrets resolved just now. Opens no connection.

        Raises:
            NotFoundError: there is none of that name.
            ConfigurationError: a secret cannot be resolved, or the stored config does not fit the type any more.
        """
        type_name, config = self.resolved_config(name)
        kind = connector_type(type_name, where=name)
        built = kind(name, checked_config(kind, config, name))
        built.home = self._vault.home
        built.secret_store = StoredSecret(self, name, self._vault)
        built.access_tokens = OAuthTokens(self, name)
        return built

    def stored_config(self, name: str) -> dict[str, Any]:
        """A connector's config as it is stored, its secrets encrypted."""
        with self._reading() as session:
            return dict(_connector_row(session, name).config)

    def resolved_config(self, name: str) -> tuple[str, dict[str, Any]]:
        """A connector's type, and its config with the secrets in the clear.

        Raises:
            NotFoundError: there is none of that name.
            ConfigurationError: a secret cannot be resolved.
        """
        found = self.resolved(name, lambda row: {"type": row.type, "config": row.config})
        return found["type"], found["config"]

    def resolved(self, name: str, part: Callable[[ConnectorRow], Any]) -> Any:
        """A part of a connector's row with the secrets in the clear. Raises as `resolved_config`."""
        for attempt in (1, 2):
            with self._reading() as session:
                stored = part(_connector_row(session, name))
            try:
                return self._vault.resolve(stored, name)
            except UnknownKeyError:  # the keys may have been rotated since the row was read
                if attempt == 2:
                    raise
        raise AssertionError

    def _row_to_change(self, session: Session, name: str) -> ConnectorRow:
        row = session.get(ConnectorRow, name, with_for_update=True)
        if row is None:
            raise _missing("connector", name)
        return row

    def change_stored_config(self, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Replace a connector's stored config by what ``change`` makes of it, in one transaction."""
        with self._writing_secrets() as session:
            row = session.get(ConnectorRow, name, with_for_update=True)
            if row is not None:
                row.config = change(dict(row.config))

    def trial_connector(self, type: str, config: Mapping[str, Any], name: str = "trial") -> Connector:
        """A connector of a config that is not stored, references resolved, for a test.

        Raises:
            ConfigurationError: the type or the config is wrong, or a reference leads nowhere.
        """
        kind = connector_type(type, where=name)
        dumped = checked_config(kind, config, name).model_dump(exclude_unset=True)
        return kind(name, checked_config(kind, self._vault.in_the_clear(dumped, name), name))

    def record_test(self, name: str, checks: Sequence[CheckResult]) -> ConnectorRecord:
        """Store the outcome of a connection test: ``active`` if all checks passed, else ``error``.

        Raises:
            NotFoundError: there is no connector of that name.
        """
        with self._writing() as session:
            row = _connector_row(session, name)
            failed = next((check for check in checks if not check.ok), None)
            row.status = "error" if failed else "active"
            row.last_error = told(failed.detail, failed.name, failed.fix)[:MAX_ERROR] if failed else None
            row.last_tested_at = now()
            return _connector_record(row)

    def remove_connector(self, name: str, *, force: bool = False) -> None:
        """Remove a connector. Its tables and the history of its runs stay.

        Args:
            force: remove its pipelines too.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: pipelines use it.
        """
        with self._writing() as session:
            row = session.get(ConnectorRow, name, with_for_update=True)
            if row is None:
                raise _missing("connector", name)
            of_connector = PipelineRow.connector == name
            pipelines = session.scalars(select(PipelineRow.name).where(of_connector).order_by(PipelineRow.name)).all()
            if pipelines and not force:
                raise ConflictError(
                    f"pipelines use this connector: {', '.join(pipelines[:10])}.",
                    where=name,
                    remedy=f"Remove them first, or run: headrace connectors remove {name} --force",
                )
            session.execute(delete(PipelineRow).where(of_connector))
            session.delete(row)

    # pipelines

    def add_pipeline(
        self,
        name: str,
        connector: str,
        tables: Sequence[str | PipelineTable | Mapping[str, Any]] = (),
        *,
        all_tables: bool = False,
        mode: RequestedMode = "auto",
        cursor: str | None = None,
        key: Sequence[str] | None = None,
        deletes: Deletes = "none",
        verify: VerifyLevel = "counts",
        write: WriteMode | None = None,
        drift: DriftPolicy | None = None,
        columns: ColumnChoice | Mapping[str, Any] | None = None,
        row_filter: str | None = None,
        fill_added: bool = False,
        schedule: str = "manual",
        timezone: str = "UTC",
        overlap: Overlap = "skip",
        deferred: bool = False,
        active: bool = True,
        replace: bool = False,
        unchanged_since: datetime | None = None,
    ) -> PipelineRecord:
        """Store a pipeline.

        Args:
            tables: names as ``discover`` prints them, or `PipelineTable` with options of its own.
            all_tables: every table of the connector, those that come later too.
            cursor, key: for each table that names none itself; default: found in the source.
            write, drift, columns, row_filter, fill_added: see `assets.sync.TableOptions`.
            schedule: ``cron:*/5 * * * *``, ``every:15m``, ``changes:5m`` (looked for every five minutes) or ``manual``.
            timezone: of a cron schedule, such as ``Europe/Berlin``.
            overlap: what happens to a table that another sync holds: ``skip``, ``queue_one``, ``cancel_other``.
            deferred: Dagster's run starts the work and ends; a sensor reports the tables as they finish.
            replace: change the pipeline of that name if there is one.

        Raises:
            ConfigurationError: a name, option, schedule or time zone is wrong.
            NotFoundError: there is no such connector.
            ConflictError: the name is taken.
        """
        _check_name(name, "pipeline")
        kind, expression = parse_schedule(schedule)
        record = _checked_pipeline(
            name=name,
            connector=connector,
            tables=tuple(_pipeline_table(table, name) for table in tables),
            all_tables=all_tables,
            mode=mode,
            cursor=cursor,
            key=tuple(key) if key else None,
            deletes=deletes,
            verify=verify,
            write=write,
            drift=drift,
            columns=columns,
            row_filter=row_filter,
            fill_added=fill_added,
            schedule_kind=kind,
            schedule_expression=expression,
            timezone=check_timezone(timezone),
            overlap=overlap,
            deferred=deferred,
            active=active,
            created_at=now(),
            updated_at=now(),
        )
        names = [table.name for table in record.tables]
        if not names and not all_tables:
            raise ConfigurationError("name tables, or take all.", where=name, remedy="Use --table T ... or --all.")
        if len(set(names)) != len(names):
            raise ConfigurationError("a table is named twice.", where=name)
        with self._writing() as session:
            _connector_row(session, connector)
            row = session.get(PipelineRow, name, with_for_update=True)
            _check_unchanged(row, name, "pipeline", unchanged_since)
            if row is not None and not replace:
                raise _taken("pipeline", name)
            if row is None:
                row = PipelineRow(name=name, created_at=record.created_at)
                session.add(row)
            for field in PipelineRecord.model_fields.keys() - {"name", "tables", "key", "created_at"} - _IN_OPTIONS:
                setattr(row, field, getattr(record, field))
            row.key = list(record.key) if record.key else None
            row.options = record.model_dump(mode="json", include=_IN_OPTIONS, exclude_defaults=True)
            row.tables = [table.model_dump(mode="json") for table in record.tables]
            try:
                session.flush()
            except IntegrityError:
                raise _taken("pipeline", name) from None
            return _pipeline_record(row)

    def pipelines(self, connector: str | None = None) -> list[PipelineRecord]:
        query = select(PipelineRow).order_by(PipelineRow.name)
        if connector is not None:
            query = query.where(PipelineRow.connector == connector)
        with self._reading() as session:
            return [_pipeline_record(row) for row in session.scalars(query)]

    def pipeline(self, name: str) -> PipelineRecord:
        """One pipeline.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._reading() as session:
            return _pipeline_record(_pipeline_row(session, name))

    def set_pipeline_active(self, name: str, active: bool) -> PipelineRecord:
        """Pause or resume a pipeline's schedule; runs by hand stay possible.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._writing() as session:
            row = _pipeline_row(session, name)
            row.active, row.updated_at = active, now()
            return _pipeline_record(row)

    def remove_pipeline(self, name: str) -> None:
        """Remove a pipeline; tables and history stay.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._writing() as session:
            session.delete(_pipeline_row(session, name))

    def version(self) -> str:
        """Changes whenever a connector, pipeline or knowledge source does: what a refresh of the assets compares."""
        with self._reading() as session:
            rows = (ConnectorRow, PipelineRow, KnowledgeSourceRow)
            found = [session.execute(select(func.count(), func.max(row.updated_at))).one() for row in rows]
            return " ".join(_changed(count, latest) for count, latest in found)

    def version_of(self, connectors: Callable[[str], bool], *, knowledge: bool) -> str:
        """`version` of those connectors whose name is taken, with their pipelines."""
        with self._reading() as session:
            names = ((ConnectorRow, ConnectorRow.name), (PipelineRow, PipelineRow.connector))
            found = [
                [at for name, at in session.execute(select(column, row.updated_at)) if connectors(name)]
                for row, column in names
            ]
            if knowledge:
                found.append(list(session.scalars(select(KnowledgeSourceRow.updated_at))))
            return " ".join(_changed(len(times), max(times, default=None)) for times in found)


def _changed(count: int, latest: datetime | None) -> str:
    return f"{count}@{latest.isoformat() if latest else '-'}"


def _check_unchanged(
    row: ConnectorRow | PipelineRow | None, name: str, what: str, unchanged_since: datetime | None
) -> None:
    if unchanged_since is None:
        return
    if row is None:
        raise _missing(what, name)
    if row.updated_at != unchanged_since:
        raise ChangedError(f"this {what} was changed meanwhile.", where=name, remedy="Read it again.")


def _check_name(name: str, what: str) -> None:
    if not CONNECTOR_NAME.match(name):
        raise ConfigurationError(
            f"{name[:80]!r} is no {what} name.",
            remedy="Use a-z, 0-9 and _, a letter first, at most 63 characters.",
        )


def _taken(what: str, name: str) -> ConflictError:
    return ConflictError(f"a {what} of this name exists already.", where=name, remedy="Change it with --replace.")


def _missing(what: str, name: str) -> NotFoundError:
    return NotFoundError(f"there is no {what} of this name.", where=name, remedy=f"See: headrace {what}s list")


def _connector_row(session: Session, name: str) -> ConnectorRow:
    row = session.get(ConnectorRow, name)
    if row is None:
        raise _missing("connector", name)
    return row


def _pipeline_row(session: Session, name: str) -> PipelineRow:
    row = session.get(PipelineRow, name)
    if row is None:
        raise _missing("pipeline", name)
    return row


def _connector_record(row: ConnectorRow) -> ConnectorRecord:
    fields = {name: getattr(row, name) for name in ConnectorRecord.model_fields if name not in ("config", "oauth")}
    return ConnectorRecord(**fields, config=masked(row.config), oauth=oauth_state(row.oauth))


def _pipeline_record(row: PipelineRow) -> PipelineRecord:
    fields = {n: getattr(row, n) for n in PipelineRecord.model_fields if n != "tables" and n not in _IN_OPTIONS}
    tables = tuple(PipelineTable.model_validate(table) for table in row.tables)
    return PipelineRecord(**fields, **row.options, tables=tables)


def _pipeline_table(table: str | PipelineTable | Mapping[str, Any], where: str) -> PipelineTable:
    try:
        return PipelineTable(name=table) if isinstance(table, str) else PipelineTable.model_validate(table)
    except ValidationError as error:
        raise _unfit(error, where) from None


def _checked_pipeline(**fields: Any) -> PipelineRecord:
    try:
        return PipelineRecord(**fields)
    except ValidationError as error:
        raise _unfit(error, str(fields["name"])) from None


def _unfit(error: ValidationError, where: str) -> ConfigurationError:
    problems = [f"{'.'.join(str(p) for p in item['loc'])}: {item['msg']}" for item in error.errors(include_url=False)]
    return ConfigurationError(f"{'; '.join(problems[:10])}.", where=where)
