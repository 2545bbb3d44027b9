"""When the next batch is taken: never more than one ahead, never later than idle, and later learnt."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from serving.gpu.pace import DEPTH_MAX, LEAD_NS_MAX, LEAD_NS_MIN, Pace, Ticket
from serving.gpu.times import Times, points
from serving.waiting import NEVER_NS

US, MS = 1000, 1_000_000
ROWS_MAX = 32

fixed_ns = st.integers(50 * US, 20 * MS)
row_ns = st.integers(0, 500 * US)
copies_ns = st.integers(0, 3 * MS)


def times(fixed: int, a_row: int, copy: int = 0) -> Times:
    """Return what a device would be measured to take: so much, and so much for each row."""
    rows = points(ROWS_MAX)
    return Times({each: fixed + a_row * each for each in rows}, dict.fromkeys(rows, copy))


@dataclass
class Device:
    """A device that takes exactly as long as was measured, and is heard of at once."""

    pace: Pace
    way_ns: int
    """From when a batch is taken until its run is queued and its inputs are there."""
    slower: float = 1.0
    now_ns: int = 1
    free_ns: int = 0
    idle_ns: int = 0
    under_way: list[tuple[Ticket, int, int]] = field(default_factory=list)

    def hear(self, until_ns: int) -> None:
        """Tell of the ends until then."""
        while self.under_way and self.under_way[0][2] <= until_ns:
            ticket, _, end_ns = self.under_way.pop(0)
            self.pace.ended(ticket, end_ns)

    def send(self, rows: int) -> Ticket:
        """Take a batch, and queue it a while later."""
        ticket = self.pace.take(self.now_ns, rows)
        launched_ns = self.now_ns + self.way_ns
        self.hear(launched_ns)
        self.now_ns = launched_ns
        ready_ns = launched_ns + self.pace.times.copy_ns(rows)
        start_ns = max(ready_ns, self.free_ns)
        if self.free_ns:
            self.idle_ns += start_ns - self.free_ns
        self.free_ns = start_ns + int(self.slower * self.pace.times.run_ns(rows))
        self.under_way.append((ticket, start_ns, self.free_ns))
        self.pace.launched(ticket, launched_ns)
        return ticket

    def pause(self, *, full: bool = False) -> None:
        """Let time pass until the next batch may be taken, or the device tells of an end before."""
        while (when_ns := self.pace.when_ns(self.now_ns, full=full)) > self.now_ns:
            self.pace.refuse()
            ends_ns = self.under_way[0][2] if self.under_way else NEVER_NS
            self.now_ns = min(when_ns, max(ends_ns, self.now_ns + 1))
            self.hear(self.now_ns)


rows_in_turn = st.lists(st.integers(1, ROWS_MAX), min_size=1, max_size=40)
ways_ns = st.integers(0, 10 * MS)


@given(fixed_ns, row_ns, copies_ns, ways_ns, rows_in_turn, st.booleans())
def test_what_was_taken_before_runs_when_the_next_batch_is_there(
    fixed, a_row, copy, way, sizes, full
) -> None:
    """One runs and one is ready behind it: never two."""
    device = Device(Pace(times(fixed, a_row, copy)), way)
    for rows in sizes:
        device.pause(full=full)
        there_ns = device.now_ns + way + copy
        assert all(start_ns <= there_ns for _, start_ns, _ in device.under_way)
        device.send(rows)


@given(fixed_ns, row_ns, copies_ns, ways_ns, rows_in_turn)
def test_nobody_is_kept_waiting_by_a_device_with_nothing_to_do(fixed, a_row, copy, way, sizes) -> None:
    device = Device(Pace(times(fixed, a_row, copy)), way)
    for rows in sizes:
        device.pause()
        device.send(rows)
        when_ns, (_, _, end_ns) = device.pace.when_ns(device.now_ns), device.under_way[-1]
        if len(device.under_way) < DEPTH_MAX:
            assert when_ns <= end_ns
        device.now_ns = device.free_ns
        device.hear(device.now_ns)
        assert device.pace.when_ns(device.now_ns) <= device.now_ns


@given(st.integers(1 * MS, 20 * MS), row_ns, st.lists(st.integers(0, 1000 * US), min_size=10, max_size=40))
def test_a_full_batch_is_there_however_the_way_varies(fixed, a_row, ways) -> None:
    """Nobody could join it: so it is not taken at the last moment, which may be missed."""
    device = Device(Pace(times(fixed, a_row)), way_ns=0)
    for way in ways:
        device.pause(full=True)
        device.way_ns = way
        device.send(ROWS_MAX)
    assert device.idle_ns == 0


@given(st.integers(4 * MS, 20 * MS), st.integers(0, 200 * US), st.integers(0, 3 * MS))
def test_a_device_for_which_somebody_always_waits_is_soon_never_idle(fixed, a_row, way) -> None:
    device = Device(Pace(times(fixed, a_row)), way)
    for _ in range(30):
        device.pause()
        device.send(ROWS_MAX)
    idle_ns = device.idle_ns
    for _ in range(30):
        device.pause()
        device.send(ROWS_MAX)
    assert device.idle_ns == idle_ns


@given(st.integers(4 * MS, 20 * MS), st.integers(0, 2 * MS))
def test_a_batch_is_taken_not_much_sooner_than_its_way_takes(fixed, way) -> None:
    """So that whoever comes just too late for it does not wait for two runs before the own one."""
    device = Device(Pace(times(fixed, 0)), way)
    for _ in range(60):
        device.pause()
        device.send(ROWS_MAX)
    device.pause()
    assert device.free_ns - device.now_ns <= max(LEAD_NS_MIN, way + MS)


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "launched", "ended", "broke"]), st.integers(0, 50 * MS)),
        max_size=60,
    )
)
def test_whatever_is_told_and_when_there_are_never_more_under_way_than_slots(events) -> None:
    pace, now_ns = Pace(times(MS, 0)), 1
    under_way: list[Ticket] = []
    for event, later_ns in events:
        now_ns += later_ns
        if event == "take":
            if pace.when_ns(now_ns) <= now_ns:
                under_way.append(pace.take(now_ns, 1))
            else:
                pace.refuse()
        elif event == "launched":
            for each in under_way:
                if not each.launched_ns:
                    pace.launched(each, now_ns)
        elif under_way:
            pace.ended(under_way.pop(0), now_ns, learn=event == "ended")
        assert len(under_way) <= DEPTH_MAX
        assert LEAD_NS_MIN <= pace.lead_ns <= LEAD_NS_MAX
    for each in under_way:
        pace.ended(each, now_ns)
    assert pace.when_ns(now_ns) <= now_ns


@given(st.integers(2 * MS, 20 * MS), st.floats(0.2, 5.0))
def test_runs_that_take_another_time_than_was_measured_are_soon_expected_to(fixed, slower) -> None:
    believed = times(fixed, 0)
    device = Device(Pace(believed), 0)
    for _ in range(80):
        device.slower = slower * fixed / believed.run_ns(8)
        device.pause()
        device.send(8)
    assert abs(believed.run_ns(8) / (slower * fixed) - 1) < 0.1


@given(fixed_ns, st.integers(1, 500 * US), st.integers(1, 40 * MS), st.integers(0, 60 * MS))
def test_a_batch_has_no_more_rows_than_fit_the_time_that_it_may_take(fixed, a_row, limit, left) -> None:
    pace = Pace(times(fixed, a_row), limit)
    rows = pace.rows_now(0)
    assert rows == 1 or pace.times.run_ns(rows) <= limit
    assert rows == ROWS_MAX or pace.times.run_ns(rows + 1) > limit
    urgent = pace.rows_now(0, left)
    assert 1 <= urgent <= rows
    if pace.lead_ns + pace.times.run_ns(1) <= left:
        assert pace.lead_ns + pace.times.run_ns(urgent) <= left
    else:
        assert urgent == rows  # Nobody is helped by a smaller one.


def test_requests_that_gave_up_while_they_waited_do_not_make_later_ones_early() -> None:
    pace = Pace(times(MS, 0))
    ticket = pace.take(1, 1)
    pace.refuse()
    pace.launched(ticket, 2)
    pace.ended(ticket, MS)
    pace.take(3600 * 1000 * MS, 1)
    assert pace.late_ns <= MS
