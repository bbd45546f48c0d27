"""Sessions with Snowflake: credentials, session settings, and the server's errors turned into Headrace's."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from assets.errors import (
    ConfigurationError,
    HeadraceError,
    NotFoundError,
    SourceAccessError,
    SourceUnreachableError,
    UrlRefusedError,
)
from assets.interruption import on_interrupt
from assets.oauth import give_access
from assets.sources.interface import ConnectorConfig
from assets.sources.snowflake_names import folded, quoted
from assets.sources.snowflake_oauth import PersonLogin, refuses_token

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

Access = Callable[[str | None], str]
"""Gives a person's access token; its argument is one that the account refused just now."""
NETWORK_SECONDS = 110
# What an account or a user may have set otherwise, and what reading relies on.
SESSION: dict[str, Any] = {
    "TIMEZONE": "UTC",
    "TIMESTAMP_INPUT_FORMAT": "AUTO",
    "DATE_INPUT_FORMAT": "AUTO",
    "TIMESTAMP_LTZ_OUTPUT_FORMAT": "YYYY-MM-DD HH24:MI:SS.FF9 TZHTZM",
    "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
    "QUERY_TAG": "headrace",
    "ABORT_DETACHED_QUERY": True,
    "ROWS_PER_RESULTSET": 0,
    "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "ARROW",
    "BINARY_OUTPUT_FORMAT": "HEX",
}
LOGIN_REFUSED = frozenset([390100, 390101, 390102, 390103, 390144, 390186, 390422, 394300, 394304])
OAUTH_REFUSED = range(390300, 390400)
ROLE_REFUSED = frozenset([390189, 3013])
TOKEN_EXPIRED = frozenset([390111, 390112, 390113, 390114])
NOT_THERE = frozenset([2003, 2043])
DENIED = frozenset([3001, 3003, 3011, 3013, 3030])
TIME_TRAVEL_LOST = frozenset([707, 2322])
_QUOTED_VALUE = re.compile(r"((?:value|string|number|timestamp|date) )'(?:[^']|'')*'", re.IGNORECASE)
_LOGIN_WORDS = re.compile(r"incorrect username or password|jwt token|oauth|user access|authentication|password", re.I)


class SnowflakeConfig(ConnectorConfig):
    """How to reach a Snowflake account: one database of it, as one role, computed by one warehouse."""

    account: str = Field(
        description="Account identifier, as in `<account>.snowflakecomputing.com`.", examples=["myorg-myaccount"]
    )
    user: str = Field(description="Login name.", examples=["HEADRACE"])
    password: SecretStr | None = Field(
        default=None, description="Password or programmatic access token, or `env:NAME` / `file:PATH`."
    )
    private_key: SecretStr | None = Field(
        default=None, description="Private key in PEM form, or `file:PATH` of it: key pair authentication."
    )
    private_key_passphrase: SecretStr | None = Field(default=None, description="Passphrase of the private key.")
    token: SecretStr | None = Field(default=None, description="OAuth access token that something else renews.")
    oauth: PersonLogin | None = Field(
        default=None, description="A person logs in once, by OAuth; its tokens are renewed by themselves."
    )
    role: str | None = Field(default=None, description="Role; default: the user's own.", examples=["HEADRACE"])
    warehouse: str | None = Field(
        default=None, description="Warehouse that runs the queries; default: the user's own.", examples=["LOAD_WH"]
    )
    database: str = Field(description="Database to read.", examples=["SHOP"])
    schemas: list[str] | None = Field(
        default=None,
        description="Schemas to list; default: all. Unquoted names fold to upper case.",
        examples=[["PUBLIC"]],
    )
    host: str | None = Field(
        default=None,
        description="Host, where it is not `<account>.snowflakecomputing.com` (a private link); private addresses have "
        "to be allowed by HEADRACE_URL_ALLOW.",
    )
    port: int = Field(default=443, ge=1, le=65535, description="Port.")
    protocol: Literal["https", "http"] = Field(default="https", description="`http` only with a `host` of your own.")
    connect_timeout: int = Field(default=8, ge=1, le=60, description="Seconds that a login may take.")
    overlap_seconds: int = Field(
        default=900,
        ge=1,
        description="How far an incremental read goes back before the last cursor value, for rows that commit late.",
    )
    cdc: bool = Field(default=False, description="Check what change data capture needs, too.")

    @field_validator("account")
    @classmethod
    def _account(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,250}", value):
            raise ValueError("account holds letters, digits, dots, hyphens and underscores, such as myorg-myaccount")
        return value

    @model_validator(mode="after")
    def _credentials(self) -> SnowflakeConfig:
        if sum(bool(given) for given in (self.password, self.private_key, self.token, self.oauth)) != 1:
            raise ValueError("give exactly one of password, private_key, token and oauth")
        if self.private_key_passphrase and not self.private_key:
            raise ValueError("private_key_passphrase goes with private_key")
        if self.protocol == "http" and not self.host:
            raise ValueError("protocol http goes with a host")
        return self

    @property
    def address(self) -> str:
        """The host that is connected to."""
        return self.host or f"{self.account}.snowflakecomputing.com"

    @property
    def base_url(self) -> str:
        port = "" if (self.protocol, self.port) in (("https", 443), ("http", 80)) else f":{self.port}"
        return f"{self.protocol}://{self.address}{port}"


