"""The Databricks stand-in as a server process of its own, for the session."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from pydantic import SecretStr

ROOT = Path(__file__).resolve().parents[2]


class DatabricksServer:
    """Address, token and warehouse of the stand-in (``tests/standins/databricks``), and its controls."""

    token = "dapi-standin-9f2c"
    client_id, client_secret = "standin-client", "standin-secret"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.standins.databricks", "--folder", str(folder), "--die-with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={"STANDIN_TOKEN": self.token, "PATH": "/usr/bin:/bin", "HOME": str(folder.parent)},
        )
        assert self._process.stdout is not None
        ready = json.loads(self._process.stdout.readline() or b"{}")
        self.url, self.warehouse = str(ready["url"]), str(ready["warehouse"])
        self._control = httpx.Client(base_url=self.url, timeout=30)

    def __enter__(self) -> DatabricksServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()

    def client(self, **options: Any) -> WorkspaceClient:
        options = {"token": self.token, "auth_type": "pat", "retry_timeout_seconds": 10} | options
        return WorkspaceClient(config=Config(host=self.url, **options))

    def settings(self, catalog: str | None = None) -> dict[str, Any]:
        """Settings of an installation with a catalog of its own."""
        name = catalog or self.create_catalog()
        return {
            "lakehouse": "databricks",
            "databricks_host": self.url,
            "databricks_warehouse_id": self.warehouse,
            "databricks_catalog": name,
            "databricks_token": SecretStr(self.token),
        }

    def create_catalog(self) -> str:
        name = f"c{uuid.uuid4().hex[:12]}"
        self.client().catalogs.create(name)
        return name

    def location(self, full_name: str) -> str:
        """The folder of a table, for a plain Delta reader."""
        return str(self.client().tables.get(full_name).storage_location).removeprefix("file://")

    def volume_files(self, catalog: str) -> list[str]:
        return [str(p) for p in (self.folder / "Volumes" / catalog).rglob("*") if p.is_file()]

    def import_notebook(self, path: str, source: str) -> None:
        content = base64.b64encode(source.encode()).decode()
        self.client().workspace.import_(path, content=content, overwrite=True)

    # controls

    def fail(self, *failpoints: dict[str, Any]) -> None:
        """Set failpoints: see ``tests/standins/databricks/failpoints.py``. None of them clears."""
        self._control.post("/standin/failpoints", json={"failpoints": list(failpoints)}).raise_for_status()

    def fired(self) -> list[int]:
        found = self._control.get("/standin/failpoints").json()["failpoints"]
        return [point["fired"] for point in found]

    def calls(self) -> list[dict[str, Any]]:
        """Every call since `forget_calls`: method, path, statement, bytes."""
        return self._control.get("/standin/calls").json()["calls"]

    def forget_calls(self) -> None:
        self._control.delete("/standin/calls")

    def add_external_location(self, url: str, endpoint: str, key: str = "", secret: str = "") -> None:
        """Let the warehouse read ``url`` (``s3://bucket/prefix`` or ``gs://``, whose server here asks for no login)."""
        place = {"url": url, "endpoint": endpoint, "key": key, "secret": secret}
        self._control.post("/standin/external", json=place).raise_for_status()

    def act_as(self, user: str | None = None, *privileges: str) -> None:
        """Whose token it is, and what that user was granted everywhere; None: the owner of everything."""
        body = {"user": user, "privileges": privileges} if user else {}
        self._control.post("/standin/user", json=body).raise_for_status()

    def stop_warehouse(self, start_seconds: float) -> None:
        self._control.post("/standin/warehouse", json={"stop": True, "start_seconds": start_seconds})
