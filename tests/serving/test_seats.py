"""Are there as many connections as descriptors, less what else needs one?"""

from __future__ import annotations

import resource
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from serving.seats import RESERVED, Seats, seats_of


@given(st.integers(16, 1 << 20))
def test_connections_leave_descriptors_for_everything_else(limit):
    assert 0 < limit - seats_of(limit) <= max(RESERVED, limit // 2 + 1)
    assert seats_of(limit) >= limit // 2


def test_without_a_limit_there_is_none():
    assert seats_of(resource.RLIM_INFINITY) > 1 << 20


@given(st.lists(st.booleans(), max_size=50))
def test_the_excess_is_how_many_there_are_too_many(steps):
    seats, taken = Seats(5), 0
    for come in steps:
        if come:
            taken += 1
            assert seats.take() == taken - 5
        elif taken:
            taken -= 1
            seats.leave()


def test_a_process_opens_as_many_files_as_it_may():
    script = (
        "import resource as r; _, most = r.getrlimit(r.RLIMIT_NOFILE); r.setrlimit(r.RLIMIT_NOFILE, (64, most));"
        "from serving.seats import seats, seats_of; made = seats();"
        "assert r.getrlimit(r.RLIMIT_NOFILE) == (most, most); assert made.seats_max == seats_of(most)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
