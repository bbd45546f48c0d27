"""A person's login at a connector's source: begun here, finished when their browser comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.catalog.oauth_state import OAuthState

if TYPE_CHECKING:
    from orchestration.headrace import Headrace


class ConnectorLogins:
    """The OAuth logins of one installation's connectors."""

    def __init__(self, headrace: Headrace) -> None:
        self._headrace = headrace

    def begin(self, connector: str, redirect_uri: str, person: str) -> str:
        """The address to open in the person's browser, within ten minutes.

        Raises:
            NotFoundError: there is no such connector.
            ConfigurationError: its config asks for no login of a person.
        """
        from assets.catalog.oauth_tokens import oauth_client_of

        catalog = self._headrace.catalog
        client = oauth_client_of(catalog.connector(connector))
        return catalog.oauth_flows.begin(connector, client, redirect_uri, person)

    def finish(self, state: str, code: str, person: str) -> tuple[str, OAuthState]:
        """Change the code for tokens and keep them. Returns the connector's name and what its access is worth.

        Raises:
            ConflictError: the login was begun by somebody else, took too long, or is over.
            SourceAccessError: the authorization server refuses the code.
            SourceUnreachableError: it does not answer.
        """
        from assets.catalog.oauth_tokens import OAuthTokens, oauth_client_of
        from assets.url_guard import UrlGuard

        catalog = self._headrace.catalog
        connector, verifier, redirect_uri = catalog.oauth_flows.take(state, person)
        client = oauth_client_of(catalog.connector(connector))
        answer = client.by_code(code, verifier, redirect_uri, UrlGuard.from_settings(), connector)
        return connector, OAuthTokens(catalog, connector).store(client, answer, person)

    def forget(self, connector: str) -> None:
        """Drop a connector's tokens. The authorization server is not told.

        Raises:
            NotFoundError: there is no such connector.
        """
        from assets.catalog.oauth_tokens import OAuthTokens

        OAuthTokens(self._headrace.catalog, connector).forget()
