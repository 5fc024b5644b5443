"""Whether a request comes from this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from serve_app.errors import Forbidden


def require_loopback(connection: HTTPConnection, origins: Collection[str] = ()) -> None:
    """The peer is this machine, and no page of a stranger in its browser: that one names itself as the origin, or, by a
    name of its own that leads here, as the host. Pages of `origins` are no strangers. Raises Forbidden."""
    hosts = [connection.client.host if connection.client else None]
    if host := connection.headers.get("host"):
        hosts.append(urlsplit(f"//{host}").hostname)
    if (origin := connection.headers.get("origin")) and origin not in origins:
        hosts.append(urlsplit(origin).hostname)
    if not all(is_loopback(host) for host in hosts):
        raise Forbidden("ENV=local answers the loopback address only.")


def is_loopback(host: str | None) -> bool:
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
