"""What is asked of whom, how often, and for how long?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.bench.arrivals import Arrivals
from serving.bench.openings import Tls
from serving.bench.options import STREAMS
from serving.bench.questions import Question


@dataclass(frozen=True, slots=True)
class Calling:
    """How calls are made over gRPC: the header blocks of a connection, and how many calls at a time.

    `opening` is of the first call and fills HPACK's table, `usual` of all others; `plain` uses no table.
    """

    opening: bytes
    usual: bytes
    plain: bytes
    streams: int = STREAMS


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked, how often, and for how long; over gRPC if it says how calls are made.

    Connections are dealt out in turn to the gateway `at` an address and the `others` that answer alike.
    """

    at: tuple[str, int]
    model: str
    questions: Sequence[Question]
    rate_per_s: float
    arrivals: Arrivals = Arrivals.POISSON
    seconds: float = 10.0
    warm_s: float = 0.0
    requests_max: int = 100_000_000
    connections: int = 16
    connections_max: int = 256
    timeout_s: float = 10.0
    seed: int = 0
    distinct: bool = True
    """Write an id of its own into each request; without, what is asked is not more than what there is."""
    tls: Tls | None = None
    calling: Calling | None = None
    others: Sequence[tuple[str, int]] = ()

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """All who are asked."""
        return (self.at, *self.others)

    @property
    def scheme(self) -> str:
        """How it is asked, as a URL says it."""
        return ("http" if self.calling is None else "grpc") + ("" if self.tls is None else "s")
