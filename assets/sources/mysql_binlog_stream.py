"""The binlog as a replica asks for it: events from a GTID position on, each with the file and position it ends at."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from assets.errors import SourceAccessError, SourceUnreachableError, StreamLostError
from assets.sources.mysql_binlog_events import (
    FORMAT,
    HEADER,
    PAYLOAD,
    ROTATE,
    Event,
    MalformedEventError,
    describes_checksums,
    ends_with_checksum,
    parse_event,
    parse_payload,
    parse_rotate,
)
from assets.sources.mysql_connection import MysqlConfig, connection, is_mariadb, rows, scrubbed

if TYPE_CHECKING:
    import pymysql

_DUMP, _DUMP_BY_GTID = 0x12, 0x1E
_TO_THE_END = 1  # the server ends the stream at the end of its log instead of waiting
_BY_GTID = 4
_NO_LOG = 1236  # "could not find", "was purged", ...
_DENIED = (1227, 1045, 1044)


class Placed(NamedTuple):
    """An event and where it ends: the file, and the position in it without the wrap at 4 GiB."""

    event: Event
    file: str
    end: int


class BinlogStream:
    """One connection that streams. ``made`` tells when each file it came by was begun (seconds since 1970)."""

    def __init__(self, name: str, config: MysqlConfig, opened: pymysql.Connection[Any]) -> None:
        self._name, self._config, self._opened = name, config, opened
        self.made: dict[str, int] = {}

    def after(self, gtid: str) -> Iterator[Placed]:
        """Events of all transactions that ``gtid`` does not cover, up to the end of the log.

        Raises:
            StreamLostError: the log does not go back so far.
            SourceUnreachableError: the connection ended before the log did.
        """
        opened: Any = self._opened
        if is_mariadb(opened):
            rows(opened, "SET @slave_connect_state = %s", [gtid])
            rows(opened, "SET @slave_gtid_strict_mode = 1, @slave_gtid_ignore_duplicates = 0")
            return self._events(_DUMP, struct.pack("<IHI", 4, _TO_THE_END, _replica()))
        from pymysqlreplication.gtid import GtidSet

        covered = GtidSet(gtid)
        encoded = covered.encoded()
        head = struct.pack("<HIIQI", _TO_THE_END | _BY_GTID, _replica(), 0, 4, len(encoded))
        return self._events(_DUMP_BY_GTID, head + encoded)

    def begun(self, file: str) -> int:
        """When a file was begun, as its first event says."""
        for _ in self._events(_DUMP, struct.pack("<IHI", 4, _TO_THE_END, _replica()) + file.encode()):
            if file in self.made:
                return self.made[file]
        raise StreamLostError(f"the binlog file {file} is gone", where=self._name)

    def _events(self, command: int, request: bytes) -> Iterator[Placed]:
        import pymysql

        opened: Any = self._opened
        # MariaDB replaces events by dummies for a replica that does not say it knows GTIDs
        rows(opened, "SET @master_binlog_checksum = @@global.binlog_checksum, @mariadb_slave_capability = 4")
        rows(opened, "SET @source_binlog_checksum = @@global.binlog_checksum")
        try:
            opened._execute_command(command, request)
            yield from self._placed()
        except MalformedEventError as error:
            raise SourceUnreachableError(str(error), where=self._name) from None
        except pymysql.Error as error:
            code, text = (*error.args, "")[:2]
            if code == _NO_LOG:
                raise StreamLostError(scrubbed(str(text), self._config), where=self._name) from None
            if code in _DENIED:
                from assets.sources.mysql_check import replication_grant

                raise SourceAccessError(
                    f"login {self._config.user} may not read the binlog",
                    where=self._name,
                    remedy=replication_grant(self._name, self._config, ["REPLICATION SLAVE"]),
                ) from None
            raise

    def _placed(self) -> Iterator[Placed]:
        file, end, checksummed = "", 0, False
        read = self._opened._read_packet  # type: ignore[attr-defined]
        while True:
            packet = read()
            if packet.is_eof_packet():
                return
            data = packet._data[1:]
            kind = data[4]
            if kind == FORMAT:
                checksummed = describes_checksums(data)
                self.made[file] = HEADER.unpack_from(data)[0]
            # the first rotate is made up by the server, with or without a checksum, before the file says which it has
            event = parse_event(data, ends_with_checksum(data) if kind == ROTATE else checksummed)
            if kind == ROTATE:
                file, end = parse_rotate(event.body)
            elif event.end:
                end += (event.end - end) % (1 << 32)
            if kind == PAYLOAD:
                for inner in parse_payload(event.body):
                    yield Placed(inner, file, end)
            else:
                yield Placed(event, file, end)


def _replica() -> int:
    """A number for this replica: the server ends the stream of an older one with the same."""
    return (1 << 31) | secrets.randbits(31)


@contextmanager
def binlog_stream(name: str, config: MysqlConfig) -> Iterator[BinlogStream]:
    with connection(name, config) as opened:
        try:
            yield BinlogStream(name, config, opened)
        finally:
            opened._force_close()  # type: ignore[attr-defined]  # what it still sends is not waited for
