"""Where may events be sent to, and where never, whatever a name resolves to?

Whoever can change where a name leads, or the configuration alone, must not be able to have this server ask
things of machines that only it can reach, such as a cloud's metadata, which hands out credentials (SSRF).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

IP = ipaddress.IPv4Address | ipaddress.IPv6Address

PORTS = {"http": 80, "https": 443}
URL_MAX = 2000
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_THIS = ipaddress.ip_network("0.0.0.0/8")
METADATA = frozenset(
    map(
        ipaddress.ip_address,
        # Of clouds that keep it elsewhere than at link-local addresses.
        ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
    )
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a receiver is. `target` is for it alone: it may well hold a secret."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def place(self) -> str:
        """Host and port, as they are written in the lists of what is allowed."""
        return place(self.host, self.port)

    @property
    def authority(self) -> str:
        """What a request's `Host` header says."""
        usual = self.port == PORTS[self.scheme]
        return self.place.rpartition(":")[0] if usual else self.place

    @property
    def ip(self) -> IP | None:
        """The address, if the host is written as one."""
        return _ip(self.host)

    def __repr__(self) -> str:
        return f"<{self.scheme}://{self.place}>"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What configuration allows, as host and port: anything, what is inside, and what is unencrypted."""

    places: frozenset[str]
    private: frozenset[str] = frozenset()
    http: frozenset[str] = frozenset()


def place(host: str, port: int) -> str:
    """Write host and port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_place(text: str) -> str:
    """Read ``hooks.example.com:443``; a `ValueError` says what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise ValueError(f"{text[:80]!r} is no HOST:PORT, such as hooks.example.com:443")
    return place(_host(host), int(port))


def parse_url(text: str) -> Address:
    """Read the URL of a receiver; a `ValueError` says what is wrong."""
    if not (text.isascii() and text.isprintable()) or set(text) & set(' "<>\\^`{|}') or len(text) > URL_MAX:
        raise ValueError(f"a URL has up to {URL_MAX} visible ASCII characters; others are written as %41")
    url = urlsplit(text)
    if url.scheme not in PORTS or not url.hostname:
        raise ValueError("expected https://HOST/PATH, or http:// where that is allowed")
    if "@" in url.netloc or "#" in text:
        raise ValueError("a URL of a receiver has no user, password or fragment")
    port = PORTS[url.scheme] if url.port is None else url.port
    if not port:
        raise ValueError("nobody listens on port 0")
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return Address(url.scheme, _host(url.hostname), port, target)


def mistake(address: Address, allowed: Allowed) -> str:
    """Say why an address cannot be a receiver's whatever it resolves to; nothing if it can."""
    if address.place not in allowed.places:
        return f'{address.place} is not allowed; if it is meant, say allow = ["{address.place}"]'
    ip = address.ip
    if ip is not None:
        return unfit(ip, address, allowed)
    if address.scheme == "http" and address.host != "localhost":
        return _unencrypted(address, allowed)
    return ""


def unfit(ip: IP, address: Address, allowed: Allowed) -> str:
    """Say why nothing is sent to an IP address that a receiver's host means; nothing if it is."""
    for each in (ip, *_inside(ip)):
        if never := _never(each):
            return f"{address.host} is {ip}, {never}; nothing is ever sent there"
        named = address.ip is not None or address.place in allowed.private
        local = address.host == "localhost" and each.is_loopback
        if not (each.is_global or named or local):
            return (
                f"{address.host} is {ip}, which is not on the public internet; "
                f'if that is meant, say allow_private = ["{address.place}"]'
            )
    if address.scheme == "http" and not ip.is_loopback:
        return _unencrypted(address, allowed)
    return ""


def chosen(found: Iterable[str], address: Address, allowed: Allowed) -> tuple[list[IP], str]:
    """Return which of the IP addresses that were found may be connected to, and why not if none may."""
    ips = [ipaddress.ip_address(each) for each in dict.fromkeys(found)]
    faults = {ip: unfit(ip, address, allowed) for ip in ips}
    fit = [ip for ip, fault in faults.items() if not fault]
    return fit, "" if fit else next(iter(faults.values()), f"{address.host} has no address")


def _unencrypted(address: Address, allowed: Allowed) -> str:
    if address.place in allowed.http:
        return ""
    return f'http to {address.place} is not encrypted; use https, or say allow_http = ["{address.place}"]'


def _never(ip: IP) -> str:
    if ip in METADATA:
        return "where a cloud keeps credentials"
    if ip.is_link_local:
        return "which is link-local, where clouds keep credentials"
    if ip.is_multicast or ip.is_unspecified or (ip.version == 4 and ip in _THIS):
        return "which is no address of one machine"
    if ip.version == 4 and ip.is_reserved:
        return "which is reserved"
    return ""


def _inside(ip: IP) -> list[IP]:
    """Return the IPv4 addresses that an IPv6 address stands for, by any way of writing one in the other."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    found: list[IP | None] = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64:
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def _ip(host: str) -> IP | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host(text: str) -> str:
    host = text.strip("[]").lower()
    if (ip := _ip(host)) is not None:
        return str(ip)
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise ValueError(f"{text[:80]!r} is no name of a host and no IP address")
    return host
