"""What do the control and the replicas say to each other, and how is it cut into messages?

One JSON object a line, over a Unix stream socket in the deployment's private folder. Each is an object
with `say`; whoever does not know the word ignores it, so that neighbouring releases understand each other.

From a replica
    hello {name, pid, revision, term, answering, ready, brakes, tallies, epochs}, later `state` with the same
    acknowledge {revision}, prepared {task, faults}, holding {task}, renew {sent_ns}
    shadows {told}: model, version and reading of each shadow that there is or was

From the control
    table {term, revision, routes, aliases, epochs, must, good}
    prepare {task, model, versions}, hold {task, model, s_max}, release {model}, lease {sent_ns, s}
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import orjson

from router.entry import parse_route, route_document
from router.table import RoutingTable
from serving import sockets

log = logging.getLogger("turnout.telling")

Said = dict[str, Any]
DOOR = "control.door"
"""Not .sock: in the same folder those hand out listening sockets."""
LINE_BYTES_MAX = 16 << 20
"""What one message may have: a table of some 100,000 models."""


class Line(asyncio.Protocol):
    """One end of a connection. `heard` is called with each message, `ended` once when there are no more."""

    def __init__(
        self,
        heard: Callable[[Line, Said], None],
        ended: Callable[[Line], None],
        began: Callable[[Line], None],
    ) -> None:
        self._heard = heard
        self._ended = ended
        self._began = began
        self._pieces = b""
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # Set once connected.
        self.peer_pid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless the other end belongs to another user."""
        self.transport = transport  # type: ignore[assignment]
        end = transport.get_extra_info("socket")
        raw = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, sockets._CREDENTIALS.size)
        self.peer_pid, uid, _ = sockets._CREDENTIALS.unpack(raw)
        if uid != os.geteuid():
            self.transport.abort()
            return
        self._began(self)

    def data_received(self, data: bytes) -> None:
        """Cut what came into messages."""
        self._pieces += data
        if b"\n" not in data:
            if len(self._pieces) > LINE_BYTES_MAX:
                log.error("event=message_too_long bytes=%d", len(self._pieces))
                self.transport.abort()
            return
        *whole, self._pieces = self._pieces.split(b"\n")
        for message in whole:
            try:
                said = orjson.loads(message)
                self._heard(self, said)
            except Exception:  # A message that one end does not understand must not end the rest.
                log.exception("event=message_not_understood message=%r", message[:200])

    def connection_lost(self, _error: Exception | None) -> None:
        """Say that it is over."""
        self._ended(self)

    def say(self, word: str, **rest: Any) -> None:
        """Send a message."""
        self.send(orjson.dumps({"say": word, **rest}) + b"\n")

    def send(self, message: bytes) -> None:
        """Send a message that is written already."""
        if not self.transport.is_closing():
            self.transport.write(message)

    def hang_up(self) -> None:
        """End it."""
        if self.transport is not None:
            self.transport.abort()


def table_message(
    table: RoutingTable,
    term: int,
    epochs: Mapping[str, int],
    must: Mapping[str, list[str]],
    good: Mapping[str, list[str]],
) -> bytes:
    """Write a table as the control tells it, the same bytes for every replica."""
    document = {
        "say": "table",
        "term": term,
        "revision": table.revision,
        "routes": {model: route_document(route) for model, route in table.routes.items()},
        "aliases": {model: dict(aliases) for model, aliases in table.aliases.items()},
        "epochs": dict(epochs),
        "must": dict(must),
        "good": dict(good),
    }
    return orjson.dumps(document) + b"\n"


def parse_table(said: Said) -> RoutingTable:
    """Read the table out of a message."""
    return RoutingTable(
        said["revision"],
        MappingProxyType({model: parse_route(route) for model, route in said["routes"].items()}),
        MappingProxyType({model: MappingProxyType(dict(each)) for model, each in said["aliases"].items()}),
    )
