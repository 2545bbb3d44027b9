"""What do the control and the replicas say to each other, and how is it cut into messages?

One JSON object a line, over a Unix stream socket in the deployment's private folder. Each is an object
with `say`; whoever does not know the word ignores it, so that neighbouring releases understand each other.

From a replica
    hello {name, pid, revision, term, answering, ready, digests, brakes, tallies, epochs}, later `state` with
    the same: digests are those of the versions that are ready
    acknowledge {revision}, prepared {task, faults}, holding {task}, renew {sent_ns}
    shadows {told}: model, version and reading of each shadow that there is or was
    drift {told}: model, version, role, tensor and reading of each stream of `serving.drift.reading` whose
    counts have changed since they were told on this connection
    order {number, model, order}: a client of this replica's has a model loaded or unloaded; `ordered` answers
    carried_out {task, fault}: what came of `carry_out`; fault is empty if it was
    profiled {task}: what was said of profiles up to that task holds
    captured {into, error}: what came of a capture; error is empty if there is a file of each stream
    evidence {source, told}: model, epoch, version, arm and `serving.evidence.counts.Counts` of each page
    whose counts have changed since they were told on this connection; they are since that process began, and
    no other is called `source`
    measured {task, durations, confidences}: how the version's latencies and top scores are spread, of late
    replayed {task, report, error}: what came of `replay`; there is either a report or an error
    quality, labelled: see `serving.labels.teller`

From the control
    table {term, revision, routes, aliases, epochs, must, good}
    prepare {task, model, versions}, hold {task, model, s_max}, release {model}, lease {sent_ns, s}
    orders {orders}: by model what is ordered of it; first of all after a hello, and after each change
    carry_out {task, model, order}: load or unload a model; null takes the word back that there was
    ordered {number, kind, error, missing}: what came of an order; kind is empty if it holds
    profiles {profiles, only, task}: by model and version the profile that counts from now on, or null for
    none. A version that is not in it keeps what it has; where there is `only`, a list of [model, version], it
    has none unless it is in there. After a hello all are told, one by one, and then `only`. Where there is a
    `task`, `profiled` answers
    drift {verdicts}: what `serving.drift.stream.Stream.verdict` says of each stream that has a reference
    capture {model, version, rows, into}: write the next rows of each stream into a file in that folder; with
    0 rows, end what was to be written there
    replay {task, model, versions, rows, s_max}: run the newest inputs of a model through versions of it,
    within so many seconds; with 0 rows, say only what is kept. `replayed` answers
    terms {model, versions, late_ns, confidence, output}: what to count of the requests that are drawn, as
    `serving.evidence.terms.Terms` has it; of no versions, nothing. After a hello all are told: those that are
    not within ten seconds are over
    labels {task, model, labels}: join these to the answers that they are of; `labelled` answers
    measure {task, model, version, ever}: `measured` answers, of late or since the version was loaded
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

from router.table import RoutingTable
from router.table_document import parse_route, route_document
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
        self._pieces: list[bytes] = []
        self._bytes = 0
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
        if b"\n" not in data:
            self._pieces.append(data)
            self._bytes += len(data)
            if self._bytes > LINE_BYTES_MAX:
                log.error("event=message_too_long bytes=%d", self._bytes)
                self.transport.abort()
            return
        *whole, rest = b"".join([*self._pieces, data]).split(b"\n")
        self._pieces, self._bytes = [rest], len(rest)
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
