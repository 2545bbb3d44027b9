"""What is one measurement of a gateway under load, and what did the device do meanwhile?"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from loadtests.bench import server
from loadtests.bench.errors import BenchError
from loadtests.gpubench.asking import Way
from loadtests.gpubench.noise import Moment
from loadtests.gpubench.page import Page
from serving.bench.load import Load

WARM_S = 0.4
UTILISATION = "nv_gpu_utilization"
SAMPLES = 8
"""How often a GPU is asked how busy it is, in one measurement; NVML itself averages over a second or less."""
BUSY = 0.95
"""From here on the load's core is the limit."""
OTHERS_MAX = 0.1
"""A measurement during which others used more cores is made again, and the less disturbed one counts."""
AGAIN_MAX = 12
"""How often in all: on a busy machine a benchmark has an end, too, and says how busy the machine was."""


class Running(Protocol):
    """Whoever is under load."""

    @property
    def metrics(self) -> int:
        """The port of its metrics."""

    def cpu_s(self) -> float:
        """Return the processor time used so far, in seconds."""


@dataclass(slots=True)
class Patience:
    """How many more times something may be measured again."""

    left: int = AGAIN_MAX

    def lasts(self) -> bool:
        """Say whether it is worth another try, and take note of that."""
        self.left -= 1
        return self.left >= 0


@dataclass(frozen=True, slots=True)
class Pressure:
    """One measurement: answers a second, how late they were, and how busy everybody was.

    `busy` is the device's share of the time, `rows` are those of a run, 0 where only a simulated device would
    tell, `server_us` is what a row took of the server's processors, `others` how many cores others used.
    """

    clients: int
    per_s: float
    p50_ms: float
    p99_ms: float
    busy: float
    rows: float
    load_busy: float
    server_us: float
    others: float

    def __str__(self) -> str:
        told = [f"{self.per_s:,.0f} rows/s", f"busy {self.busy:.3f}"]
        if self.rows:
            told.append(f"{self.rows:.0f} a run")
        told.append(f"{self.server_us:.0f} us each")
        if self.load_busy >= BUSY:
            told.append("load's core full")
        if self.others > OTHERS_MAX:
            told.append(f"others {self.others:.1f} cores")
        return ", ".join(told)


class Watch:
    """Looks at the device from the end of the warming up to the end of the load, from a thread of its own."""

    def __init__(self, running: Running, page: Page | None, from_s: float, seconds: float) -> None:
        self._running, self._page = running, page
        self._from_s, self._seconds = from_s, seconds
        self.busy = self.rows = self.cpu_s = self.others = 0.0
        self._thread = threading.Thread(target=self._watch, name="gpubench-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _watch(self) -> None:
        time.sleep(max(self._from_s - time.perf_counter(), 0))
        before_s, before = self._running.cpu_s(), Moment.now(self._ours_s)
        if self._page is not None:
            first = self._page.read()
            time.sleep(self._seconds)
            last = self._page.read()
            self.busy, self.rows = last.busy_since(first), last.rows_a_run_since(first)
        else:
            self.busy = fmean(self._samples())
        self.others = Moment.now(self._ours_s).others_since(before)
        self.cpu_s = self._running.cpu_s() - before_s

    def _ours_s(self) -> float:
        return self._running.cpu_s() + time.process_time()

    def _samples(self) -> list[float]:
        taken = []
        for _ in range(SAMPLES):
            time.sleep(self._seconds / SAMPLES)
            taken.append(server.counted(self._running.metrics, UTILISATION))
        return taken


def press(
    way: Way,
    running: Running,
    page: Page | None,
    clients: int,
    seconds: float,
    rate_per_s: float = 0.0,
    patience: Patience | None = None,
) -> Pressure:
    """Ask for so long: as many `clients` as fast as they are answered, or at a rate if there is one.

    Raises
    ------
    BenchError
        If a request was not answered as it should be: that is no throughput.
    """
    taken = _press(way, running, page, clients, seconds, rate_per_s)
    if taken.others > OTHERS_MAX and patience is not None and patience.lasts():
        again = _press(way, running, page, clients, seconds, rate_per_s)
        taken = min(taken, again, key=lambda each: each.others)
    return taken


def _press(
    way: Way, running: Running, page: Page | None, clients: int, seconds: float, rate_per_s: float
) -> Pressure:
    load = Load(way.plan(clients, rate_per_s, seconds, WARM_S))
    watch = Watch(running, page, load.begin_ns / 1e9 + WARM_S, seconds)
    watch.start()
    load.run()
    watch.join()
    total = load.tally.whole()
    if total.errors or not total.count:
        wrong = {what: count for what, count in load.tally.outcomes.items() if what not in ("200", "OK")}
        raise BenchError(f"{total.errors} of {total.count} requests failed: {wrong}")
    p50_ms, p99_ms = (total.latency.quantile_ns(share) / 1e6 for share in (0.5, 0.99))
    return Pressure(
        clients,
        total.count / seconds,
        p50_ms,
        p99_ms,
        watch.busy,
        watch.rows,
        load.busy,
        watch.cpu_s / total.count * 1e6,
        watch.others,
    )
