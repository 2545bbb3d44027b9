"""When is each request due? Nanoseconds from the start, ascending, whatever becomes of the requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import count, islice, takewhile

import numpy as np

BLOCK = 512
"""Drawn at a time: 12 us, which the requests due meanwhile have to wait."""
RATE_MAX = 1e6


class Arrivals(StrEnum):
    """How requests come."""

    POISSON = "poisson"
    """As from many callers who do not know of each other."""
    CONSTANT = "constant"
    """As from a clock."""
    CLOSED = "closed"
    """As soon as a connection is free: it measures capacity, and hides how long a pause really was."""


def poisson(rate_per_s: float, rng: np.random.Generator) -> Iterator[int]:
    """Yield moments whose gaps are independent and exponential, 1 / `rate_per_s` seconds on average."""
    at_ns = 0.0
    while True:
        due = at_ns + np.cumsum(rng.exponential(1e9 / rate_per_s, BLOCK))
        at_ns = float(due[-1])
        yield from due.astype(np.int64).tolist()


def constant(rate_per_s: float) -> Iterator[int]:
    """Yield k / `rate_per_s` for each k from 0, each computed by itself, so that no error adds up."""
    for first in count(0, BLOCK):
        yield from (np.arange(first, first + BLOCK) / rate_per_s * 1e9).astype(np.int64).tolist()


def closed(now_ns: Callable[[], int], end_ns: int) -> Iterator[int]:
    """Yield the moments of asking, until one is not before `end_ns`."""
    while (at := now_ns()) < end_ns:
        yield at


def bounded(due_ns: Iterator[int], seconds: float, requests_max: int) -> Iterator[int]:
    """Yield what is due within `seconds`, and no more than `requests_max`."""
    end_ns = int(seconds * 1e9)
    return islice(takewhile(lambda at: at < end_ns, due_ns), requests_max)
