"""Users, sessions, API tokens and the audit log. A secret leaves here once, when it is made; its hash stays."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from assets.catalog.access_models import AuditRow, SessionRow, SetupLinkRow, TokenRow, UserRow
from assets.catalog.access_records import (
    ROLE_SCOPES,
    ROLES,
    SCOPES,
    AuditRecord,
    Outcome,
    Role,
    Scope,
    SessionRecord,
    TokenRecord,
    UserRecord,
)
from assets.catalog.listing import MAX_LIMIT, Page
from assets.catalog.models import now
from assets.errors import ChangedError, ConfigurationError, ConflictError, NotFoundError

TOKEN_PREFIX = "hr_"
SETUP_LINK_HOURS = 24
MAX_SESSIONS = 20
"""Of one user; the oldest ones end."""
SEEN_EVERY = timedelta(minutes=1)
MAX_NAME = 255
_Transaction = Callable[[], AbstractContextManager[Session]]


def hashed(secret: str) -> str:
    """SHA-256: these secrets are 256 random bits, so nothing slower is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Access:
    """Who may come in. Open one with ``Catalog.access``."""

    def __init__(self, reading: _Transaction, writing: _Transaction) -> None:
        self._reading = reading
        self._writing = writing

    # users

    def users(self) -> list[UserRecord]:
        with self._reading() as session:
            return [_user_record(row) for row in session.scalars(select(UserRow).order_by(UserRow.name))]

    def has_users(self) -> bool:
        with self._reading() as session:
            return session.scalar(select(UserRow.name).limit(1)) is not None

    def user(self, name: str) -> UserRecord:
        """Raises NotFoundError where there is none of that name."""
        with self._reading() as session:
            return _user_record(_user_row(session, name))

    def password_hash(self, name: str) -> str | None:
        """The Argon2 hash of a user's password; None where no such user may come in by one."""
        query = select(UserRow.password_hash).where(UserRow.name == name, UserRow.disabled_at.is_(None))
        with self._reading() as session:
            return session.scalar(query)

    def add_user(self, name: str, role: Role, password_hash: str | None) -> UserRecord:
        """Store a user.

        Raises:
            ConfigurationError: the name or role is wrong.
            ConflictError: the name is taken.
        """
        _check_user(name, role)
        row = UserRow(name=name, role=role, password_hash=password_hash, created_at=now())
        with self._writing() as session:
            if session.get(UserRow, name) is not None:
                raise ConflictError("a user of this name exists already.", where=name)
            session.add(row)
            session.flush()
            return _user_record(row)

    def admit(self, issuer: str, subject: str, name: str, role: Role) -> UserRecord:
        """The user that an OpenID provider vouches for, with the role of today's claims; stored at the first login.

        Raises:
            ConflictError: another user has this name, or this one is disabled.
        """
        _check_user(name, role)
        with self._writing() as session:
            known = select(UserRow).where(UserRow.issuer == issuer, UserRow.subject == subject)
            row = session.scalars(known).one_or_none()
            if row is None:
                if session.get(UserRow, name) is not None:
                    raise ConflictError("another user has this name.", where=name, remedy="Ask an administrator.")
                row = UserRow(name=name, issuer=issuer, subject=subject, created_at=now())
                session.add(row)
            if row.disabled_at is not None:
                raise ConflictError("this user is disabled.", where=row.name, remedy="Ask an administrator.")
            row.role = role
            session.flush()
            return _user_record(row)

    def set_password(self, name: str, password_hash: str) -> None:
        """Replace a user's password; their sessions end.

        Raises:
            NotFoundError: there is none of that name.
            ConfigurationError: an OpenID provider vouches for them.
        """
        with self._writing() as session:
            row = _user_row(session, name)
            if row.issuer is not None:
                raise ConfigurationError("this user logs in at an OpenID provider.", where=name)
            row.password_hash = password_hash
            session.execute(delete(SessionRow).where(SessionRow.user_name == name))

    def set_role(self, name: str, role: Role, *, was: Role | None = None) -> UserRecord:
        """Give a user another role.

        Args:
            was: change it only where this is still the role.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: it would leave no administrator.
            ChangedError: somebody else changed the role.
        """
        _check_user(name, role)
        with self._writing() as session:
            row = _user_row(session, name)
            if was is not None and row.role != was:
                raise ChangedError("this user's role was changed meanwhile.", where=name, remedy="Read it again.")
            if role != "admin":
                _keep_an_administrator(session, row)
            row.role = role
            return _user_record(row)

    def set_disabled(self, name: str, disabled: bool) -> UserRecord:
        """Keep a user out, with their sessions and tokens, or let them in again. What they own stays.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: it would leave no administrator.
        """
        with self._writing() as session:
            row = _user_row(session, name)
            if disabled:
                _keep_an_administrator(session, row)
                session.execute(delete(SessionRow).where(SessionRow.user_name == name))
            row.disabled_at = (row.disabled_at or now()) if disabled else None
            return _user_record(row)

    def remove_user(self, name: str) -> None:
        """Remove a user with their sessions and tokens.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: they are the last administrator.
        """
        with self._writing() as session:
            row = _user_row(session, name)
            _keep_an_administrator(session, row)
            session.delete(row)

    # the first administrator

    def make_setup_link(self) -> str | None:
        """The secret of a link that makes the first administrator; None where there are users already."""
        with self._writing() as session:
            if session.scalar(select(UserRow.name).limit(1)) is not None:
                return None
            session.execute(delete(SetupLinkRow))
            secret = secrets.token_urlsafe(32)
            expires_at = now() + timedelta(hours=SETUP_LINK_HOURS)
            session.add(SetupLinkRow(secret_hash=hashed(secret), expires_at=expires_at))
            return secret

    def setup_link_holds(self, secret: str) -> bool:
        with self._reading() as session:
            return _setup_link(session, secret) is not None

    def use_setup_link(self, secret: str, name: str, password_hash: str) -> UserRecord:
        """Make the first administrator; the link is gone then.

        Raises:
            ConflictError: the link was used or has expired, or there are users already.
        """
        _check_user(name, "admin")
        with self._writing() as session:
            link = _setup_link(session, secret)
            if link is None or session.scalar(select(UserRow.name).limit(1)) is not None:
                raise ConflictError(
                    "this set-up link was used, or has expired.", remedy="Start headrace up again: it prints a new one."
                )
            session.delete(link)
            row = UserRow(name=name, role="admin", password_hash=password_hash, created_at=now())
            session.add(row)
            session.flush()
            return _user_record(row)

    # sessions

    def open_session(self, name: str, lifetime: timedelta) -> str:
        """Log a user in. Returns the session's secret."""
        secret = secrets.token_urlsafe(32)
        with self._writing() as session:
            user = _user_row(session, name)
            user.last_login_at = now()
            session.execute(delete(SessionRow).where(SessionRow.expires_at < now()))
            surplus = (
                select(SessionRow.secret_hash)
                .where(SessionRow.user_name == name)
                .order_by(SessionRow.last_seen_at.desc())
                .offset(MAX_SESSIONS - 1)
            )
            for old in session.scalars(surplus).all():
                session.execute(delete(SessionRow).where(SessionRow.secret_hash == old))
            session.add(
                SessionRow(
                    secret_hash=hashed(secret),
                    user_name=name,
                    created_at=now(),
                    last_seen_at=now(),
                    expires_at=now() + lifetime,
                )
            )
        return secret

    def session(self, secret: str, idle: timedelta) -> SessionRecord | None:
        """The session of a browser, if it is neither ended, expired nor idle for too long."""
        with self._reading() as session:
            row = session.get(SessionRow, hashed(secret))
            if row is None or row.expires_at <= now() or row.last_seen_at + idle <= now():
                return None
            user = session.get(UserRow, row.user_name)
            if user is None or user.disabled_at is not None:
                return None
            found = SessionRecord(
                user=_user_record(user),
                created_at=row.created_at,
                last_seen_at=row.last_seen_at,
                expires_at=row.expires_at,
            )
        if found.last_seen_at + SEEN_EVERY < now():
            with self._writing() as session:
                if (row := session.get(SessionRow, hashed(secret))) is not None:
                    row.last_seen_at = now()
        return found

    def close_session(self, secret: str) -> None:
        with self._writing() as session:
            session.execute(delete(SessionRow).where(SessionRow.secret_hash == hashed(secret)))

    # tokens

    def make_token(
        self, name: str, owner: str, scopes: Sequence[Scope], lifetime: timedelta
    ) -> tuple[TokenRecord, str]:
        """Make an API token of a user. Returns it and its secret, which is shown this once.

        Raises:
            NotFoundError: there is no such user.
            ConfigurationError: a scope is unknown, or more than the user may do.
        """
        if not 0 < len(name) <= MAX_NAME:
            raise ConfigurationError("a token needs a name of at most 255 characters.")
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes:
            raise ConfigurationError(f"no such scope: {', '.join(unknown)}.", remedy=f"Scopes: {', '.join(SCOPES)}.")
        if not timedelta(minutes=1) <= lifetime <= timedelta(days=3660):
            raise ConfigurationError("a token is valid for a minute up to ten years.")
        with self._writing() as session:
            user = _user_row(session, owner)
            surplus = sorted(set(scopes) - _scopes_of(user))
            if surplus:
                raise ConfigurationError(f"a {user.role} may not {', '.join(surplus)}.", where=owner)
            number = secrets.token_hex(4)
            secret = f"{TOKEN_PREFIX}{number}_{secrets.token_urlsafe(32)}"
            row = TokenRow(
                id=number,
                secret_hash=hashed(secret),
                name=name,
                owner=owner,
                scopes=sorted(set(scopes)),
                created_at=now(),
                expires_at=now() + lifetime,
            )
            session.add(row)
            session.flush()
            return _token_record(row), secret

    def token(self, secret: str) -> tuple[TokenRecord, UserRecord] | None:
        """The token of a request with its owner, if it is known and has not expired."""
        with self._reading() as session:
            row = session.scalars(select(TokenRow).where(TokenRow.secret_hash == hashed(secret))).one_or_none()
            if row is None or row.expires_at <= now():
                return None
            user = session.get(UserRow, row.owner)
            if user is None or user.disabled_at is not None:
                return None
            found = _token_record(row), _user_record(user)
        if found[0].last_used_at is None or found[0].last_used_at + SEEN_EVERY < now():
            with self._writing() as session:
                if (row := session.get(TokenRow, found[0].id)) is not None:
                    row.last_used_at = now()
        return found

    def tokens(self, owner: str | None = None) -> list[TokenRecord]:
        query = select(TokenRow).order_by(TokenRow.created_at)
        if owner is not None:
            query = query.where(TokenRow.owner == owner)
        with self._reading() as session:
            return [_token_record(row) for row in session.scalars(query)]

    def revoke_token(self, id: str) -> None:
        """Raises NotFoundError where there is no such token."""
        with self._writing() as session:
            row = session.get(TokenRow, id)
            if row is None:
                raise NotFoundError("there is no such token.", where=id[:80], remedy="See: headrace tokens list")
            session.delete(row)

    # audit

    def audit(
        self,
        actor: str,
        action: str,
        target: str = "",
        *,
        outcome: Outcome = "done",
        address: str = "",
        detail: str = "",
        keep_days: int = 365,
    ) -> None:
        """Write one line. Now and then lines older than ``keep_days`` are removed."""
        with self._writing() as session:
            session.add(
                AuditRow(
                    at=now(),
                    actor=actor[:MAX_NAME],
                    action=action[:MAX_NAME],
                    target=target[:2000],
                    outcome=outcome,
                    address=address[:64],
                    detail=detail[:2000],
                )
            )
            if secrets.randbelow(200) == 0:
                session.execute(delete(AuditRow).where(AuditRow.at < now() - timedelta(days=keep_days)))

    def audit_page(
        self, *, actor: str | None = None, outcome: Outcome | None = None, limit: int = 50, offset: int = 0
    ) -> Page[AuditRecord]:
        """The audit log, newest first."""
        query = select(AuditRow)
        if actor is not None:
            query = query.where(AuditRow.actor == actor)
        if outcome is not None:
            query = query.where(AuditRow.outcome == outcome)
        limit = max(1, min(limit, MAX_LIMIT))
        with self._reading() as session:
            total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
            rows = session.scalars(query.order_by(AuditRow.at.desc(), AuditRow.id.desc()).limit(limit).offset(offset))
            items = tuple(
                AuditRecord.model_validate({name: getattr(row, name) for name in AuditRecord.model_fields})
                for row in rows
            )
        return Page(items=items, total=total, limit=limit, offset=offset)

    def failed_logins(self, since: datetime, name: str, address: str) -> tuple[int, int, int]:
        """Failed logins of this name from this address, from this address, and of this name."""
        of_name, from_address = AuditRow.target == name[:2000], AuditRow.address == address[:64]
        query = select(
            func.count().filter(of_name & from_address), func.count().filter(from_address), func.count().filter(of_name)
        ).where(
            AuditRow.action == "login", AuditRow.outcome == "failed", AuditRow.at > since, or_(of_name, from_address)
        )
        with self._reading() as session:
            both, here, anywhere = session.execute(query).one()
            return both, here, anywhere


