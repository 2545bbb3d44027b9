"""How does locust follow a curve?"""

from __future__ import annotations

from typing import ClassVar

from locust import LoadTestShape

from loadtests.locusts.curves import Curve, users_at


class CurveShape(LoadTestShape):
    """Follows `curve` to `users_max` users within `seconds`; then it stops, or stays if it is to `linger`."""

    abstract = True
    curve: ClassVar[Curve]

    def __init__(self, users_max: int = 12, seconds: float = 60.0, *, linger: bool = False) -> None:
        super().__init__()
        self._users_max, self._seconds, self._linger = users_max, seconds, linger

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there are to be now, and how many a second may come or go."""
        part = self.get_run_time() / self._seconds
        if part > 1 and not self._linger:
            return None
        return users_at(self.curve, part, self._users_max), float(self._users_max)


class SteadyShape(CurveShape):
    """Always the most."""

    curve = Curve.STEADY


class RampShape(CurveShape):
    """Ever more."""

    curve = Curve.RAMP


class SpikeShape(CurveShape):
    """Suddenly many, and few again."""

    curve = Curve.SPIKE


class DiurnalShape(CurveShape):
    """A day, however long it takes."""

    curve = Curve.DIURNAL


SHAPES: dict[Curve, type[CurveShape]] = {
    each.curve: each for each in (SteadyShape, RampShape, SpikeShape, DiurnalShape)
}
