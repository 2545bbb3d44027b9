"""Which points of throughput are measured, and what must each reach?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loadtests.bench.rows import Goal
from loadtests.bench.traffic import Encoding, Traffic


@dataclass(frozen=True, slots=True)
class Point:
    """A kind of request at a number of connections, and the goals as ratios.

    Goals are for distinct requests, which are what real traffic is and the harder ones. `times`
    lengthens the measurement of slow models; `replica` says that it is measured on Ray as well.
    """

    model: str
    encoding: Encoding
    connections: int
    to_floor: Goal | None = None
    to_floor_on_ray: Goal | None = None
    to_limit: Goal | None = None
    batches: tuple[int, ...] = (1,)
    """Rows that the in-process limit may join; the best of them is the limit."""
    times: int = 1
    replica: bool = True
    distinct: bool = True

    @property
    def traffic(self) -> Traffic:
        """Return what is asked."""
        return Traffic(self.model, self.encoding, self.distinct)

    def __str__(self) -> str:
        kind = "distinct" if self.distinct else "identical"
        return f"{self.model}-{self.encoding}-{self.connections}-{kind}"


BINARY, JSON = Encoding.BINARY, Encoding.JSON

DISTINCT_POINTS = (
    Point("S", BINARY, 8, to_floor=Goal(0.55), to_floor_on_ray=Goal(0.45)),
    Point("S", BINARY, 64, to_floor=Goal(0.65)),
    Point("S", JSON, 8, to_floor=Goal(0.35)),
    Point("S", JSON, 64, replica=False),
    Point("L", BINARY, 1, to_floor=Goal(0.55)),
    Point("L", BINARY, 8, to_floor=Goal(0.50)),
    Point("M", BINARY, 8, to_limit=Goal(0.95), times=3),
    Point("M_batched", BINARY, 64, to_limit=Goal(0.97), batches=(4, 8, 16, 32), times=3),
)


def points() -> Iterator[Point]:
    """Yield each point with distinct requests, then with identical ones, which have no goals."""
    for point in DISTINCT_POINTS:
        yield point
        yield Point(
            point.model,
            point.encoding,
            point.connections,
            batches=point.batches,
            times=point.times,
            replica=False,
            distinct=False,
        )
