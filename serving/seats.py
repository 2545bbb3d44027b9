"""How many connections can there be, as far as this process may have files open?"""

from __future__ import annotations

import resource

RESERVED = 512
"""Descriptors for everything else: versions being opened, processes beside, journals, clients refused."""


class Seats:
    """The connections of all listeners of this process, which share its descriptors.

    Without a descriptor for it a connection cannot even be refused, and nothing else can be opened either.
    """

    def __init__(self, seats_max: int) -> None:
        self.seats_max = seats_max
        self._taken = 0

    def __repr__(self) -> str:
        """Say how many there are."""
        return f"<Seats: {self._taken} of {self.seats_max}>"

    def take(self) -> int:
        """Count a connection; return how many there are too many."""
        self._taken += 1
        return self._taken - self.seats_max

    def leave(self) -> None:
        """Stop counting it."""
        self._taken -= 1


def seats() -> Seats:
    """Have this process open as many files as it may, and return how many of them are for connections.

    The usual limit, 1,024, is for programs that use `select`; the other one is the administrator's.
    """
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return Seats(seats_of(most))


def seats_of(descriptors_max: int) -> int:
    """Return how many of so many descriptors are for connections."""
    if descriptors_max == resource.RLIM_INFINITY:
        return 1 << 30
    return max(descriptors_max - RESERVED, descriptors_max // 2)