def scrubbed(text: str, config: SnowflakeConfig) -> str:
    """A driver's message without credentials and without values of rows, in one short line."""
    client_secret = config.oauth.client_secret if config.oauth else None
    for secret in (config.password, config.private_key, config.private_key_passphrase, config.token, client_secret):
        if secret and (plain := secret.get_secret_value()):
            for part in {plain, *(line for line in plain.splitlines() if len(line) > 15)}:
                text = text.replace(part, "********")
    return " ".join(_QUOTED_VALUE.sub(r"\1'***'", text).split())[:400]


def error_number(error: Exception) -> int:
    """The server's number of an error; a failed login's own is in its text."""
    number = getattr(error, "errno", None)
    found = re.search(r"\b(39\d{4})\b", str(error))
    if found and number in (None, -1, 250001, 250003, 251005):
        return int(found[1])
    return number if isinstance(number, int) else 0


def explain(error: Exception, name: str, config: SnowflakeConfig) -> HeadraceError:
    """Turn a driver's error into the one a user can act on."""
    from snowflake.connector import errors

    if isinstance(error, HeadraceError):
        return error
    number, text = error_number(error), scrubbed(str(getattr(error, "msg", None) or error), config)
    if config.oauth and "not listed in the access token" in text.lower():
        remedy = "See that the role is granted to the user and that the security integration does not block it."
        return SourceAccessError(text, where=name, remedy=f"{remedy} {_give_access(name)}")
    if number in ROLE_REFUSED or ("role" in text.lower() and "not granted" in text.lower()):
        return SourceAccessError(text, where=name, remedy=f"GRANT ROLE {config.role} TO USER {config.user};")
    if number in LOGIN_REFUSED or number in OAUTH_REFUSED or (number == 250001 and _LOGIN_WORDS.search(text)):
        remedy = _give_access(name) if config.oauth else "Correct user and credentials."
        if "differs from the user" in text:
            remedy = f"Correct `user`, or log in as {config.user}. {remedy}"
        return SourceAccessError(f"login as {config.user} was refused: {text}", where=name, remedy=remedy)
    if number in TOKEN_EXPIRED:
        retry = not config.token
        return SourceAccessError(
            f"the session's token expired: {text}",
            where=name,
            remedy="Renew `token`." if not retry else "",
            retryable=retry,
        )
    if number == 606:
        return SourceAccessError(text, where=name, remedy="Name a `warehouse`, and GRANT USAGE on it.")
    if number in NOT_THERE:
        return NotFoundError(text, where=name, remedy="Run: headrace connectors test, for the missing GRANT.")
    if number in DENIED:
        return SourceAccessError(text, where=name, remedy="Run: headrace connectors test, for the missing GRANT.")
    if isinstance(error, errors.ProgrammingError | errors.NotSupportedError) and number not in (604, 630):
        return SourceAccessError(text or type(error).__name__, where=name)
    return SourceUnreachableError(text or type(error).__name__, where=name)


def _give_access(where: str) -> str:
    return give_access(where.partition("/")[0])


