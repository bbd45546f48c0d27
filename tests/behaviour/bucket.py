"""A bucket of the S3 server, and an installation whose connector reads it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.behaviour.source_installation import SourceInstallation
from tests.servers.s3_server import S3Server


class Bucket:
    def __init__(self, server: S3Server, home: Path, **settings: Any) -> None:
        self.server, self.name, self.client = server, server.create_bucket(), server.client()
        self.installation = SourceInstallation(home, "s3", self.config(), **settings)

    def config(self, **more: Any) -> dict[str, Any]:
        return {
            "bucket": self.name,
            "endpoint_url": self.server.endpoint_url,
            "access_key_id": self.server.access_key_id,
            "secret_access_key": self.server.secret_access_key,
        } | more

    def put(self, key: str, body: str | bytes | pa.Table) -> None:
        if isinstance(body, pa.Table):
            sink = io.BytesIO()
            pq.write_table(body, sink)
            body = sink.getvalue()
        self.client.put_object(Bucket=self.name, Key=key, Body=body.encode() if isinstance(body, str) else body)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)
