"""The Snowflake stand-in as a server process of its own, in an environment of its own, for the session."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import snowflake.connector

from orchestration.child_process import LOOPBACK, ChildProcess, free_port

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-fakesnow" / "bin" / "python"
MISSING = "the Snowflake stand-in is missing: run `make snowflake-standin`"


class SnowflakeServer:
    """Address and users of the stand-in (``tests/standins/snowflake``), and its controls."""

    user, password = "LOADER", "a-password-of-the-tests"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        arguments = [str(PYTHON), str(ROOT / "tests" / "standins" / "snowflake" / "server.py"), str(self.port)]
        self._process = ChildProcess(
            "Snowflake stand-in",
            arguments,
            folder / "snowflake.log",
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
            cwd=folder,
        )
        self._control = httpx.Client(base_url=f"http://{LOOPBACK}:{self.port}", timeout=30, trust_env=False)

    def __enter__(self) -> SnowflakeServer:
        self._process.start()
        self._process.wait_until(self._ready, 60)
        self.add_user(self.user, password=self.password)
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.stop()

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self._control.get("/standin").is_success
        return False

    def add_user(self, name: str, **facts: Any) -> None:
        """A login with ``password``, ``public_key`` (PEM) or ``token``, its ``roles`` and ``warehouses``."""
        user = {"roles": ["READER", "PUBLIC"], "warehouses": ["LOAD_WH"], "warehouse": "LOAD_WH"} | facts
        self._control.post("/standin", json={"users": {name: user}}).raise_for_status()

    def set_rules(self, *rules: dict[str, Any]) -> None:
        """Answer statements that ``match`` with ``error`` (number, text) or ``status``, or ``replace`` what matched."""
        self._control.post("/standin", json={"rules": rules}).raise_for_status()

    def cut_results(self, rows: int = 1000, *, missing: int = 0) -> None:
        """Cut later results into batches of so many rows, of which some are ``missing`` when a batch comes."""
        batches = {"rows": rows, "missing": missing}
        self._control.post("/standin", json={"batches": batches}).raise_for_status()

    def forget_results(self) -> None:
        self._control.post("/standin", json={"forget_results": True}).raise_for_status()

    def statements(self) -> list[str]:
        return self._control.get("/standin").json()["statements"]

    def forget_statements(self) -> None:
        self._control.post("/standin", json={"forget": True}).raise_for_status()

    def oauth(self, **control: Any) -> list[str]:
        """Set ``settings`` of the account's OAuth, ``expire`` or ``revoke_access`` or ``revoke_refresh`` its tokens,
        ``forget`` all of it; returns how each token request so far ended."""
        self._control.post("/standin", json={"oauth": control}).raise_for_status()
        return self._control.get("/standin").json()["grants"]

    def config(self, database: str, **changes: Any) -> dict[str, Any]:
        return {
            "account": "standin",
            "user": self.user,
            "password": self.password,
            "host": LOOPBACK,
            "port": self.port,
            "protocol": "http",
            "warehouse": "load_wh",
            "role": "reader",
            "database": database,
            "schemas": ["PUBLIC"],
        } | changes

    def connect(self, database: str | None = None) -> Any:
        return snowflake.connector.connect(
            account="standin",
            user=self.user,
            password=self.password,
            host=LOOPBACK,
            port=self.port,
            protocol="http",
            database=database,
            schema="PUBLIC" if database else None,
            login_timeout=20,
            network_timeout=60,
            platform_detection_timeout_seconds=0.0,
            session_parameters={"CLIENT_TELEMETRY_ENABLED": False},
        )

    @contextlib.contextmanager
    def session(self, database: str | None = None) -> Iterator[Any]:
        """A cursor in a session of its own."""
        connection = self.connect(database)
        try:
            yield connection.cursor()
        finally:
            connection.close()

    def execute(self, database: str | None, *statements: str) -> list[Any]:
        """Run statements; returns the last one's rows."""
        found: list[Any] = []
        with self.session(database) as cursor:
            for statement in statements:
                found = list(cursor.execute(statement).fetchall())
        return found

    def create_database(self) -> str:
        """Make an empty database with a schema PUBLIC, and return its name."""
        name = f"T_{uuid.uuid4().hex[:12].upper()}"
        self.execute(None, f"CREATE DATABASE {name}", f"CREATE SCHEMA {name}.PUBLIC")
        return name

    def drop_database(self, name: str) -> None:
        self.set_rules()
        self.cut_results()
        with contextlib.suppress(snowflake.connector.errors.Error):
            self.execute(None, f"DROP DATABASE {name}")
