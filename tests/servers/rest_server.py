"""A small JSON API on loopback: every kind of paging and login, and failpoints."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

LIMIT = 10


class RestServer(ThreadingHTTPServer):
    """``tables`` are lists of rows by path, ``filters`` what a parameter's value lets pass.

    ``fail`` maps a request's number (from 1) to what happens to it.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.fail: dict[int, str] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.filters: dict[str, Callable[[dict[str, Any], str], bool]] = {}
        self.total: int | None = None
        self.authorized: Callable[[dict[str, str], dict[str, str]], bool] = lambda headers, query: True
        self.tokens: set[str] = set()
        self.refresh_token = "refresh-1"
        self.rotate = False
        self.token_uses: int | None = None
        self.token_forms: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: RestServer  # type: ignore[assignment]

    def log_message(self, *_: Any) -> None: ...

    def answer(self, body: Any, status: int = 200, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.connection.close()

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        if parts.path == "/token":
            self._token({name: values[0] for name, values in parse_qs(content.decode()).items()})
        else:
            self._rows(parts.path, {name: str(value) for name, value in json.loads(content).items()})

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self._rows(parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()})

    def _token(self, form: dict[str, str]) -> None:
        server = self.server
        server.token_forms.append(form)
        refresh = form["grant_type"] == "refresh_token"
        if form.get("client_secret") != "client-secret" or (
            refresh and form.get("refresh_token") != server.refresh_token
        ):
            self.answer({"error": "invalid_grant"}, 400)
            return
        token = f"token-{len(server.token_forms)}"
        server.tokens = {token}
        server.token_uses = 2 if server.token_uses is not None else None
        more = {}
        if refresh and server.rotate:
            server.refresh_token = more["refresh_token"] = f"refresh-{len(server.token_forms) + 1}"
        self.answer({"access_token": token, "expires_in": 3600, **more})

    def _rows(self, path: str, query: dict[str, str]) -> None:
        server = self.server
        headers = {name.lower(): value for name, value in self.headers.items()}
        server.requests.append((self.path, headers))
        failure = server.fail.pop(len(server.requests), "")
        if failure.startswith("status "):
            _, status, *wait = failure.split()
            self.answer({"secret": "row value"}, int(status), {"Retry-After": wait[0]} if wait else None)
            return
        if failure.startswith("redirect "):
            self.answer({}, 302, {"Location": failure.split()[1]})
            return
        if server.token_uses is not None:
            server.token_uses -= 1
            if server.token_uses < 0:
                server.tokens = set()
        if server.tokens or server.token_uses is not None:
            if headers.get("authorization", "").removeprefix("Bearer ") not in server.tokens:
                self.answer({"error": "expired"}, 401)
                return
        elif not server.authorized(headers, query):
            self.answer({"error": "who are you"}, 401)
            return
        kind, _, name = path.strip("/").partition("/")
        rows = server.tables.get(name)
        if rows is None:
            self.answer({"error": "not found"}, 404)
            return
        if since := query.get("since"):
            rows = [row for row in rows if str(row["updated_at"]) >= since]
        for param, passes in server.filters.items():
            if param in query:
                rows = [row for row in rows if passes(row, query[param])]
        self._page(kind, rows, query, failure)

    def _page(self, kind: str, rows: list[dict[str, Any]], query: dict[str, str], failure: str) -> None:
        total = len(rows) if self.server.total is None else self.server.total
        at = int(query.get("offset") or query.get("cursor") or 0)
        if kind == "page":
            at = (int(query.get("page", 1)) - 1) * LIMIT
        if failure == "loop":
            at = 0
        shown, more = rows[at : at + LIMIT], at + LIMIT < len(rows)
        following = f"{self.server.url}/{kind}/{urlsplit(self.path).path.split('/', 2)[2]}?offset={at + LIMIT}"
        body: Any = {"items": shown, "total": total}
        headers = {}
        if kind == "all":
            body = rows
        elif kind == "header":
            body = shown
            headers = {"Link": f'<{following}>; rel="next"'} if more else {}
        elif kind == "json":
            body["next"] = following if more else None
        elif kind == "cursor":
            body["cursors"] = {"next": str(at + LIMIT) if more else None}
        elif kind == "headercursor":
            headers = {"X-Next": str(at + LIMIT)} if more else {}
        self.answer(body, 200, headers, cut=failure == "cut")


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
