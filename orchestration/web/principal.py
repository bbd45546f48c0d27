"""Who asks, and what they may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Role = Literal["viewer", "operator", "admin"]
Scope = Literal["read", "data", "operate", "admin", "metrics", "refresh"]
"""``read``: names, status, history. ``data``: rows of tables. ``operate``: run, cancel, pause, test. ``admin``: change
connectors, pipelines and users. ``metrics``: the figures for Prometheus. ``refresh``: Dagster reads the catalog
again."""

ROLES: tuple[Role, ...] = get_args(Role)
SCOPES: tuple[Scope, ...] = get_args(Scope)
ROLE_SCOPES: dict[Role, frozenset[Scope]] = {
    "viewer": frozenset({"read", "data", "metrics"}),
    "operator": frozenset({"read", "data", "metrics", "operate"}),
    "admin": frozenset(SCOPES),
}
_KEY = "headrace.principal"


@dataclass(frozen=True)
class Principal:
    """A user, an API token of a user, the stack itself, or nobody."""

    name: str
    kind: Literal["user", "token", "stack", "anonymous"]
    scopes: frozenset[Scope] = frozenset()
    role: Role | None = None
    session: str | None = None
    """Secret of the browser's session, where one asks: forms prove with it that they came from these pages."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


ANONYMOUS = Principal("", "anonymous")
EVERYONE = Principal("everyone", "user", ROLE_SCOPES["admin"], "admin")
"""Whoever asks a server that was started without a login."""


def principal_of(scope: Mapping[str, Any]) -> Principal:
    """The principal that the login found for this ASGI scope; anonymous where no login ran."""
    return scope.get(_KEY, ANONYMOUS)


def set_principal(scope: dict[str, Any], principal: Principal) -> None:
    scope[_KEY] = principal
