"""Where user-supplied URLs may lead: judged for each address, each redirect, and at the connection itself."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import requests

from assets.errors import ConfigurationError, UrlRefusedError
from assets.settings import Settings
from assets.url_guard import UrlGuard


class _Server(ThreadingHTTPServer):
    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _Answer)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.location = ""
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: _Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        self.server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        redirect = self.path == "/redirect"
        self.send_response(302 if redirect else 200)
        if redirect:
            self.send_header("Location", self.server.location)
        body = str(self.server.server_address[0]).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server("127.0.0.1") as running:
        yield running
        running.shutdown()


@pytest.fixture
def other() -> Iterator[_Server]:
    with _Server("127.0.0.2") as running:
        yield running
        running.shutdown()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.8.8.8",
        "2130706433",
        "0177.0.0.1",
        "0x7f.1",
        "0x7f000001",
        "127.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "169.254.1.1",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "localhost",
        "LOCALHOST.",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::a00:1]",
        "[64:ff9b:1::a00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fec0::1]",
        "[ff02::1]",
        "[2001:db8::1]",
    ],
)
def test_addresses_that_are_not_public_are_refused_however_they_are_written(host: str) -> None:
    with pytest.raises(UrlRefusedError, match="HEADRACE_URL_ALLOW"):
        UrlGuard().check(f"http://{host}/")


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "[::ffff:8.8.8.8]", "[64:ff9b::808:808]"])
def test_public_addresses_pass(host: str) -> None:
    checked = UrlGuard().check(f"https://{host}/path?q=1")
    assert (checked.scheme, checked.port, len(checked.addresses)) == ("https", 443, 1)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://8.8.8.8/",
        "file:///etc/passwd",
        "gopher://8.8.8.8/",
        "//8.8.8.8/",
        "http://",
        "http://user:password@8.8.8.8/",
        "http://8.8.8.8\\@127.0.0.1/",
        "http://8.8.8.8 /",
        "http://8.8.8.8/\r\nHost: x",
        "http://[::1/",
        "http://8.8.8.8:99999/",
        "http://8.8.8.8/" + "a" * 9000,
    ],
)
def test_forms_that_parsers_read_differently_are_refused_and_no_password_is_repeated(url: str) -> None:
    with pytest.raises(UrlRefusedError) as refused:
        UrlGuard().check(url)
    assert "password@" not in str(refused.value)


def test_the_allow_list_takes_hosts_addresses_and_networks() -> None:
    assert UrlGuard(["10.0.0.0/8"]).check("http://10.20.30.40/").addresses == ("10.20.30.40",)
    assert UrlGuard(["::1"]).check("http://[::1]:8080/").port == 8080
    assert UrlGuard(["127.0.0.1"]).check("http://[::ffff:127.0.0.1]/").addresses
    assert "127.0.0.1" in UrlGuard([" LocalHost "]).check("http://localhost/").addresses
    assert UrlGuard(["127.0.0.1"]).check("http://localhost/").addresses == ("127.0.0.1",)
    with pytest.raises(UrlRefusedError):
        UrlGuard(["localhost"]).check("http://127.0.0.1/")
    with pytest.raises(ConfigurationError, match="HEADRACE_URL_ALLOW"):
        UrlGuard(["http://localhost/"])


def test_a_host_that_is_allowed_by_name_does_not_open_the_metadata_service(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, {"trusted.example": ["169.254.169.254"]})
    with pytest.raises(UrlRefusedError):
        UrlGuard(["trusted.example"]).check("http://trusted.example/")
    assert UrlGuard(["169.254.169.254/32"]).check("http://trusted.example/").addresses


def test_the_setting_is_the_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "10.0.0.0/8, localhost")
    assert UrlGuard.from_settings().check("http://10.1.1.1/").host == "10.1.1.1"
    assert UrlGuard.from_settings(Settings(url_allow="127.0.0.1")).check("http://127.0.0.1/").host == "127.0.0.1"
    with pytest.raises(UrlRefusedError):
        UrlGuard.from_settings(Settings(url_allow="")).check("http://10.1.1.1/")


def _answers(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]], *, one_by_one: bool = False) -> list[str]:
    """Have names of no real zone resolve; with ``one_by_one`` each question gets the next answer."""
    real = socket.getaddrinfo
    asked: list[str] = []

    def answer(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host not in names:
            return real(host, port, *args, **options)
        asked.append(host)
        known = names[host]
        found = [known[min(len(asked), len(known)) - 1]] if one_by_one else known
        return [entry for address in found for entry in real(address, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return asked


def test_sessions_and_clients_refuse_loopback_before_a_byte_is_sent(server: _Server) -> None:
    guard = UrlGuard()
    with pytest.raises(UrlRefusedError):
        guard.requests_session().get(server.url)
    with guard.httpx_client() as client, pytest.raises(UrlRefusedError):
        client.get(server.url)

    async def ask() -> None:
        async with guard.httpx_async_client() as client:
            await client.get(server.url)

    with pytest.raises(UrlRefusedError):
        asyncio.run(ask())
    assert server.seen == []


def test_sessions_and_clients_reach_what_is_allowed(server: _Server) -> None:
    guard = UrlGuard(["127.0.0.1"])
    assert guard.requests_session().get(server.url).text == "127.0.0.1"
    with guard.httpx_client() as client:
        assert client.get(server.url).text == "127.0.0.1"

    async def ask() -> str:
        async with guard.httpx_async_client() as client:
            return (await client.get(server.url)).text

    assert asyncio.run(ask()) == "127.0.0.1"


def test_a_redirect_is_judged_like_the_first_request(server: _Server, other: _Server) -> None:
    server.location = other.url
    guard = UrlGuard(["127.0.0.1"])
    with pytest.raises(UrlRefusedError):
        guard.requests_session().get(f"{server.url}/redirect")
    with guard.httpx_client(follow_redirects=True) as client, pytest.raises(UrlRefusedError):
        client.get(f"{server.url}/redirect")
    server.location = "file:///etc/passwd"
    with pytest.raises(UrlRefusedError):
        guard.requests_session().get(f"{server.url}/redirect")
    with guard.httpx_client(follow_redirects=True) as client, pytest.raises(httpx.UnsupportedProtocol):
        client.get(f"{server.url}/redirect")
    assert other.seen == []


def test_a_name_that_changes_its_answer_is_connected_to_the_judged_address(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = UrlGuard(["127.0.0.1"])
    # a second question would be answered 127.0.0.2, where nothing may be reached
    for ask in (lambda url: guard.requests_session().get(url), lambda url: guard.httpx_client().get(url)):
        with monkeypatch.context() as patched:
            asked = _answers(patched, {"rebind.example": ["127.0.0.1", "127.0.0.2"]}, one_by_one=True)
            assert ask(f"http://rebind.example:{server.server_port}/").text == "127.0.0.1"
            assert asked == ["rebind.example"]
    assert [headers["host"] for _, headers in server.seen] == [f"rebind.example:{server.server_port}"] * 2


def test_only_the_allowed_addresses_of_a_name_are_used(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, {"mixed.example": ["127.0.0.2", "127.0.0.1"]})
    guard = UrlGuard(["127.0.0.1"])
    url = f"http://mixed.example:{server.server_port}/"
    assert guard.requests_session().get(url).text == "127.0.0.1"
    assert guard.httpx_client().get(url).text == "127.0.0.1"


def test_proxies_of_the_environment_and_of_the_caller_are_not_used(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    guard = UrlGuard(["127.0.0.1"])
    assert guard.requests_session().get(server.url).ok
    assert guard.httpx_client().get(server.url).is_success
    with pytest.raises(UrlRefusedError):
        guard.requests_session().get(server.url, proxies={"http": "http://127.0.0.1:9"})


def test_a_redirect_to_another_host_carries_no_secret_header(server: _Server, other: _Server) -> None:
    server.location = f"{other.url}/end"
    session = UrlGuard(["127.0.0.0/8"]).requests_session()
    session.secret_headers.add("x-api-key")  # type: ignore[attr-defined]
    session.get(f"{server.url}/redirect", headers={"X-Api-Key": "k", "Authorization": "Bearer t", "X-Other": "o"})
    assert {"x-api-key", "authorization"} <= set(server.seen[0][1])
    assert not {"x-api-key", "authorization"} & set(other.seen[0][1])
    assert other.seen[0][1]["x-other"] == "o"


def test_redirects_are_bounded_and_an_unreachable_address_is_an_ordinary_error(server: _Server) -> None:
    server.location = f"{server.url}/redirect"
    guard = UrlGuard(["127.0.0.1"])
    with pytest.raises(requests.TooManyRedirects):
        guard.requests_session().get(f"{server.url}/redirect")
    assert len(server.seen) == 6
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        with pytest.raises(requests.ConnectionError):
            guard.requests_session().get(url)
        with pytest.raises(httpx.ConnectError):
            guard.httpx_client().get(url)
