"""Tokens that a person got for a connector by an authorization-code flow: encrypted, refreshed once however many ask.

They stand in the connector's row. Whoever refreshes them claims the row for a while first, so that of several workers,
on any machines, one asks the authorization server and the others wait for what it stores. A refresh token that the
server does not replace is kept.
"""

from __future__ import annotations

import json
import secrets
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete

from assets.catalog.models import OAuthFlowRow, now
from assets.catalog.oauth_state import OAuthState, oauth_state
from assets.errors import ConfigurationError, ConflictError, SourceAccessError, SourceUnreachableError
from assets.oauth import LoginError, OAuthClient, give_access
from assets.url_guard import UrlGuard

if TYPE_CHECKING:
    from assets.catalog.store import Catalog

FLOW_SECONDS = 600
EARLY = timedelta(seconds=60)
"""A token is refreshed this long before it ends, or earlier by half of a short life."""
UNKNOWN_LIFE = timedelta(hours=1)
CLAIM = timedelta(seconds=45)
"""Longer than a request to a token endpoint may take: after it a dead worker's claim is void."""
WAIT_SECONDS = 60


class OAuthTokens:
    """The tokens of one stored connector: `assets.oauth.AccessTokens`."""

    def __init__(self, catalog: Catalog, connector: str) -> None:
        self._catalog, self._connector = catalog, connector

    def state(self) -> OAuthState | None:
        return oauth_state(self._stored())

    def access_token(self, client: OAuthClient, rejected: str | None = None) -> str:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            stored = self._stored()
            if stored is None:
                raise SourceAccessError(
                    "nobody has given access yet.", where=self._connector, remedy=give_access(self._connector)
                )
            if stored["client"] != list(client.identity):
                raise self._refused(
                    "the connector's authorization server, client or scope was changed since access was given."
                )
            tokens = json.loads(stored["tokens"])
            if tokens["access_token"] != rejected and not _ends_soon(stored):
                return str(tokens["access_token"])
            if not stored["refreshable"] or stored.get("problem"):
                state = oauth_state(stored)
                raise self._refused((state and state.warning()) or "the source refuses the access token.")
            if self._claim(tokens["access_token"]):
                return self._refreshed(client, tokens)
            if time.monotonic() > deadline:
                raise SourceUnreachableError("another worker refreshes the access token.", where=self._connector)
            time.sleep(0.2)

    def store(self, client: OAuthClient, answer: dict[str, Any], person: str) -> OAuthState:
        """Keep the tokens of a finished flow in place of earlier ones.

        Raises:
            NotFoundError: the connector is gone.
        """
        entry = self._entry(client, answer, None) | {"authorized_by": person, "authorized_at": now().isoformat()}
        state = oauth_state(entry)
        assert state is not None
        with self._catalog._writing_secrets() as session:
            row = self._catalog._row_to_change(session, self._connector)
            row.oauth = entry | {"tokens": self._catalog._vault.encrypted(entry["tokens"])}
            row.oauth_claimed_until = None
        return state

    def forget(self) -> None:
        """Drop the tokens."""
        with self._catalog._writing() as session:
            row = self._catalog._row_to_change(session, self._connector)
            row.oauth = row.oauth_claimed_until = None

    def _refused(self, what: str) -> SourceAccessError:
        return SourceAccessError(what, where=self._connector, remedy=give_access(self._connector))

    def _stored(self) -> dict[str, Any] | None:
        """The entry of the connector's row, its tokens in the clear."""
        return self._catalog.resolved(self._connector, lambda row: row.oauth)

    def _claim(self, seen: str) -> bool:
        """Whether this process may refresh: nobody else does, and nobody has since ``seen`` was read."""
        with self._catalog._writing() as session:
            row = self._catalog._row_to_change(session, self._connector)
            if row.oauth is None or (row.oauth_claimed_until is not None and row.oauth_claimed_until > now()):
                return False
            if json.loads(self._catalog._vault.resolve(row.oauth, self._connector)["tokens"])["access_token"] != seen:
                return False
            row.oauth_claimed_until = now() + CLAIM
            return True

    def _refreshed(self, client: OAuthClient, tokens: dict[str, str]) -> str:
        """Ask for new tokens and store them before the first use. The row is claimed by this process."""
        kept: dict[str, Any] = {}
        try:
            answer = client.by_refresh_token(tokens["refresh_token"], UrlGuard.from_settings(), self._connector)
            kept = self._entry(client, answer, tokens["refresh_token"])
            return str(answer["access_token"])
        except LoginError as error:
            if error.reason == "invalid_grant":  # another refusal may be mended in the config
                kept = {"problem": error.what}
            raise SourceAccessError(
                f"access has to be given again: {error.what}.",
                where=self._connector,
                remedy=give_access(self._connector),
            ) from None
        finally:
            with self._catalog._writing_secrets() as session:
                row = self._catalog._row_to_change(session, self._connector)
                row.oauth_claimed_until = None
                if row.oauth is not None and kept:
                    if "tokens" in kept:
                        kept["tokens"] = self._catalog._vault.encrypted(kept["tokens"])
                    row.oauth = row.oauth | kept

    def _entry(self, client: OAuthClient, answer: dict[str, Any], earlier: str | None) -> dict[str, Any]:
        """What is kept of an answer of the token endpoint."""
        refresh_token = answer.get("refresh_token") or earlier
        access_life = _life(answer, "expires_in") or UNKNOWN_LIFE
        refresh_life = _life(answer, "refresh_token_expires_in", "refresh_expires_in")
        entry: dict[str, Any] = {
            "client": list(client.identity),
            "tokens": json.dumps({"access_token": answer["access_token"], "refresh_token": refresh_token}),
            "access_expires_at": (now() + access_life).isoformat(),
            "refresh_after": (now() + access_life - min(EARLY, access_life / 2)).isoformat(),
            "refreshable": bool(refresh_token),
            "problem": None,
        }
        if refresh_life or earlier is None:  # a kept refresh token keeps its end
            entry["refresh_expires_at"] = (now() + refresh_life).isoformat() if refresh_life else None
        return entry


