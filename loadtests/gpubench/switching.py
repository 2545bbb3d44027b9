"""What becomes of requests while traffic is switched between two versions and back, on a device?"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from loadtests.bench.client import percentile
from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Better, Goal, Row
from loadtests.bench.server import Server
from loadtests.gpubench.asking import Asked, over_http
from loadtests.gpubench.cases import Case
from loadtests.switching import trial
from loadtests.switching.access import admin
from loadtests.switching.admin import Admin
from loadtests.switching.checks import judged
from serving.bench.load import Load

CLIENTS = 64
PAUSE_S = 0.15
CHECKED = 25
"""Switches of the register."""
NONE = Goal(0, Better.LOWER)
OTHER = {1: 2, 2: 1}


class Switches:
    """Switches a case back and forth from a thread of its own, and tells the load of each."""

    def __init__(self, case: Case, control: Admin, load: Load, seed: int = 0) -> None:
        self._case, self._control, self._load = case, control, load
        self._pauses = random.Random(seed)
        self._over = threading.Event()
        self.took_ms: list[float] = []
        self.fault = ""
        self._thread = threading.Thread(target=self._switch, name="gpubench-switch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the switch under way."""
        self._over.set()
        self._thread.join()

    def _switch(self) -> None:
        live = 2  # The newest, as after a start.
        while not self._over.wait(PAUSE_S * self._pauses.uniform(0.5, 1.5)):
            try:
                change = self._control.switch(self._case.name, live, OTHER[live])
            except BenchError as error:
                self.fault = str(error)
                return
            if not change.receipt or not change.switch.confirmed:
                self.fault = f"the switch to {OTHER[live]} was not confirmed"
                return
            self._load.tally.changed(time.perf_counter_ns(), self._case.name, int(change.receipt["revision"]))
            self.took_ms.append(change.client_ms)
            live = OTHER[live]


def switched(case: Case, running: Server, seconds: float) -> Iterator[Row]:
    """Ask a case as fast as it answers while it is switched, and count what was stale or failed.

    Stale is an answer of the version before to a request that was sent after the switch was confirmed.
    """
    name = f"{case.name}/switched: stale or failed"
    load = Load(over_http(Asked(case), running.port).plan(CLIENTS, 0.0, seconds, 0.0))
    switches = Switches(case, admin(running), load)
    switches.start()
    load.run()
    switches.stop()
    if switches.fault or not switches.took_ms:
        raise BenchError(switches.fault or "there was no switch")
    total = load.tally.whole()
    versions = {version for _, version in load.tally.totals if version}
    p50_ms, max_ms = percentile(switches.took_ms, 50), max(switches.took_ms)
    told = [
        f"{len(switches.took_ms)} switches, {p50_ms:.1f} ms at the median and at most {max_ms:.1f}",
        f"{total.count:,} requests, {total.stale} stale, {total.errors} failed",
        f"versions that answered: {', '.join(sorted(versions))}",
    ]
    value = float(total.stale + total.errors)
    p50_us, p99_us = (total.latency.quantile_ns(share) / 1e3 for share in (0.5, 0.99))
    yield Row(name, value, "requests", NONE, p50_us=p50_us, p99_us=p99_us, note="; ".join(told))


def checked(running: Server, folder: Path) -> Iterator[Row]:
    """Let the checker of switches judge the register, whose answers say which version computed them."""
    run = trial.run(running.port, admin(running), folder, switches=CHECKED)
    yield judged("register/switched: violations", run)
