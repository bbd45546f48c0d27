"""Users, sessions, API tokens and the audit log as the catalog returns them; never with a secret."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, get_args

from assets.sync import Model

Role = Literal["viewer", "operator", "admin"]
Scope = Literal["read", "data", "operate", "admin", "metrics", "refresh"]
"""``read``: names, status, history. ``data``: rows of tables. ``operate``: run, cancel, pause, test. ``admin``: change
connectors, pipelines and users. ``metrics``: the figures for Prometheus. ``refresh``: Dagster reads the catalog
again."""
Outcome = Literal["done", "failed", "denied"]

ROLES: tuple[Role, ...] = get_args(Role)
SCOPES: tuple[Scope, ...] = get_args(Scope)
ROLE_SCOPES: dict[Role, frozenset[Scope]] = {
    "viewer": frozenset({"read", "data", "metrics"}),
    "operator": frozenset({"read", "data", "metrics", "operate"}),
    "admin": frozenset(SCOPES),
}


class UserRecord(Model):
    """A person. ``issuer`` names the OpenID provider that vouches for them; None: a password of this installation."""

    name: str
    role: Role
    issuer: str | None = None
    created_at: datetime
    last_login_at: datetime | None = None
    disabled_at: datetime | None = None
    """Since when they may not come in, neither they nor their tokens; None: they may."""


class SessionRecord(Model):
    """A browser that is logged in."""

    user: UserRecord
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime


class TokenRecord(Model):
    """An API token: a subset of what its owner may do."""

    id: str
    name: str
    owner: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None = None


class AuditRecord(Model):
    """Who did what, when, from where, and whether it was let."""

    at: datetime
    actor: str
    action: str
    target: str = ""
    outcome: Outcome
    address: str = ""
    detail: str = ""
