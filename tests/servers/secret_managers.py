"""Secret managers on loopback: Vault's KV version 2, AWS Secrets Manager, Google Secret Manager, Azure Key Vault.

Each speaks as much of the real protocol as its vendor's own library needs to read a secret. Azure's is served by TLS.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TOKEN = "vault-token-1"


class SecretManagers(ThreadingHTTPServer):
    """``secrets`` are values by place, such as ``vault/MOUNT/PATH``, ``gcp/PROJECT/SECRET/VERSION``, ``azure/NAME``."""

    daemon_threads = True

    def __init__(self, tls_folder: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.secrets: dict[str, Any] = {}
        self.asked: list[str] = []
        self.status: int | None = None
        self.ca_file: Path | None = None
        if tls_folder is not None:
            self.ca_file = tls_folder / "ca.pem"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*_certificate(self.ca_file))
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: SecretManagers  # type: ignore[assignment]

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        self.server.asked.append(path)
        if self.server.status is not None:
            self._answer(self.server.status, {"errors": ["canary-of-an-answer"]})
        elif path.startswith("/v1/projects/"):
            self._google(path)
        elif path.startswith("/v1/"):
            self._vault(path.removeprefix("/v1/"), body)
        elif path.startswith("/secrets/"):
            self._azure(path)
        else:
            self._aws(json.loads(body))

    do_GET = do_POST = do_PUT = _handle

    def _vault(self, path: str, body: bytes) -> None:
        if path.startswith("auth/"):
            given = json.loads(body)
            if given in ({"role_id": "role-1", "secret_id": "id-1"}, {"role": "headrace", "jwt": "jwt-1"}):
                self._answer(200, {"auth": {"client_token": TOKEN}})
            else:
                self._answer(400, {"errors": ["invalid role or secret ID"]})
            return
        if self.headers.get("X-Vault-Token") != TOKEN:
            self._answer(403, {"errors": ["permission denied"]})
            return
        mount, _, rest = path.partition("/data/")
        known = self.server.secrets.get(f"vault/{mount}/{rest}")
        if known is None:
            self._answer(404, {"errors": []})
        else:
            self._answer(200, {"data": {"data": known, "metadata": {"version": 1, "deletion_time": ""}}})

    def _aws(self, asked: dict[str, Any]) -> None:
        signed = self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 Credential=test/")
        if self.headers.get("X-Amz-Target") != "secretsmanager.GetSecretValue" or not signed:
            self._answer(400, {"__type": "AccessDeniedException", "message": "no"})
            return
        known = self.server.secrets.get(f"aws/{asked['SecretId']}")
        if known is None:
            self._answer(400, {"__type": "ResourceNotFoundException", "Message": "Secrets Manager can't find it."})
        else:
            self._answer(200, {"Name": asked["SecretId"], "ARN": "arn:x", "SecretString": known})

    def _google(self, path: str) -> None:
        _, _, _, project, _, secret, _, version = path.removesuffix(":access").split("/")
        known = self.server.secrets.get(f"gcp/{project}/{secret}/{version}")
        if known is None:
            self._answer(404, {"error": {"code": 404, "message": "not found", "status": "NOT_FOUND"}})
        else:
            data = base64.b64encode(known.encode()).decode()
            self._answer(200, {"name": path, "payload": {"data": data}})

    def _azure(self, path: str) -> None:
        if not self.headers.get("Authorization"):
            challenge = 'Bearer authorization="https://login.example/tenant", resource="https://vault.azure.net"'
            self._answer(401, {"error": {"code": "Unauthorized"}}, {"WWW-Authenticate": challenge})
            return
        known = self.server.secrets.get(f"azure/{path.split('/')[2]}")
        if known is None:
            self._answer(404, {"error": {"code": "SecretNotFound", "message": "no"}})
        else:
            self._answer(200, {"value": known, "id": f"{self.server.url}{path}/1", "attributes": {"enabled": True}})


def _certificate(path: Path) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1 and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file = path.with_suffix(".key")
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path, key_file
