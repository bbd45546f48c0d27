"""OAuth 2 for connectors: what a connector says of its authorization server, and the requests to its endpoints.

A person gives access once, by an authorization-code flow with PKCE (RFC 6749, 7636); the tokens are kept in the catalog
(``assets/catalog/oauth_tokens.py``) and refreshed there.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode, urlsplit, urlunsplit

from assets.errors import HeadraceError, SourceAccessError, SourceUnreachableError
from assets.sync import CheckResult

if TYPE_CHECKING:
    from pydantic import SecretStr

    from assets.sources.interface import Connector
    from assets.url_guard import UrlGuard

CALLBACK = "/headrace/oauth/callback"
"""Where the authorization server sends the person's browser back to."""
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
REQUEST_SECONDS = (10, 20)
"""To connect, and of silence."""


class LoginError(SourceAccessError):
    """The token endpoint refuses; ``reason`` is the standard's word for it, where it said one."""

    reason = ""


@dataclass(frozen=True)
class OAuthClient:
    """Headrace's registration at an authorization server.

    Args:
        parameters: more fields of the authorization request, such as ``access_type=offline``.
        basic: the token endpoint takes the client's secret in the header ``Authorization``, not in the body.
    """

    authorization_url: str
    token_url: str
    client_id: str
    client_secret: SecretStr | None = None
    scope: str | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    basic: bool = False

    @property
    def identity(self) -> tuple[str, str, str, str | None]:
        """Tokens belong to it: where it changes, they are worth nothing."""
        return self.authorization_url, self.token_url, self.client_id, self.scope

    def request_address(self, redirect_uri: str, state: str, code_verifier: str) -> str:
        """Where a person's browser goes to give access."""
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        own = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "state": state,
            "code_challenge": create_s256_code_challenge(code_verifier),
            "code_challenge_method": "S256",
        } | ({"scope": self.scope} if self.scope else {})
        parts = urlsplit(self.authorization_url)
        query = "&".join(filter(None, (parts.query, urlencode(self.parameters | own))))
        return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))

    def by_code(self, code: str, code_verifier: str, redirect_uri: str, guard: UrlGuard, where: str) -> dict[str, Any]:
        """The first tokens, for the code that the browser brought back."""
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": code_verifier,
        }
        return self._ask(fields, guard, where)

    def by_refresh_token(self, refresh_token: str, guard: UrlGuard, where: str) -> dict[str, Any]:
        """New tokens for a refresh token."""
        return self._ask({"grant_type": "refresh_token", "refresh_token": refresh_token}, guard, where)

    def _ask(self, fields: dict[str, str], guard: UrlGuard, where: str) -> dict[str, Any]:
        return request_token(self.token_url, self.client_id, self.client_secret, fields, guard, where, basic=self.basic)


class AccessTokens(Protocol):
    """The tokens of one stored connector."""

    def access_token(self, client: OAuthClient, rejected: str | None = None) -> str:
        """A token that is valid for a while, refreshed at need, once however many ask.

        Args:
            rejected: a token that the source refused just now though it should hold.

        Raises:
            SourceAccessError: nobody has given access yet, or it has to be given again.
            SourceUnreachableError: the token endpoint does not answer.
        """
        ...

    def state(self) -> Any:
        """`assets.catalog.oauth_state.OAuthState`, or None where nobody has given access."""
        ...


def give_access(connector: str) -> str:
    """What a person does to give a stored connector access."""
    return f"Log in at its source: open /headrace/oauth/{connector}"


def redirect_address() -> str:
    """The address to register at authorization servers, as far as the settings tell it."""
    from assets.settings import Settings

    return (Settings().web_url or "<address of Headrace>").rstrip("/") + CALLBACK


def access_token_of(connector: Connector, rejected: str | None = None) -> str:
    """The token that a connector with an ``oauth_client`` connects with now: `AccessTokens.access_token`."""
    client, tokens = connector.oauth_client(), connector.access_tokens
    assert client is not None
    if tokens is None:
        raise SourceAccessError(
            "a person has to log in at the source.", where=connector.name, remedy="Save the connector, then log in."
        )
    return tokens.access_token(client, rejected)


def access_check(connector: Connector) -> CheckResult:
    """Whether a connector with an ``oauth_client`` has access now, and in its detail when that ends."""
    started = time.monotonic()
    try:
        access_token_of(connector)
    except HeadraceError as error:
        seconds = time.monotonic() - started
        return CheckResult(name="login", ok=False, detail=error.what, fix=error.remedy, seconds=seconds)
    state = connector.access_tokens.state()  # type: ignore[union-attr]
    warning = state.warning()
    detail = warning or f"access was given by {state.authorized_by} on {state.authorized_at:%Y-%m-%d}"
    if state.ends_at and not warning:
        detail += f", until {state.ends_at:%Y-%m-%d %H:%M} UTC"
    seconds = time.monotonic() - started
    fix = give_access(connector.name) if warning else ""
    return CheckResult(name="login", ok=True, detail=detail, fix=fix, seconds=seconds)


def request_token(
    url: str,
    client_id: str,
    secret: SecretStr | None,
    fields: dict[str, str],
    guard: UrlGuard,
    where: str,
    *,
    basic: bool = False,
) -> dict[str, Any]:
    """Ask a token endpoint. The client's secret goes in the body, as nearly every server takes it, or with ``basic``
    in the header, id and secret as they are.

    Raises:
        LoginError: it refuses. Its text may repeat what was sent and is left out, but for a code of the standard.
        SourceUnreachableError: it does not answer.
        UrlRefusedError: the address is one that Headrace does not go to.
    """
    import requests

    headers, data = {"Accept": "application/json"}, dict(fields)
    if basic and secret:
        pair = f"{client_id}:{secret.get_secret_value()}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    else:
        data |= {"client_id": client_id} | ({"client_secret": secret.get_secret_value()} if secret else {})
    try:
        session = guard.requests_session(timeout=REQUEST_SECONDS, max_redirects=0)
        response = session.post(url, data=data, headers=headers)
        answer = response.json()
    except requests.RequestException as error:
        if not isinstance(error, ValueError):
            raise SourceUnreachableError(
                f"the token endpoint does not answer ({type(error).__name__})", where=where
            ) from None
        answer = None
    except ValueError:
        answer = None
    if response.status_code in RETRIED:
        raise SourceUnreachableError(f"the token endpoint answers {response.status_code}", where=where)
    if not response.ok or not isinstance(answer, dict) or not answer.get("access_token"):
        refused = LoginError(
            f"the token endpoint refused the login ({f'{response.status_code} {_reason(answer)}'.strip()})",
            where=where,
            remedy="Correct token_url, client_id and the secret, or log in again for a new refresh token.",
        )
        refused.reason = _reason(answer)
        raise refused
    return answer


_REASONS = (
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
)


def _reason(answer: Any) -> str:
    code = answer.get("error") if isinstance(answer, dict) else None
    return code if isinstance(code, str) and code in _REASONS else ""
