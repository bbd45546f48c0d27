"""An OpenID Connect provider and OAuth 2 authorization server on loopback.

Discovery, authorization code with PKCE (S256 demanded), signed id tokens, userinfo, refresh tokens, end of session. It
approves every request at once, in the name of ``person``. Tests make it lie through ``claims``, ``header``, ``sign``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID, CLIENT_SECRET = "headrace", "canary-client-secret"


class OpenIdProvider(ThreadingHTTPServer):
    """``url`` is the issuer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key = RSAKey.generate_key(2048, parameters={"kid": "key-1"})
        self.person: dict[str, Any] = {"sub": "ada-1", "email": "ada@example.com", "groups": ["platform"]}
        self.only_userinfo: set[str] = set()
        """Claims that the id token leaves out."""
        self.claims: dict[str, Any] = {}
        """Claims of the id token that are not what they should be; None leaves one out."""
        self.header: dict[str, Any] = {}
        self.sign: Callable[[dict[str, Any], dict[str, Any]], str] | None = None
        self.metadata: dict[str, Any] = {}
        self.refuse: str | None = None
        self.access_claims: dict[str, Any] | None = None
        """Claims of access tokens that are signed as id tokens are; None: they are opaque."""
        self.codes: dict[str, dict[str, str]] = {}
        self.access_tokens: set[str] = set()
        self.refresh_tokens: set[str] = set()
        self.token_seconds = 3600
        self.rotates, self.gives_refresh_token, self.token_delay = True, True, 0.0
        self.token_requests: list[dict[str, str]] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def id_token(self, nonce: str | None) -> str:
        now = int(time.time())
        person = {name: value for name, value in self.person.items() if name not in self.only_userinfo}
        claims = {"iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": nonce, **person}
        claims = {name: value for name, value in (claims | self.claims).items() if value is not None}
        header = {"alg": "RS256", "kid": "key-1"} | self.header
        return self.sign(header, claims) if self.sign else jwt.encode(header, claims, self.key)


class _Handler(BaseHTTPRequestHandler):
    server: OpenIdProvider  # type: ignore[assignment]

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, status: int, body: Any = None, **headers: str) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        server, parts = self.server, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/.well-known/openid-configuration":
            self._answer(200, self._metadata())
        elif parts.path == "/jwks":
            self._answer(200, {"keys": [server.key.as_dict(private=False)]})
        elif parts.path == "/authorize":
            self._authorize(query)
        elif parts.path == "/userinfo":
            known = self.headers.get("Authorization", "").removeprefix("Bearer ") in server.access_tokens
            self._answer(200, server.person) if known else self._answer(401, {"error": "invalid_token"})
        elif parts.path == "/logout":
            self._answer(302, None, Location=query.get("post_logout_redirect_uri", "/"))
        elif parts.path == "/orders":
            known = self.headers.get("Authorization", "").removeprefix("Bearer ") in server.access_tokens
            self._answer(200, [{"id": 1, "name": "one"}]) if known else self._answer(401, {"error": "invalid_token"})
        else:
            self._answer(404)

    def _metadata(self) -> dict[str, Any]:
        url = self.server.url
        return {
            "issuer": url,
            "authorization_endpoint": f"{url}/authorize",
            "token_endpoint": f"{url}/token",
            "jwks_uri": f"{url}/jwks",
            "userinfo_endpoint": f"{url}/userinfo",
            "end_session_endpoint": f"{url}/logout",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        } | self.server.metadata

    def _authorize(self, query: dict[str, str]) -> None:
        server = self.server
        good = query.get("client_id") == CLIENT_ID and query.get("response_type") == "code"
        if not good or query.get("code_challenge_method") != "S256" or not query.get("code_challenge"):
            self._answer(400, {"error": "invalid_request"})
            return
        answer = {"state": query.get("state", "")}
        if server.refuse:
            answer["error"] = server.refuse
        else:
            code = answer["code"] = secrets.token_urlsafe(16)
            server.codes[code] = query
        mark = "&" if "?" in query["redirect_uri"] else "?"
        self._answer(302, None, Location=f"{query['redirect_uri']}{mark}{urlencode(answer)}")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        form = {name: values[0] for name, values in parse_qs(content).items()}
        if self.path != "/token":
            self._answer(404)
            return
        server = self.server
        server.token_requests.append(form)
        time.sleep(server.token_delay)
        if self._client(form) != (CLIENT_ID, CLIENT_SECRET):
            self._answer(401, {"error": "invalid_client"})
            return
        with server.lock:
            asked = self._by_code(form) if form.get("grant_type") == "authorization_code" else self._by_refresh(form)
        if asked is None:
            self._answer(400, {"error": "invalid_grant", "error_description": "canary-of-an-answer"})
            return
        self._answer(200, asked)

    def _client(self, form: dict[str, str]) -> tuple[str, str]:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            name, _, secret = base64.b64decode(value).decode().partition(":")
            return unquote_plus(name), unquote_plus(secret)
        return form.get("client_id", ""), form.get("client_secret", "")

    def _by_code(self, form: dict[str, str]) -> dict[str, Any] | None:
        asked = self.server.codes.pop(form.get("code", ""), None)
        if asked is None or asked["redirect_uri"] != form.get("redirect_uri"):
            return None
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != asked["code_challenge"]:
            return None
        tokens = self._tokens(new_refresh=self.server.gives_refresh_token)
        if "openid" in asked.get("scope", "").split():
            tokens["id_token"] = self.server.id_token(asked.get("nonce"))
        return tokens

    def _by_refresh(self, form: dict[str, str]) -> dict[str, Any] | None:
        server, token = self.server, form.get("refresh_token", "")
        if form.get("grant_type") != "refresh_token" or token not in server.refresh_tokens:
            return None
        if server.rotates:
            server.refresh_tokens.remove(token)
        return self._tokens(new_refresh=server.rotates)

    def _tokens(self, new_refresh: bool) -> dict[str, Any]:
        server, access = self.server, f"canary-access-{secrets.token_hex(8)}"
        if server.access_claims is not None:
            claims = {"iss": server.url, "jti": access, "exp": int(time.time()) + server.token_seconds}
            access = jwt.encode({"alg": "RS256", "kid": "key-1"}, claims | server.access_claims, server.key)
        server.access_tokens.add(access)
        tokens: dict[str, Any] = {"access_token": access, "token_type": "Bearer", "expires_in": server.token_seconds}
        if new_refresh:
            tokens["refresh_token"] = f"canary-refresh-{secrets.token_hex(8)}"
            server.refresh_tokens.add(tokens["refresh_token"])
        return tokens
