"""CSRF: no route that changes something serves another site's request. SSRF: no URL that is given leads inside."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette

from orchestration.headrace import Headrace
from tests.orchestration.web.people import People
from tests.orchestration.web.test_access_matrix import fill, rules

SAFE = {"GET", "HEAD", "OPTIONS", "WEBSOCKET"}


def test_no_route_that_changes_something_serves_a_forged_request(
    web_app: Callable[..., Starlette], people: People
) -> None:
    app = web_app()
    forged: dict[str, dict[str, str | None]] = {
        "another site": {"Origin": "https://evil.example"},
        "a sandboxed page": {"Origin": "null"},
        "no origin": {"Origin": None},
        "another site by fetch metadata": {"Origin": None, "Sec-Fetch-Site": "cross-site"},
        "a sibling": {"Origin": None, "Sec-Fetch-Site": "same-site"},
    }
    of_ours = {"no token": {"X-CSRF-Token": None}, "a token of another session": {"X-CSRF-Token": "0" * 64}}
    served = []
    count = 0
    for method, path, permission in rules(list(app.routes)):
        if method in SAFE or permission is None:
            continue
        count += 1
        ours = path.startswith(("/headrace", "/api"))
        for name, headers in (forged | (of_ours if ours else {})).items():
            client = people.client(app, "admin")
            for header, value in headers.items():
                client.headers.pop(header, None)
                if value is not None:
                    client.headers[header] = value
            answer = client.request(method, fill(path), json={})
            if answer.status_code != 403:
                served.append((name, method, path, answer.status_code))
    assert served == []
    assert count > 20


def test_a_login_form_of_another_site_logs_nobody_in(web_app: Callable[..., Starlette], people: People) -> None:
    from tests.orchestration.web.people import PASSWORD, anonymous

    client = anonymous(web_app(), Origin="https://evil.example")
    answer = client.post("/headrace/login", data={"name": "admin", "password": PASSWORD})
    assert answer.status_code == 403 and not client.cookies


@pytest.fixture
def inside() -> Iterator[tuple[int, list[bytes]]]:
    """A service that only this machine should reach: its port, and what it was sent."""
    heard: list[bytes] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(1)
                    heard.append(connection.recv(4096))
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], heard
        stop.set()
        thread.join(5)


INNER = ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0")
ENDPOINTS = [{"name": "orders", "path": "orders"}]


def _rest(url: str) -> dict[str, Any]:
    return {"type": "rest_api", "config": {"base_url": url, "endpoints": ENDPOINTS}}


def _token(url: str) -> dict[str, Any]:
    auth = {"type": "oauth2_client_credentials", "token_url": url, "client_id": "x", "client_secret": "y"}
    return {"type": "rest_api", "config": {"base_url": "http://192.0.2.1", "auth": auth, "endpoints": ENDPOINTS}}


def _bucket(url: str) -> dict[str, Any]:
    keys = {"access_key_id": "x", "secret_access_key": "y"}
    files = [{"name": "orders", "pattern": "*.csv"}]
    return {"type": "s3", "config": {"endpoint_url": url, "bucket": "b", "tables": files, **keys}}


@pytest.mark.parametrize("made", [_rest, _token, _bucket])
def test_a_config_that_leads_inside_is_refused_before_a_connection(
    web_app: Callable[..., Starlette],
    people: People,
    inside: tuple[int, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    made: Callable[[str], dict[str, Any]],
) -> None:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "192.0.2.1" if made is _token else "")
    port, heard = inside
    client = people.client(web_app(), "admin")
    for host in INNER:
        answer = client.post("/api/v1/connectors/test", json=made(f"http://{host}:{port}"))
        if answer.status_code == 200:
            assert not answer.json()["ok"], (host, answer.text)
        else:
            assert answer.status_code == 422, (host, answer.text)
    assert heard == []
    if made is not _token:
        for host in ("169.254.169.254", "100.100.100.200", "[fd00:ec2::254]"):
            answer = client.post("/api/v1/connectors/test", json=made(f"http://{host}/latest/meta-data"))
            assert answer.status_code == 422 or "metadata" in answer.text, (host, answer.text)


def test_a_redirect_inside_is_refused(
    hr: Headrace, inside: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    port, heard = inside

    class Leads(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"http://[::ffff:127.0.0.1]:{port}/orders")
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Leads) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HEADRACE_URL_ALLOW", "localhost")
        tried = hr.connectors.test_config("rest_api", _rest(f"http://localhost:{server.server_port}")["config"])
        server.shutdown()
    assert not tried.ok and heard == []
