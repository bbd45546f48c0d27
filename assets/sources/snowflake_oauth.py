"""Login of a person at Snowflake, or at the provider of an External OAuth integration: endpoints, scope, statements.

Snowflake OAuth for custom clients: https://docs.snowflake.com/en/user-guide/oauth-custom; External OAuth:
https://docs.snowflake.com/en/user-guide/oauth-ext-custom.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from assets.oauth import OAuthClient
from assets.sources.snowflake_names import folded, literal

if TYPE_CHECKING:
    from assets.sources.snowflake_connection import SnowflakeConfig

INTEGRATION = "HEADRACE"
TOKEN_REFUSED = frozenset([390303, 390318])
"""The access token is invalid, or expired: the two that a new one may mend."""
_TOKEN_WORDS = re.compile(r"invalid oauth access token|oauth access token expired", re.IGNORECASE)
_PLAIN_ROLE = re.compile(r"[-_A-Za-z0-9]+\Z")


class PersonLogin(BaseModel):
    """A person logs in once, at Snowflake or at an External OAuth provider; the tokens are kept and refreshed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    client_id: str = Field(
        description="Client id of the security integration, or of Headrace at the provider. Its redirect address: "
        "`<address of Headrace>/headrace/oauth/callback`.",
        examples=["q7Rk0dBsxZ5mUe2yWn4hJvTgC1o="],
    )
    client_secret: SecretStr | None = Field(
        default=None, description="Client secret, or `env:NAME` / `file:PATH`; a public client has none."
    )
    authorization_url: str | None = Field(
        default=None,
        description="External OAuth: where the person's browser is sent. Default: the account's `/oauth/authorize`.",
        pattern=r"^https?://",
        examples=["https://login.example.com/oauth2/v1/authorize"],
    )
    token_url: str | None = Field(
        default=None,
        description="External OAuth: token endpoint. Default: the account's own `/oauth/token-request`.",
        pattern=r"^https?://",
        examples=["https://login.example.com/oauth2/v1/token"],
    )
    scope: str | None = Field(
        default=None,
        description="Scopes, separated by blanks. Default: `refresh_token` (External OAuth: `offline_access`) and "
        "`session:role:ROLE` for the connector's role.",
        examples=["refresh_token session:role:HEADRACE"],
    )

    @model_validator(mode="after")
    def _both_addresses(self) -> PersonLogin:
        if bool(self.authorization_url) != bool(self.token_url):
            raise ValueError("authorization_url and token_url go together")
        return self

    @property
    def external(self) -> bool:
        return self.token_url is not None


def oauth_client(config: SnowflakeConfig) -> OAuthClient | None:
    """Headrace's registration where the config asks a person to log in."""
    login = config.oauth
    if login is None:
        return None
    scope = login.scope or " ".join(["offline_access" if login.external else "refresh_token", *_role_scope(config)])
    return OAuthClient(
        authorization_url=login.authorization_url or f"{config.base_url}/oauth/authorize",
        token_url=login.token_url or f"{config.base_url}/oauth/token-request",
        client_id=login.client_id,
        client_secret=login.client_secret,
        scope=scope,
        basic=not login.external,
    )


def _role_scope(config: SnowflakeConfig) -> list[str]:
    """Names in scopes are exact: upper case, unless the role was made with quotes."""
    if not config.role:
        return []
    role = folded(config.role)
    return [f"session:role:{role}" if _PLAIN_ROLE.match(role) else f"session:role-encoded:{quote(role, safe='')}"]


def registration(config: SnowflakeConfig, redirect_uri: str) -> str:
    """The statements by which an account administrator lets Headrace log people in.

    Of an External OAuth integration the provider's own values are left open.
    """
    assert config.oauth is not None
    if config.oauth.external:
        return (
            f"CREATE SECURITY INTEGRATION {INTEGRATION}\n"
            "  TYPE = EXTERNAL_OAUTH\n"
            "  ENABLED = TRUE\n"
            "  EXTERNAL_OAUTH_TYPE = CUSTOM -- or OKTA, AZURE, PING_FEDERATE\n"
            "  EXTERNAL_OAUTH_ISSUER = '<issuer of the provider>'\n"
            "  EXTERNAL_OAUTH_JWS_KEYS_URL = '<its address of keys>'\n"
            f"  EXTERNAL_OAUTH_AUDIENCE_LIST = ({literal(config.base_url)})\n"
            "  EXTERNAL_OAUTH_SCOPE_MAPPING_ATTRIBUTE = 'scp'\n"
            "  EXTERNAL_OAUTH_TOKEN_USER_MAPPING_CLAIM = 'sub'\n"
            "  EXTERNAL_OAUTH_SNOWFLAKE_USER_MAPPING_ATTRIBUTE = 'LOGIN_NAME';"
        )
    plain = "  OAUTH_ALLOW_NON_TLS_REDIRECT_URI = TRUE\n" if redirect_uri.startswith("http://") else ""
    return (
        f"CREATE SECURITY INTEGRATION {INTEGRATION}\n"
        "  TYPE = OAUTH\n"
        "  ENABLED = TRUE\n"
        "  OAUTH_CLIENT = CUSTOM\n"
        "  OAUTH_CLIENT_TYPE = 'CONFIDENTIAL'\n"
        f"  OAUTH_REDIRECT_URI = {literal(redirect_uri)}\n"
        f"{plain}"
        "  OAUTH_ENFORCE_PKCE = TRUE\n"
        "  OAUTH_ISSUE_REFRESH_TOKENS = TRUE\n"
        "  OAUTH_REFRESH_TOKEN_VALIDITY = 7776000;\n"
        f"SELECT SYSTEM$SHOW_OAUTH_CLIENT_SECRETS({literal(INTEGRATION)});"
    )


def refuses_token(number: int, text: str) -> bool:
    """Whether a login was refused for an access token that a new one may replace."""
    return number in TOKEN_REFUSED or bool(_TOKEN_WORDS.search(text))
