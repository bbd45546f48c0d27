"""PostgreSQL's replication protocol over psycopg's libpq: the messages of a temporary slot, in bounded time.

psycopg has no replication cursor; libpq itself has what it takes (``COPY BOTH``). Format: PostgreSQL's documentation,
"Streaming Replication Protocol".
"""

# SQL text is composed of quoted identifiers here, which is no LiteralString.
from __future__ import annotations

import secrets
import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from assets.errors import SourceAccessError, SourceUnreachableError, StreamLostError
from assets.interruption import on_interrupt
from assets.sources.postgres_connection import SESSION, PostgresConfig, explain, parameters

if TYPE_CHECKING:
    import psycopg

_DATA, _KEEPALIVE = b"wk"
_HEADER = 25  # letter, start, end, clock
ASK_SECONDS = 0.05
TELL_SECONDS = 1.0
# Money in the "C" locale: a sign, digits, two decimals. Nothing times out while the reader writes its parts.
_OWN_SESSION = {"lc_monetary": "C", "wal_sender_timeout": "0"}
_VERIFIED = {name: SESSION[name] for name in ("TimeZone", "DateStyle", "IntervalStyle", "bytea_output")} | {
    "extra_float_digits": SESSION["extra_float_digits"],
    "lc_monetary": "C",
}


def lsn_text(position: int) -> str:
    """A log position as PostgreSQL prints it: ``16/B374D848``."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


class LogStream:
    """A connection that streams the log from a temporary copy of a slot. The slot itself never moves."""

    def __init__(self, name: str, config: PostgresConfig, opened: psycopg.Connection[Any]) -> None:
        self._name, self._config, self._opened = name, config, opened
        self._slot = ""

    def copy_slot(self, slot: str) -> int:
        """Copy the slot for this session; returns the position from which it can stream.

        Raises:
            StreamLostError: the slot's log is gone.
            SourceAccessError: no slot is free.
        """
        import psycopg
        from psycopg import sql

        self._slot = f"{slot[:40]}_r{secrets.token_hex(8)}"
        query = sql.SQL("SELECT pg_copy_logical_replication_slot({}, {}, true)").format(
            sql.Literal(slot), sql.Literal(self._slot)
        )
        try:
            self._opened.execute(query)
        except psycopg.errors.ConfigurationLimitExceeded:
            raise SourceAccessError(
                "all replication slots are in use",
                where=self._name,
                remedy="ALTER SYSTEM SET max_replication_slots = 20; then restart PostgreSQL. See also: "
                "SELECT slot_name, active FROM pg_replication_slots;",
                retryable=True,
            ) from None
        except (
            psycopg.errors.UndefinedObject,
            psycopg.errors.ObjectNotInPrerequisiteState,
            psycopg.errors.FeatureNotSupported,
        ) as error:
            raise StreamLostError(str(error).splitlines()[0], where=self._name) from None
        query = sql.SQL(
            "SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE slot_name = {}"
        ).format(sql.Literal(self._slot))
        row = self._opened.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def messages(self, start: int, end: int, publication: str) -> Iterator[bytes | None]:
        """Yield the publication's messages up to ``end`` and possibly some more; None says that the stream moved on.

        Raises:
            SourceUnreachableError: the stream ended, or stood still for ``silence_seconds``.
        """
        from psycopg import pq

        libpq = self._opened.pgconn
        options = f"proto_version '1', publication_names '\"{publication}\"'"
        command = f'START_REPLICATION SLOT "{self._slot}" LOGICAL {lsn_text(start)} ({options})'
        result = libpq.exec_(command.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise self._failed(result)
        moved, told = 0, time.monotonic()
        since = told
        receive, data, keepalive = libpq.get_copy_data, _DATA, _KEEPALIVE
        while True:
            size, message = receive(1)
            if size > 0:
                if message[0] == data:
                    since = time.monotonic()
                    yield bytes(message[_HEADER:])
                elif message[0] == keepalive:
                    (reached,) = struct.unpack_from(">Q", message, 1)
                    if reached >= end:
                        return
                    if reached > moved:
                        moved, since = reached, time.monotonic()
                    if message[17]:
                        self._answer()
                    if since - told > TELL_SECONDS:
                        told = since
                        yield None
                continue
            if size < 0:
                raise self._failed(libpq.get_result())
            if not select.select([libpq.socket], [], [], ASK_SECONDS)[0]:
                self._answer()
                if time.monotonic() - since > self._config.silence_seconds:
                    raise SourceUnreachableError("the replication stream stands still", where=self._name)
            libpq.consume_input()

    def _answer(self) -> None:
        """Ask how far the server is. Nothing is acknowledged: the slot is a copy, and Bronze decides."""
        libpq = self._opened.pgconn
        libpq.put_copy_data(b"r" + struct.pack(">QQQQB", 0, 0, 0, 0, 1))
        libpq.flush()

    def _failed(self, result: Any) -> Exception:
        from psycopg import errors, pq

        if result is None:
            return SourceUnreachableError("the server ended the replication stream", where=self._name)
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        text = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"the stream ended").decode()
        kind = {"55000": errors.ObjectNotInPrerequisiteState}.get(state)
        if kind or state == "42704":  # the slot or the publication cannot serve this position
            return StreamLostError(text, where=self._name)
        if state == "58P01":
            return StreamLostError(f"the log was removed: {text}", where=self._name)
        error = errors.lookup(state)(text) if state else errors.OperationalError(text)
        return explain(error, self._name, self._config)


@contextmanager
def log_stream(name: str, config: PostgresConfig) -> Iterator[LogStream]:
    """Open a replication connection and close it; the temporary slot goes with it.

    Raises:
        SourceAccessError: the role may not replicate, or the session prints values otherwise than the contract says.
        SourceUnreachableError.
    """
    import psycopg
    from psycopg import sql

    password = config.password.get_secret_value() if config.password else None
    values: dict[str, Any] = parameters(config)
    values["options"] += "".join(f" -c {key}={value}" for key, value in _OWN_SESSION.items())
    try:
        opened = psycopg.connect(**values, password=password, replication="database", autocommit=True)
        try:
            with on_interrupt(lambda: None):  # the stream is polled: a cancel arrives between two messages
                for setting, wanted in _VERIFIED.items():
                    row = opened.execute(sql.SQL("SELECT current_setting({})").format(sql.Literal(setting))).fetchone()
                    if row is None or row[0].replace(" ", "") != wanted.replace(" ", ""):
                        raise SourceAccessError(
                            f"the session's {setting} is {row[0] if row else None}, not {wanted}",
                            where=name,
                            remedy="Connect to the server itself, not through a pooler that drops settings.",
                        )
                yield LogStream(name, config, opened)
        finally:
            opened.pgconn.finish()  # no goodbye: a stream does not end when asked to
    except (psycopg.Error, OSError) as error:
        raise explain(error, name, config) from None
