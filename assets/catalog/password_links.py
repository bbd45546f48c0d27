"""Links by which a user chooses a password: made by an administrator, good once, for a day."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from assets.catalog.access import hashed
from assets.catalog.access_models import PasswordLinkRow, SessionRow, UserRow
from assets.catalog.models import now
from assets.errors import ConfigurationError, ConflictError, NotFoundError

LINK_LIFE = timedelta(hours=24)
_Transaction = Callable[[], AbstractContextManager[Session]]


class PasswordLinks:
    """The links of one installation. Open them with ``Catalog.password_links``."""

    def __init__(self, reading: _Transaction, writing: _Transaction) -> None:
        self._reading = reading
        self._writing = writing

    def make(self, name: str) -> tuple[str, datetime]:
        """The secret of a new link of a user, in place of an earlier one, and when it ends.

        Raises:
            NotFoundError: there is no such user.
            ConfigurationError: an OpenID provider vouches for them.
        """
        secret, expires_at = secrets.token_urlsafe(32), now() + LINK_LIFE
        with self._writing() as session:
            user = session.get(UserRow, name)
            if user is None:
                raise NotFoundError("there is no user of this name.", where=name[:80])
            if user.issuer is not None:
                raise ConfigurationError("this user logs in at an OpenID provider.", where=name)
            session.execute(delete(PasswordLinkRow).where(PasswordLinkRow.user_name == name))
            session.add(PasswordLinkRow(user_name=name, secret_hash=hashed(secret), expires_at=expires_at))
        return secret, expires_at

    def user_of(self, secret: str) -> str | None:
        """Whose password a link changes; None: it was used, has ended, or its user is disabled."""
        with self._reading() as session:
            user = _user_of(session, secret)
            return user.name if user else None

    def use(self, secret: str, password_hash: str) -> str:
        """Set the password; the link is gone then, and the user's sessions end. Returns the user's name.

        Raises:
            ConflictError: the link was used, has ended, or its user is disabled.
        """
        with self._writing() as session:
            user = _user_of(session, secret)
            if user is None:
                raise ConflictError("this link was used, or has ended.", remedy="Ask an administrator for another one.")
            session.execute(delete(PasswordLinkRow).where(PasswordLinkRow.user_name == user.name))
            session.execute(delete(SessionRow).where(SessionRow.user_name == user.name))
            user.password_hash = password_hash
            return user.name


def _user_of(session: Session, secret: str) -> UserRow | None:
    query = (
        select(UserRow)
        .join(PasswordLinkRow, PasswordLinkRow.user_name == UserRow.name)
        .where(PasswordLinkRow.secret_hash == hashed(secret), PasswordLinkRow.expires_at > now())
        .where(UserRow.disabled_at.is_(None))
    )
    return session.scalars(query).one_or_none()
