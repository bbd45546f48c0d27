"""Connections to MySQL and MariaDB: session settings, TLS, and the server's errors turned into Headrace's."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SecretStr, model_validator

from assets.errors import HeadraceError, NotFoundError, SourceAccessError, SourceUnreachableError
from assets.interruption import on_interrupt
from assets.sources.interface import ConnectorConfig

if TYPE_CHECKING:
    import pymysql

TlsMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
SYSTEM_DATABASES = frozenset(["information_schema", "performance_schema", "mysql", "sys"])
MARIADB_SESSION = (
    "SET SESSION max_statement_time = 0, idle_transaction_timeout = 0, idle_readonly_transaction_timeout = 0"
)
MYSQL_SESSION = "SET SESSION max_execution_time = 0"
SESSION = (
    "SET SESSION time_zone = '+00:00', sql_mode = '', sql_select_limit = DEFAULT, net_write_timeout = 600, "
    "wait_timeout = 28800, lock_wait_timeout = 30"
)
ISOLATION = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"
# Incorrect datetime value: 'x'; Duplicate entry 'x' for key: values of rows. Names of tables follow other words.
_QUOTED_VALUE = re.compile(r"(value: |value |entry |string: )'(?:[^'\\]|\\.)*'", re.IGNORECASE)
_RETRYABLE = frozenset(
    [1040, 1053, 1077, 1159, 1161, 1203, 1205, 1213, 1226, 1290, 1317, 1412, 1637, 1836, 1927, 1969, 3024, 3169, 4031]
)


class MysqlConfig(ConnectorConfig):
    """How to reach a MySQL (5.7 or later) or MariaDB (10.4 or later) server, a read replica included."""

    host: str = Field(default="127.0.0.1", description="Host name or address.", examples=["db.example.com"])
    port: int = Field(default=3306, ge=1, le=65535, description="Port.")
    unix_socket: str | None = Field(
        default=None, description="Socket file, such as /run/mysqld/mysqld.sock; used instead of host and port."
    )
    databases: list[str] | None = Field(
        default=None, description="Databases to list; default: all but the system's.", examples=[["shop"]]
    )
    user: str = Field(description="Login; needs SELECT, and PROCESS to see late commits.", examples=["headrace"])
    password: SecretStr | None = Field(default=None, description="Password, or `env:NAME` / `file:PATH`.")
    tls: TlsMode = Field(
        default="prefer",
        description="`verify-ca` and `verify-full` check the server's certificate, `verify-full` its name as well.",
    )
    tls_ca: str | None = Field(default=None, description="File with the certificate authority's certificates.")
    tls_cert: str | None = Field(default=None, description="File with the client's certificate.")
    tls_key: str | None = Field(default=None, description="File with the client certificate's key.")
    connect_timeout: int = Field(default=4, ge=1, le=60, description="Seconds one connection attempt may take.")
    silence_seconds: int = Field(
        default=110, ge=25, description="A connection whose peer is gone for so long is dropped."
    )
    overlap_seconds: int = Field(
        default=60,
        ge=1,
        description="How far an incremental read goes back before the oldest transaction of the last one.",
    )
    late_commits: Literal["compare", "overlap"] = Field(
        default="compare",
        description="Where transactions were writing during a read, the next one compares all rows with Silver "
        "(`compare`), or trusts that they wrote no cursor older than the overlap (`overlap`).",
    )
    read_in_chunks: bool = Field(
        default=True,
        description="Read large tables in ranges of their key, where the binlog tells what changed meanwhile. Tables "
        "that are written all over while they are read take half as long again by it, or twice as long.",
    )
    cdc: bool = Field(default=False, description="Check what change data capture needs, too.")

    @model_validator(mode="after")
    def _certificates(self) -> MysqlConfig:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key go together")
        return self


def scrubbed(text: str, config: MysqlConfig) -> str:
    """A driver's message without the password and without values of rows, in one short line."""
    if config.password and config.password.get_secret_value():
        text = text.replace(config.password.get_secret_value(), "********")
    return " ".join(_QUOTED_VALUE.sub(r"\1'***'", text).split())[:400]


