"""A MariaDB server of the tests: Debian's programs, row binlog and TLS on, data in a temporary folder."""

from __future__ import annotations

import ipaddress
import os
import pwd
import secrets
import shutil
import subprocess
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymysql

from orchestration.child_process import LOOPBACK, ChildProcess, ServerProcessError, free_port

MISSING = "MariaDB's server is missing: apt-get install mariadb-server (as root, `make test` does it)"
_PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"])
# The data is throw-away: commits survive a killed server, not a killed machine.
_FAST = ("--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0", "--innodb-doublewrite=0", "--innodb-use-native-aio=0")


def mariadb_programs() -> tuple[str, str] | None:
    """The server and its data folder's installer, or None where they are not there."""
    found = [shutil.which(name, path=_PLACES) for name in ("mariadbd", "mariadb-install-db")]
    return (found[0], found[1]) if found[0] and found[1] else None


class MariadbServer:
    """One server on a free loopback port: ``host``, ``port``, ``user``, ``password``, ``socket``, ``ca_file``.

    As root it runs as ``nobody``. Its binlog has row format, full images and column names, GTIDs are strict.

    Args:
        folder: where data and log go; ``nobody`` has to reach it. Keep it short: a socket's path has a limit.
        settings: further command-line options of the server, such as ``("--log-bin=0",)``.
    """

    def __init__(self, folder: Path, settings: tuple[str, ...] = ()) -> None:
        self.host = LOOPBACK
        self.port = free_port()
        self.user = "root"
        self.password = secrets.token_urlsafe(16)
        self.folder = folder
        self.socket = str(folder / "sock")
        self.ca_file = folder / "ca.pem"
        self._settings = settings
        self._process: ChildProcess | None = None
        self._account = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None

    def __enter__(self) -> MariadbServer:
        programs = mariadb_programs()
        if programs is None:
            raise ServerProcessError(MISSING, where="MariaDB")
        self.folder.mkdir(parents=True)
        if self._account is not None:
            os.chown(self.folder, self._account, self._account)
        _write_certificates(self.folder, self._account)
        install = [programs[1], "--no-defaults", f"--datadir={self.folder}/data", "--skip-test-db"]
        install += [f"--tmpdir={self.folder}"]  # TMPDIR may be a folder that its user cannot write
        install += ["--auth-root-authentication-method=normal", "--skip-name-resolve"]
        done = subprocess.run(
            install,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
            user=self._account,
            group=self._account,
            extra_groups=None if self._account is None else [],
        )
        if done.returncode:
            raise ServerProcessError(
                f"mariadb-install-db failed: {(done.stdout + done.stderr)[-2000:]}", where="MariaDB"
            )
        self.port = free_port(self.port)  # another server may have taken it meanwhile
        self.start()
        with self._connect_as_installed() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY %s", [self.password])
            cursor.execute("GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, again after ``stop`` or ``kill``, on the same port and data; returns when it answers."""
        programs = mariadb_programs()
        assert programs is not None
        data = self.folder / "data"
        arguments = [programs[0], "--no-defaults", f"--datadir={data}", f"--socket={self.socket}"]
        arguments += [f"--port={self.port}", f"--bind-address={LOOPBACK}", "--skip-name-resolve", "--server-id=1"]
        arguments += [f"--log-bin={data}/binlog", "--binlog-format=ROW", "--binlog-row-image=FULL"]
        arguments += ["--binlog-row-metadata=FULL", "--gtid-strict-mode=1", f"--pid-file={self.folder}/pid"]
        arguments += ["--character-set-server=utf8mb4", "--max-connections=300", "--local-infile=1"]
        arguments += ["--default-time-zone=+05:00", "--plugin-maturity=unknown"]
        arguments += [f"--tmpdir={self.folder}"]
        arguments += [f"--ssl-ca={self.ca_file}", f"--ssl-cert={self.folder}/server.pem"]
        arguments += [f"--ssl-key={self.folder}/server-key.pem", *_FAST, *self._settings]
        log = self.folder / "mariadb.log"
        self._process = ChildProcess("MariaDB", arguments, log, user=self._account, cwd=self.folder)
        self._process.start()
        self._process.wait_until(self._answers, 60)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        if self._process is not None:
            self._process.kill_group()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def connect(self, database: str | None = None, **options: Any) -> pymysql.Connection[Any]:
        """Open a connection in autocommit mode; as root unless a user is given. `options` go to ``pymysql.connect``."""
        settings: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": database,
            "charset": "utf8mb4",
            "autocommit": True,
            "connect_timeout": 10,
            "init_command": "SET time_zone = '+00:00'",
        }
        return pymysql.connect(**{**settings, **options})

    def execute(self, database: str | None, *statements: str) -> None:
        """Run statements as they are."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def create_database(self) -> str:
        """Create an empty database of its own and return its name."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        self.execute(None, f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        self.execute(None, f"DROP DATABASE IF EXISTS {name}")

    def config(self, database: str) -> dict[str, Any]:
        """The config of a ``mysql`` connector that reads this database as root."""
        return {
            "host": self.host,
            "port": self.port,
            "databases": [database],
            "user": self.user,
            "password": self.password,
        }

    def _connect_as_installed(self) -> pymysql.Connection[Any]:
        return self.connect(host="localhost", unix_socket=self.socket, password="")

    def _answers(self) -> bool:
        try:
            self._connect_as_installed().close()
        except (pymysql.Error, OSError):
            return False
        return True


def _write_certificates(folder: Path, owner: int | None) -> None:
    """A certificate authority (``ca.pem``) and the server's certificate for 127.0.0.1 (``server.pem``, ``-key``)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def built(name: str, issuer: str, key: Any, signer: Any, extension: x509.ExtensionType) -> bytes:
        subject, by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, issuer))
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(signer, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))])
    files = {
        "ca.pem": built("tests", "tests", authority, authority, x509.BasicConstraints(ca=True, path_length=None)),
        "server.pem": built("server", "tests", server, authority, names),
        "server-key.pem": server.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
        if owner is not None:
            os.chown(folder / name, owner, owner)
