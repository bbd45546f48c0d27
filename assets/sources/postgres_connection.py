"""Connections to PostgreSQL: session settings, and its errors turned into Headrace's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SecretStr

from assets.errors import HeadraceError, NotFoundError, SourceAccessError, SourceUnreachableError
from assets.interruption import on_interrupt
from assets.sources.interface import ConnectorConfig

if TYPE_CHECKING:
    import psycopg

SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "statement_timeout": "0",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "0",
}
# invalid input syntax for type integer: "a row's value"; value "99999" is out of range. Names follow other words.
_QUOTED_VALUE = re.compile(r'(: |\bvalue |\bstring )"(?:[^"]|"")*"')
TlsMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class PostgresConfig(ConnectorConfig):
    """How to reach a PostgreSQL database, a read replica included."""

    host: str = Field(description="Host name or address, or the folder of a unix socket.", examples=["db.example.com"])
    port: int = Field(default=5432, ge=1, le=65535, description="Port.")
    database: str = Field(description="Database name.", examples=["shop"])
    user: str = Field(description="Login role; needs USAGE on schemas and SELECT on tables.", examples=["headrace"])
    password: SecretStr | None = Field(default=None, description="Password, or `env:NAME` / `file:PATH`.")
    sslmode: TlsMode = Field(default="prefer", description="TLS mode, as libpq names them.")
    sslrootcert: str | None = Field(default=None, description="File with the certificate authority's certificates.")
    schemas: list[str] | None = Field(default=None, description="Schemas to list; default: all but the system's.")
    connect_timeout: int = Field(default=4, ge=1, le=60, description="Seconds one connection attempt may take.")
    silence_seconds: int = Field(
        default=110, ge=5, description="A connection without an answer for so long is dropped."
    )
    cdc: bool = Field(
        default=False, description="Tables are to be followed in mode cdc: its prerequisites are checked too."
    )
    replication_slot: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9_]{1,63}$",
        description="Name of the replication slot of mode cdc; default: `headrace_` and the connector's name.",
    )
    readers: int = Field(default=2, ge=1, le=16, description="Connections that read one large table side by side.")


def parameters(config: PostgresConfig) -> dict[str, str]:
    """libpq's connection parameters, the password left out."""
    values = {
        "host": config.host,
        "port": str(config.port),
        "dbname": config.database,
        "user": config.user,
        "sslmode": config.sslmode,
        "connect_timeout": str(config.connect_timeout),
        "application_name": "headrace",
        "client_encoding": "UTF8",
        "keepalives_idle": "15",
        "keepalives_interval": "10",
        "keepalives_count": str(max(1, (config.silence_seconds - 15) // 10)),
        "tcp_user_timeout": str(config.silence_seconds * 1000),
        "options": " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in SESSION.items()),
    }
    if config.sslrootcert:
        values["sslrootcert"] = config.sslrootcert
    return values


def scrubbed(text: str, config: PostgresConfig) -> str:
    """A driver's message without the password and without values of rows, in one short line."""
    if config.password and config.password.get_secret_value():
        text = text.replace(config.password.get_secret_value(), "********")
    text = _QUOTED_VALUE.sub(r'\1"***"', text)
    return " ".join(text.split())[:400]


def explain(error: Exception, name: str, config: PostgresConfig) -> HeadraceError:
    """Turn a driver's error into the one a user can act on."""
    if isinstance(error, HeadraceError):
        return error
    state = getattr(error, "sqlstate", None) or ""
    text = scrubbed(str(error), config)
    lowered = text.lower()
    if state in ("42P01", "3F000"):
        return NotFoundError(text, where=name)
    if state == "08001":  # libpq's own failures carry no state: it is a foreign server that a statement did not reach
        return SourceUnreachableError(text, where=name)
    if state == "3D000" or ("database" in lowered and "does not exist" in lowered):
        return SourceAccessError(f"database {config.database} does not exist", where=name, remedy="Correct `database`.")
    if state.startswith("28") or "password authentication failed" in lowered or "no password supplied" in lowered:
        return SourceAccessError(f"login as {config.user} was refused", where=name, remedy="Correct user and password.")
    if "pg_hba.conf" in lowered:
        return SourceAccessError(
            "the server's pg_hba.conf refuses this user, database, address or TLS mode",
            where=name,
            remedy="Try sslmode require, or add a line to pg_hba.conf.",
        )
    if "ssl" in lowered and ("not support" in lowered or "certificate" in lowered or "root" in lowered):
        return SourceAccessError(f"TLS: {text}", where=name, remedy="Correct sslmode or sslrootcert.")
    if state == "42501":
        return SourceAccessError(text, where=name, remedy="Run: headrace connectors test, for the missing GRANT.")
    if not state or state[:2] in ("08", "57", "53", "40") or state in ("55P03", "25P03"):
        return SourceUnreachableError(text or type(error).__name__, where=name)
    return SourceAccessError(text, where=name)


def break_off(opened: psycopg.Connection[Any]) -> None:
    """End the statement that runs on a connection, from another thread."""
    import psycopg

    with suppress(psycopg.Error, OSError):  # it has ended, or its server is gone
        opened.cancel_safe(timeout=2)


@contextmanager
def connection(name: str, config: PostgresConfig) -> Iterator[psycopg.Connection[Any]]:
    """Open one connection in autocommit mode and close it.

    Raises:
        SourceUnreachableError, SourceAccessError, NotFoundError: also for what fails inside the block.
    """
    import psycopg

    password = config.password.get_secret_value() if config.password else None
    try:
        values: dict[str, Any] = parameters(config)
        with (
            psycopg.connect(**values, password=password, autocommit=True) as opened,
            on_interrupt(lambda: break_off(opened)),
        ):
            yield opened
    except (psycopg.Error, OSError) as error:
        raise explain(error, name, config) from None