def _ends_soon(stored: dict[str, Any]) -> bool:
    return datetime.fromisoformat(stored["refresh_after"]) <= now()


def _life(answer: dict[str, Any], *names: str) -> timedelta | None:
    for name in names:
        try:
            seconds = int(answer[name])
        except (KeyError, TypeError, ValueError):
            continue
        if 0 < seconds < 100 * 366 * 86_400:
            return timedelta(seconds=seconds)
    return None


class OAuthFlows:
    """Flows that were begun: what has to be known when the browser comes back."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def begin(self, connector: str, client: OAuthClient, redirect_uri: str, person: str) -> str:
        """Begin a flow; returns the address to open in the person's browser, within ten minutes."""
        from assets.catalog.access import hashed

        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        with self._catalog._writing_secrets() as session:
            session.execute(delete(OAuthFlowRow).where(OAuthFlowRow.expires_at < now()))
            session.add(
                OAuthFlowRow(
                    state_hash=hashed(state),
                    connector=connector,
                    person=person,
                    redirect_uri=redirect_uri,
                    verifier=self._catalog._vault.encrypted(verifier),
                    expires_at=now() + timedelta(seconds=FLOW_SECONDS),
                )
            )
        return client.request_address(redirect_uri, state, verifier)

    def take(self, state: str, person: str) -> tuple[str, str, str]:
        """Connector, code verifier and redirect address of a begun flow, which is over then.

        Raises:
            ConflictError: it was begun by somebody else, took too long, or is over.
        """
        from assets.catalog.access import hashed

        with self._catalog._writing() as session:
            row = session.get(OAuthFlowRow, hashed(state), with_for_update=True)
            if row is None or row.expires_at < now() or row.person != person:
                raise ConflictError(
                    "this login was begun by somebody else, took too long, or is over.", remedy="Begin it again."
                )
            session.delete(row)
            return row.connector, str(self._catalog._vault.resolve(row.verifier, row.connector)), row.redirect_uri


def oauth_client_of(connector: Any) -> OAuthClient:
    """A connector's registration at its authorization server.

    Raises:
        ConfigurationError: its config asks for no such login.
    """
    client = connector.oauth_client()
    if client is None:
        raise ConfigurationError("this connector's config asks for no login of a person.", where=connector.name)
    return client
