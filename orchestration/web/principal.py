"""Who asks, and what they may do."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

from assets.catalog.access_records import ROLE_SCOPES, Role, Scope

_KEY, _NOTE = "headrace.principal", "headrace.audit_note"


@dataclass(frozen=True)
class Principal:
    """A user, an API token of a user, the stack itself, or nobody."""

    name: str
    kind: Literal["user", "token", "stack", "everyone", "anonymous"]
    scopes: frozenset[Scope] = frozenset()
    role: Role | None = None
    session: str | None = None
    """Secret of the browser's session, where one asks: forms prove with it that they came from these pages."""

    @property
    def person(self) -> str:
        """The user behind it: the owner, where a token asks."""
        return self.name.rpartition(" (")[0] if self.kind == "token" else self.name

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


ANONYMOUS = Principal("", "anonymous")
EVERYONE = Principal("everyone", "everyone", ROLE_SCOPES["admin"], "admin")
"""Whoever asks a server that was started without a login."""


STACK_SCOPES: frozenset[Scope] = frozenset({"read", "operate", "refresh", "metrics"})
STACK = Principal("headrace", "stack", STACK_SCOPES)
"""The installation's own processes: the sensor that reloads added tables, commands that ask the webserver."""


@dataclass
class AuditNote:
    """What a request does, for the audit log, where its method and path do not say it."""

    action: str = ""
    target: str = ""
    detail: str = ""
    reads_only: bool = False
    """A request that only reads though its method says otherwise."""


def principal_of(scope: Mapping[str, Any]) -> Principal:
    """The principal that the login found for this ASGI scope; anonymous where no login ran."""
    return scope.get(_KEY, ANONYMOUS)


def audit_note_of(scope: Mapping[str, Any]) -> AuditNote:
    """The note of this request; whoever serves it may write on it."""
    return scope.get(_NOTE) or AuditNote()


def set_principal(scope: MutableMapping[str, Any], principal: Principal) -> AuditNote:
    """Give the request a principal and a fresh audit note, which is returned."""
    note = AuditNote()
    scope[_KEY], scope[_NOTE] = principal, note
    return note