def _private_key(config: SnowflakeConfig) -> bytes:
    from cryptography.hazmat.primitives import serialization

    assert config.private_key is not None
    phrase = config.private_key_passphrase.get_secret_value().encode() if config.private_key_passphrase else None
    try:
        key = serialization.load_pem_private_key(config.private_key.get_secret_value().encode(), password=phrase)
        return key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    except (ValueError, TypeError):  # their texts may quote what they could not read
        raise ConfigurationError(
            "private_key is no PEM key, or private_key_passphrase does not open it",
            remedy="openssl genrsa 2048 | openssl pkcs8 -topk8 -v2 des3 -out rsa_key.p8",
        ) from None


def _credentials(config: SnowflakeConfig, access_token: str) -> dict[str, Any]:
    if access_token:
        return {"authenticator": "oauth", "token": access_token}
    if config.private_key:
        return {"authenticator": "SNOWFLAKE_JWT", "private_key": _private_key(config)}
    if config.token:
        return {"authenticator": "oauth", "token": config.token.get_secret_value()}
    assert config.password is not None
    return {"password": config.password.get_secret_value()}


def judge_host(config: SnowflakeConfig) -> None:
    """Refuse a host of the user's own that leads where Headrace does not go.

    Raises:
        UrlRefusedError
    """
    if config.host:
        from assets.url_guard import UrlGuard

        UrlGuard.from_settings().check(f"{config.protocol}://{config.host}:{config.port}")


def rows(opened: SnowflakeConnection, query: str, values: Any = None) -> list[Any]:
    """All rows of a small query, values bound (``%s``); without values a percent sign stands for itself."""
    with opened.cursor() as cursor:
        cursor.execute(query, values)
        return list(cursor.fetchall())


def break_off(opened: SnowflakeConnection) -> None:
    """End what a session is doing, from another thread: it is closed, and its requests fail."""

    def close() -> None:
        with suppress(Exception):
            opened.close(retry=False)

    threading.Thread(target=close, daemon=True).start()


def open_session(config: SnowflakeConfig, access: Access | None = None, *, bare: bool = False) -> SnowflakeConnection:
    """Log in. ``bare``: without role, warehouse and database, so that each can be tried by itself.

    Args:
        access: where a person's token comes from; one that the account refuses is renewed once.

    Raises:
        UrlRefusedError, ConfigurationError; what ``access`` raises; the driver's errors.
    """
    from snowflake.connector import errors

    judge_host(config)
    if access is None:
        return _connected(config, "", bare)
    token = access(None)
    try:
        return _connected(config, token, bare)
    except errors.Error as error:
        if not refuses_token(error_number(error), str(error)):
            raise
    return _connected(config, access(token), bare)


def _connected(config: SnowflakeConfig, access_token: str, bare: bool) -> SnowflakeConnection:
    import snowflake.connector

    named = {"role": config.role, "warehouse": config.warehouse, "database": config.database}
    return snowflake.connector.connect(
        account=config.account,
        user=config.user,
        host=config.address,
        port=config.port,
        protocol=config.protocol,
        application="Headrace",
        login_timeout=config.connect_timeout,
        network_timeout=NETWORK_SECONDS,
        socket_timeout=60,
        client_session_keep_alive=True,
        client_prefetch_threads=2,
        arrow_number_to_decimal=True,
        platform_detection_timeout_seconds=0.0,
        autocommit=True,
        session_parameters={**SESSION, "CLIENT_TELEMETRY_ENABLED": False},
        **({} if bare else {name: quoted(folded(value)) for name, value in named.items() if value}),
        **_credentials(config, access_token),
    )


@contextmanager
def connection(name: str, config: SnowflakeConfig, access: Access | None) -> Iterator[SnowflakeConnection]:
    """Open one session, as `open_session` does, and close it.

    Raises:
        SourceUnreachableError, SourceAccessError, NotFoundError, UrlRefusedError: also for what fails inside the block.
    """
    from snowflake.connector import errors

    opened = None
    try:
        opened = open_session(config, access)
        session = opened
        with on_interrupt(lambda: break_off(session)):
            yield opened
    except (errors.Error, OSError) as error:
        raise explain(error, name, config) from None
    except UrlRefusedError as error:
        raise UrlRefusedError(error.what, where=name, remedy=error.remedy, retryable=error.retryable) from None
    finally:
        if opened is not None:
            with suppress(errors.Error, OSError):
                opened.close(retry=False)
