"""Finds out who asks: a browser's session, an API token, the stack's own credential."""

from __future__ import annotations

import hashlib
import hmac
from datetime import timedelta
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import Scope

from assets.catalog.access import TOKEN_PREFIX
from assets.catalog.access_records import ROLE_SCOPES
from assets.settings import Settings
from orchestration.stack_credential import stack_credential
from orchestration.web.principal import ANONYMOUS, STACK, Principal

if TYPE_CHECKING:
    from assets.catalog.access import Access

MAX_SECRET = 200


class BadCredentialError(Exception):
    """A token was sent that is unknown, expired or revoked."""


class Sessions:
    """Sessions and tokens of one installation."""

    def __init__(self, settings: Settings, access: Access) -> None:
        self._settings = settings
        self._access = access
        # Cookies do not tell ports apart: two installations on one machine must not log each other out.
        mark = hashlib.sha256(str(settings.home_path).encode()).hexdigest()[:8]
        self.cookie = f"headrace_session_{mark}"

    @property
    def lifetime(self) -> timedelta:
        return timedelta(hours=self._settings.web_session_hours)

    def principal(self, scope: Scope) -> Principal:
        """Who sends this request. Reads the catalog.

        Raises:
            BadCredentialError: the token it brings is not valid.
        """
        headers = Headers(scope=scope)
        authorization = headers.get("authorization")
        if authorization is not None:
            kind, _, secret = authorization.partition(" ")
            return self._of_token(secret.strip() if kind.lower() == "bearer" else "")
        secret = _cookie(headers, self.cookie)
        return self._of_session(secret) if secret else ANONYMOUS

    def _of_token(self, secret: str) -> Principal:
        if not secret or len(secret) > MAX_SECRET:
            raise BadCredentialError
        if not secret.startswith(TOKEN_PREFIX):
            if hmac.compare_digest(secret.encode(), stack_credential(self._settings).encode()):
                return STACK
            raise BadCredentialError
        found = self._access.token(secret)
        if found is None:
            raise BadCredentialError
        token, owner = found
        scopes = frozenset(token.scopes) & ROLE_SCOPES[owner.role]
        return Principal(f"{owner.name} ({token.name})", "token", scopes, owner.role)

    def _of_session(self, secret: str) -> Principal:
        if len(secret) > MAX_SECRET:
            return ANONYMOUS
        session = self._access.session(secret, timedelta(hours=self._settings.web_idle_hours))
        if session is None:
            return ANONYMOUS
        return Principal(session.user.name, "user", ROLE_SCOPES[session.user.role], session.user.role, secret)


def csrf_token(session: str) -> str:
    """What a form of this session has to bring: derived, so that nothing has to be kept."""
    return hmac.new(session.encode(), b"headrace csrf", hashlib.sha256).hexdigest()


def _cookie(headers: Headers, name: str) -> str | None:
    for line in headers.getlist("cookie"):
        try:
            morsel = SimpleCookie(line).get(name)
        except CookieError:
            continue
        if morsel is not None:
            return morsel.value
    return None
