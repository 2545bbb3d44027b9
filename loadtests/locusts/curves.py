"""How many ask at once, as time goes by?"""

from __future__ import annotations

import math
from enum import StrEnum

NIGHT = 0.2
"""Which share of the most there are at night, and beside a spike."""
SPIKE = (0.4, 0.6)
"""Between which parts of the time a spike is."""


class Curve(StrEnum):
    """How traffic goes."""

    STEADY = "steady"
    RAMP = "ramp"
    SPIKE = "spike"
    DIURNAL = "diurnal"


def users_at(curve: Curve, part: float, users_max: int) -> int:
    """Return how many there are when `part` of the time is over, 0 to 1; outside as at the nearer end.

    `STEADY` is always the most; `RAMP` comes to it at the end; `SPIKE` is a few, suddenly the most, and a
    few again; `DIURNAL` is a day: night, a peak before noon, a lesser one in the evening, and night.
    """
    part = min(max(part, 0.0), 1.0)
    match curve:
        case Curve.STEADY:
            share = 1.0
        case Curve.RAMP:
            share = part
        case Curve.SPIKE:
            share = 1.0 if SPIKE[0] <= part < SPIKE[1] else NIGHT
        case Curve.DIURNAL:
            share = NIGHT + (1 - NIGHT) * max(_bump(part, 11 / 24), 0.8 * _bump(part, 20 / 24))
    return max(1, round(share * users_max))


def _bump(part: float, at: float) -> float:
    return math.exp(-(((part - at) * 24 / 3) ** 2) / 2)
