"""Names of services for pods: a DNS server that knows a few, as the cluster's does. Ray's gRPC asks no hosts file."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Mapping
from ipaddress import IPv4Address
from types import TracebackType
from typing import Any, Self

PORT = 53
TTL_S = 5
"""As long as the cluster's own DNS has a headless service's address kept."""
_HEADER_BYTES = 12
_ADDRESS_TYPE = b"\x00\x01"


def answer(query: bytes, names: Mapping[str, str]) -> bytes:
    """The answer to one question, by RFC 1035; of any kind but A there is none."""
    labels, end = [], _HEADER_BYTES
    while length := query[end]:
        labels.append(query[end + 1 : end + 1 + length].decode())
        end += 1 + length
    question, kind = query[_HEADER_BYTES : end + 5], query[end + 1 : end + 3]
    address = names.get(".".join(labels).lower())
    found = b""
    if address is not None and kind == _ADDRESS_TYPE:
        # the question's name, A, IN, time to live, four bytes
        found = b"\xc0\x0c\x00\x01\x00\x01" + TTL_S.to_bytes(4, "big") + b"\x00\x04" + IPv4Address(address).packed
    flags = b"\x85\x80" if address is not None else b"\x85\x83"  # no such name
    return query[:2] + flags + b"\x00\x01" + bytes([0, bool(found)]) + b"\x00\x00\x00\x00" + question + found


class NameServer:
    """Answers from `names`, which may change meanwhile: name in lower case → IPv4 address."""

    def __init__(self, host: str, names: Mapping[str, str]) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                query, socket = self.request
                socket.sendto(answer(query, names), self.client_address)

        self._server: Any = socketserver.ThreadingUDPServer((host, PORT), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
