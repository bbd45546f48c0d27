"""minilake, a second implementation of Databricks' REST shapes, as a process in an environment of its own."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from orchestration.child_process import LOOPBACK, ChildProcess, free_port

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / ".venv-minilake" / "bin" / "minilake"
MISSING = "minilake is missing: run `make minilake`"


class MinilakeServer:
    """Its address and settings. Its SQL is plain DuckDB and proves nothing: only REST calls are made to it."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        self._process = ChildProcess(
            "minilake",
            [str(PROGRAM), "--port", str(port)],
            folder / "minilake.log",
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(folder),
                "MINILAKE_NOTEBOOK": "0",
                "MINILAKE_JOB_EXECUTOR": "subprocess",
                "MINILAKE_DATA_DIR": str(folder / "data"),
            },
        )

    def __enter__(self) -> MinilakeServer:
        self._process.start()
        self._process.wait_until(self._ready, 90)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/api/2.1/unity-catalog/catalogs", trust_env=False).is_success
        return False

    def settings(self) -> dict[str, Any]:
        return {
            "lakehouse": "databricks",
            "databricks_host": self.url,
            "databricks_warehouse_id": "none",
            "databricks_catalog": "contract",
            "databricks_token": SecretStr("dev"),
            "databricks_retry_seconds": 10,
        }
