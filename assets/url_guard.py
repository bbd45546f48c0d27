"""The one guard for URLs that a user supplies: where a request may go, asked of the address it really connects to.

A name is resolved once, its addresses are judged, and the connection is made to the address that was judged, so a name
that answers differently the second time (DNS rebinding) gains nothing. Sessions and clients made here judge every
connection, those of redirects included, and use no proxy and no ``.netrc`` of the environment.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from assets.errors import ConfigurationError, UrlRefusedError

if TYPE_CHECKING:
    import httpx
    import requests

    from assets.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PORTS = {"http": 80, "https": 443}
MAX_URL_CHARACTERS = 8_192
_REMEDY = "If it is meant to be reached, add it to HEADRACE_URL_ALLOW (hosts, addresses or networks)."

# Cloud metadata services; those outside the private and link-local ranges are public addresses by their number.
_METADATA = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.169.254/32", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::254/128")
)
_NEVER_BY_NAME = (*_METADATA, ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
# IPv6 ranges whose lower 32 bits are an IPv4 address: NAT64 (RFC 6052) and IPv4-compatible (RFC 4291).
_IPV4_INSIDE = tuple(ipaddress.ip_network(text) for text in ("64:ff9b::/96", "::/96"))
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215


@dataclass(frozen=True)
class CheckedUrl:
    """A URL that may be requested, and the addresses that were judged for its host."""

    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...]


def _plain_host(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _without_zone(text: str) -> Address:
    return ipaddress.ip_address(text.partition("%")[0])


def _real(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address.sixtofour:
        return address.sixtofour
    if address.teredo:
        return address.teredo[1]
    if any(address in network for network in _IPV4_INSIDE) and int(address) > 1:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _kind(address: Address) -> str | None:
    """What makes an address one that no user-supplied URL may lead to; None for a public one."""
    kinds = (
        ("a cloud metadata", any(address in network for network in _METADATA)),
        ("an unspecified", address.is_unspecified),
        ("a loopback", address.is_loopback),
        ("a link-local", address.is_link_local),
        ("a multicast", address.is_multicast),
        ("a private", address.is_private or getattr(address, "is_site_local", False) or address in _LOCAL_NAT64),
        ("a reserved", address.is_reserved or not address.is_global),
    )
    return next((name for name, holds in kinds if holds), None)


class UrlGuard:
    """Judges URLs and connections.

    Args:
        allow: hosts, addresses or networks that may be reached though they are not public. A host lets its addresses
            pass, but never link-local or metadata ones: those take an address or network.

    Raises:
        ConfigurationError: an entry of ``allow`` is none of these.
    """

    def __init__(self, allow: Sequence[str] = ()) -> None:
        self._hosts: set[str] = set()
        self._networks: list[Network] = []
        for entry in filter(None, (text.strip() for text in allow)):
            try:
                self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                if set(entry) & set("/:@*? \\"):
                    raise ConfigurationError(
                        f"HEADRACE_URL_ALLOW: {entry!r} is no host, address or network.",
                        remedy="Example: api.internal, 10.1.0.0/16, 127.0.0.1",
                    ) from None
                self._hosts.add(_plain_host(entry))

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> UrlGuard:
        """The installation's guard; without ``settings``, by the environment."""
        if settings is None:
            from assets.settings import Settings as FromEnvironment

            settings = FromEnvironment()
        return cls(settings.url_allow.split(","))

    def check(self, url: str) -> CheckedUrl:
        """Judge a URL by its form and by the addresses its host has now.

        For clients that connect by themselves; a session or client of this guard judges each connection anyway.

        Raises:
            UrlRefusedError: its scheme, form or every address of its host is refused, or the name does not resolve.
        """
        if len(url) > MAX_URL_CHARACTERS or any(c in "\\" or ord(c) <= 32 or ord(c) == 127 for c in url):
            raise UrlRefusedError("the URL is too long, or holds blanks, control characters or backslashes")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise UrlRefusedError("the URL cannot be read") from None
        if parts.scheme not in PORTS:
            raise UrlRefusedError("only http:// and https:// URLs are requested", where=parts.scheme[:20])
        if not parts.hostname:
            raise UrlRefusedError("the URL names no host")
        if parts.username is not None or parts.password is not None:
            raise UrlRefusedError("a URL may not hold a user or password", where=parts.hostname)
        port = port or PORTS[parts.scheme]
        return CheckedUrl(parts.scheme, parts.hostname, port, tuple(self.addresses(parts.hostname, port)))

    def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a host and return the addresses that may be connected to, in the resolver's order.

        Decimal, octal and hexadecimal spellings of IPv4 are resolved as the system does it, then judged.

        Raises:
            UrlRefusedError: there is none.
        """
        name = _plain_host(host)
        try:
            answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise UrlRefusedError("the name does not resolve", where=host[:255], retryable=True) from None
        found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        kinds = {text: self._refusal(name, text) for text in found}
        allowed = [text for text, kind in kinds.items() if kind is None]
        if not allowed:
            kind = next((kind for kind in kinds.values() if kind), "no")
            raise UrlRefusedError(f"the host has {kind} address", where=host[:255], remedy=_REMEDY)
        return allowed

    def _refusal(self, name: str, text: str) -> str | None:
        written = _without_zone(text)
        address = _real(written)
        kind = _kind(address)
        if kind is None:
            return None
        for network in self._networks:
            if any(a.version == network.version and a in network for a in (address, written)):
                return None
        if name in self._hosts and not any(
            address.version == network.version and address in network for network in _NEVER_BY_NAME
        ):
            return None
        return kind

    def requests_session(self, *, timeout: tuple[float, float] = (10, 60), max_redirects: int = 5) -> requests.Session:
        """A ``requests`` session whose every connection is judged and pinned.

        Args:
            timeout: seconds to connect, and seconds without an answer, where a request names none.

        Its attribute ``secret_headers`` (a set, lower case) names headers besides ``Authorization`` that a redirect to
        another host does not carry along.
        """
        from assets.guarded_requests import GuardedSession

        session = GuardedSession(self, timeout)
        session.max_redirects = max_redirects
        return session

    def httpx_client(self, **options: Any) -> httpx.Client:
        """An ``httpx`` client whose every connection is judged and pinned. ``options``: those of ``httpx.Client``."""
        import httpx

        from assets.guarded_httpx import GuardedTransport

        transport = GuardedTransport(self, options.pop("verify", True))
        return httpx.Client(transport=transport, trust_env=False, **options)

    def httpx_async_client(self, **options: Any) -> httpx.AsyncClient:
        """The same for asyncio."""
        import httpx

        from assets.guarded_httpx import GuardedAsyncTransport

        transport = GuardedAsyncTransport(self, options.pop("verify", True))
        return httpx.AsyncClient(transport=transport, trust_env=False, **options)
