"""Answers by idempotency key: a request that is sent again gets the first one's answer, and its effect happens once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, String, Text, delete
from sqlalchemy.orm import Mapped, Session, mapped_column

from assets.catalog.models import Base, now
from assets.errors import ConflictError
from assets.sync import Model

KEPT = timedelta(days=1)
ABANDONED_AFTER = timedelta(minutes=10)
"""A request that has not ended by then died with its server; the next one may do it."""


class IdempotencyRow(Base):
    __tablename__ = "idempotency"

    caller: Mapped[str] = mapped_column(String(255), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None]
    answer: Mapped[str | None] = mapped_column(Text)
    headers: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(index=True)


class KeptAnswer(Model):
    """What the first request was answered."""

    status: int
    answer: str
    headers: dict[str, str]


class Idempotency:
    """Answers by caller and key. Open one with ``Catalog.idempotency``."""

    def __init__(self, writing: Callable[[], AbstractContextManager[Session]]) -> None:
        self._writing = writing

    def begin(self, caller: str, key: str, request_hash: str) -> KeptAnswer | None:
        """Take the key, or return what its first request was answered.

        Raises:
            ConflictError: the first request is not answered yet, or was another one.
        """
        with self._writing() as session:
            session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < now() - KEPT))
            row = session.get(IdempotencyRow, (caller, key), with_for_update=True)
            if row is not None and row.request_hash != request_hash:
                raise ConflictError("this idempotency key was used for another request.", remedy="Send a new key.")
            if row is not None and row.status is not None:
                return KeptAnswer(status=row.status, answer=row.answer or "", headers=row.headers or {})
            if row is not None and row.created_at > now() - ABANDONED_AFTER:
                raise ConflictError("the first request with this key is still going on.", retryable=True)
            if row is None:
                row = IdempotencyRow(caller=caller, key=key)
                session.add(row)
            row.request_hash, row.created_at = request_hash, now()
            return None

    def end(self, caller: str, key: str, status: int, answer: str, headers: dict[str, str]) -> None:
        with self._writing() as session:
            if (row := session.get(IdempotencyRow, (caller, key))) is not None:
                row.status, row.answer, row.headers = status, answer, headers

    def give_up(self, caller: str, key: str) -> None:
        """The request had no effect: the key may be used again."""
        with self._writing() as session:
            found = (IdempotencyRow.caller == caller) & (IdempotencyRow.key == key)
            session.execute(delete(IdempotencyRow).where(found))
