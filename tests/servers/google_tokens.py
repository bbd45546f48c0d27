"""Google's token endpoint of the tests: gives a token for an assertion that a service account's key has signed."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

ACCOUNT = "loader@tests.iam.gserviceaccount.com"


class GoogleTokens:
    """``service_account()`` is a key file's text; ``given`` counts the tokens."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        self.given = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                code, body = owner._answer(sent["assertion"][0])
                content = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def _answer(self, assertion: str) -> tuple[int, dict[str, Any]]:
        try:
            claims = jwt.decode(assertion, certs=self._public())
        except ValueError:
            return 400, {"error": "invalid_grant"}
        assert claims["iss"] == ACCOUNT
        self.given += 1
        return 200, {"access_token": "google-token", "token_type": "Bearer", "expires_in": 3600}

    def _public(self) -> bytes:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._key.public_key().public_bytes(serialization.Encoding.PEM, form)

    def service_account(self) -> str:
        private = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return json.dumps(
            {
                "type": "service_account",
                "project_id": "tests",
                "private_key_id": "k1",
                "private_key": private.decode(),
                "client_email": ACCOUNT,
                "token_uri": f"http://127.0.0.1:{self._server.server_port}/token",
            }
        )

    def __enter__(self) -> GoogleTokens:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