def explain(error: Exception, name: str, config: MysqlConfig) -> HeadraceError:
    """Turn a driver's error into the one a user can act on."""
    if isinstance(error, HeadraceError):
        return error
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = scrubbed(str(error.args[1]) if len(error.args) > 1 else str(error), config)
    if code in (1045, 1698, 1251, 2059, 1862, 1820, 3118) or "authentication" in text.lower():
        return SourceAccessError(
            f"login as {config.user} was refused: {text}", where=name, remedy="Correct user and password."
        )
    if code in (1044, 1049):
        return SourceAccessError(text, where=name, remedy="Correct `databases`, or grant SELECT.")
    if code in (1146, 1054, 1051):
        return NotFoundError(text, where=name)
    if code == 2026 or isinstance(error, ssl.SSLError) or "ssl" in text.lower() or code == 3159:
        return SourceAccessError(f"TLS: {text}", where=name, remedy="Correct `tls` and `tls_ca`.")
    if code in (1142, 1143, 1227, 1345, 1370, 1410):
        return SourceAccessError(text, where=name, remedy="Run: headrace connectors test, for the missing GRANT.")
    if code in _RETRYABLE or code == 0 or 2000 <= code < 3000:
        return SourceUnreachableError(text or type(error).__name__, where=name)
    return SourceAccessError(text, where=name)


def _tls(config: MysqlConfig) -> dict[str, Any]:
    if config.tls == "disable":
        return {"ssl_disabled": True}
    if config.tls == "prefer" and not config.tls_cert:
        return {}
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
        if config.tls_cert:
            context.load_cert_chain(config.tls_cert, config.tls_key)
    except OSError as error:  # a file that is missing, or holds no certificate
        raise SourceAccessError(
            f"TLS: a certificate file cannot be used: {error.strerror or 'no certificate'}",
            remedy="Correct `tls_ca`, `tls_cert` and `tls_key`.",
        ) from None
    context.check_hostname = config.tls == "verify-full"
    if config.tls in ("prefer", "require"):
        context.verify_mode = ssl.CERT_NONE
    return {"ssl": context}


def _keep_alive(opened: Any, config: MysqlConfig) -> None:
    """Notice a peer that is gone; a long silence of a living server is no reason to drop it."""
    opened._read_timeout = None
    with suppress(OSError, AttributeError):  # a unix socket has none of these
        raw = opened._sock
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, max(1, (config.silence_seconds - 15) // 10))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, config.silence_seconds * 1000)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)


def is_mariadb(opened: pymysql.Connection[Any]) -> bool:
    return "mariadb" in opened.get_server_info().lower()


def quoted(name: str) -> str:
    """A name as a MySQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def rows(opened: pymysql.Connection[Any], query: str, values: Any = None) -> list[Any]:
    """All rows of a small query. Without ``values`` a percent sign stands for itself."""
    with opened.cursor() as cursor:
        cursor.execute(query, values)
        return list(cursor.fetchall())


def break_off(opened: Any) -> None:
    """End what a connection is doing, from another thread: its socket is shut, the server ends the statement."""
    with suppress(OSError, AttributeError):
        opened._sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def connection(name: str, config: MysqlConfig) -> Iterator[pymysql.Connection[Any]]:
    """Open one connection in autocommit mode and close it.

    Raises:
        SourceUnreachableError, SourceAccessError, NotFoundError: also for what fails inside the block.
    """
    import pymysql

    opened = None
    try:
        opened = pymysql.connect(
            host=config.host,
            port=config.port,
            unix_socket=config.unix_socket,
            user=config.user,
            password=config.password.get_secret_value() if config.password else "",
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=config.connect_timeout,
            read_timeout=config.connect_timeout,
            program_name="headrace",
            **_tls(config),
        )
        _keep_alive(opened, config)
        with on_interrupt(lambda: break_off(opened)):
            rows(opened, SESSION)
            rows(opened, ISOLATION)
            with suppress(pymysql.Error):  # names that differ by version; the defaults serve as well
                rows(opened, MARIADB_SESSION if is_mariadb(opened) else MYSQL_SESSION)
            yield opened
    except (pymysql.Error, OSError, EOFError) as error:
        raise explain(error, name, config) from None
    finally:
        if opened is not None:
            with suppress(pymysql.Error, OSError):
                opened.close()