def _check_user(name: str, role: str) -> None:
    if not name.strip() or name != name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise ConfigurationError("a user's name is 1 to 255 printable characters, without spaces around it.")
    if role not in ROLES:
        raise ConfigurationError(f"{role[:80]!r} is no role.", remedy=f"Roles: {', '.join(ROLES)}.")


def _user_row(session: Session, name: str) -> UserRow:
    row = session.get(UserRow, name)
    if row is None:
        raise NotFoundError("there is no user of this name.", where=name[:80], remedy="See: headrace users list")
    return row


def _keep_an_administrator(session: Session, row: UserRow) -> None:
    others = select(UserRow.name).where(
        UserRow.role == "admin", UserRow.disabled_at.is_(None), UserRow.name != row.name
    )
    if row.role == "admin" and row.disabled_at is None and session.scalar(others.limit(1)) is None:
        raise ConflictError("this is the last administrator.", where=row.name, remedy="Make another one first.")


def _setup_link(session: Session, secret: str) -> SetupLinkRow | None:
    row = session.get(SetupLinkRow, hashed(secret))
    return row if row is not None and row.expires_at > now() else None


def _scopes_of(row: UserRow) -> frozenset[Scope]:
    return next((scopes for role, scopes in ROLE_SCOPES.items() if role == row.role), frozenset())


def _user_record(row: UserRow) -> UserRecord:
    return UserRecord.model_validate({name: getattr(row, name) for name in UserRecord.model_fields})


def _token_record(row: TokenRow) -> TokenRecord:
    return TokenRecord.model_validate({name: getattr(row, name) for name in TokenRecord.model_fields})
