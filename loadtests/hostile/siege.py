"""How is one attack tried: in which order are the rounds, and what is looked at meanwhile?"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from loadtests.bench.errors import BenchError
from loadtests.bench.machine import Cores
from loadtests.hostile.attack import Attack
from loadtests.hostile.gateway import Gateway, Growth, favour
from loadtests.hostile.models import ECHO
from loadtests.hostile.promises import BACK_BYTES_MAX, BACK_S_MAX, PAIRS, PAIRS_MORE, is_suspect
from loadtests.hostile.trial import Round, Trial

SETTLE_S = 0.15
"""Between the beginning or the end of an attack and a round."""


class Worker:
    """A process beside, which is told something in a line and answers in one."""

    def __init__(self, cores: Cores, module: str, *arguments: object) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"loadtests.hostile.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            start_new_session=True,
        )  # fmt: skip
        os.sched_setaffinity(self._process.pid, cores.load)
        favour(self._process.pid)

    def tell(self, line: str) -> None:
        """Say something."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")

    def hear(self) -> Any:
        """Return what it answers."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"{self._module} ended")
        return json.loads(line)

    def ask(self, line: str) -> Any:
        """Say something, and return what it answers."""
        self.tell(line)
        return self.hear()

    def end(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()


@contextlib.contextmanager
def workers(cores: Cores, gateway: Gateway, attack: Attack) -> Iterator[tuple[Worker, Worker]]:
    """Run the good clients' process and the attackers'."""
    good = Worker(cores, "good", gateway.http, attack.model)
    bad = Worker(cores, "attacker", attack.name, gateway.http, gateway.grpc)
    try:
        yield good, bad
    finally:
        bad.end()
        good.end()


@dataclass(frozen=True)
class Pace:
    """How long a round is, and how many requests a second good clients make."""

    rate: float
    seconds: float
    pairs: int = PAIRS
    pairs_more: int = PAIRS_MORE


class Siege:
    """The rounds of one attack."""

    def __init__(self, gateway: Gateway, attack: Attack, pace: Pace, good: Worker, bad: Worker) -> None:
        self._gateway, self._attack, self._pace = gateway, attack, pace
        self._good, self._bad = good, bad
        self._on = False
        self.calm: list[Round] = []
        self.stormy: list[Round] = []

    def pair(self) -> None:
        """Do a round without and one with the attack; they take turns at being first."""
        first = len(self.calm) % 2 == 1
        for storm in (first, not first):
            (self.stormy if storm else self.calm).append(self._round(storm=storm))

    def over(self) -> dict[str, int]:
        """End the attack; return what came of it."""
        self._switch(on=False)
        seen: dict[str, int] = self._bad.ask("count")
        return {name: count for name, count in seen.items() if name != "at_ns"}

    def _switch(self, *, on: bool) -> None:
        if on != self._on:
            self._on = on
            self._bad.ask("on" if on else "off")
            time.sleep(SETTLE_S)

    def _round(self, *, storm: bool) -> Round:
        self._switch(on=storm)
        closed = self._attack.overload and not storm
        seconds = self._pace.seconds
        before, cpu_s = self._bad.ask("count"), self._gateway.cpu_s()
        self._good.tell(json.dumps({"rate": 0 if closed else self._pace.rate, "seconds": seconds}))
        time.sleep(seconds)
        cpu_s = self._gateway.cpu_s() - cpu_s
        after = self._bad.ask("count")
        told = self._good.hear()
        others = after.get("200", 0) - before.get("200", 0) - after.get("mixed", 0) + before.get("mixed", 0)
        others_per_s = others / (after["at_ns"] - before["at_ns"]) * 1e9
        # Of other attacks some requests are good ones too, but nobody counts on them.
        return Round(
            told["fates"],
            told["p99_ms"],
            told["good_per_s"],
            others_per_s if self._attack.overload else 0.0,
            cpu_s / seconds,
        )


def capacity(gateway: Gateway, cores: Cores, model: str = ECHO, seconds: float = 1.0) -> float:
    """Return how many requests a second are answered at most."""
    good = Worker(cores, "good", gateway.http, model)
    try:
        asked = json.dumps({"rate": 0, "seconds": seconds})
        return max(float(good.ask(asked)["good_per_s"]) for _ in range(2))
    finally:
        good.end()


def tried(gateway: Gateway, cores: Cores, attack: Attack, pace: Pace) -> Trial:
    """Attack a gateway, and return what was seen."""
    before = gateway.held_bytes()
    with workers(cores, gateway, attack) as (good, bad), Growth(gateway) as growth:
        good.ask(json.dumps({"rate": pace.rate, "seconds": min(0.5, pace.seconds)}))
        siege = Siege(gateway, attack, pace, good, bad)
        trial = Trial(attack.name, attack.how, attack.overload, siege.calm, siege.stormy)
        for _ in range(pace.pairs):
            siege.pair()
        if is_suspect(trial):
            for _ in range(pace.pairs_more):
                siege.pair()
        seen = siege.over()
        back_s, left = _back(gateway, before)
    return replace(
        trial, seen=seen, grown_bytes=growth.bytes_max, left_bytes=left, back_s=back_s, died=not gateway.lives
    )


def _back(gateway: Gateway, before: int) -> tuple[float | None, int]:
    """Wait until memory is nearly where it was; return after how long that is, and what is left."""
    began_s = time.monotonic()
    while (left := gateway.held_bytes() - before) > BACK_BYTES_MAX:
        if time.monotonic() - began_s > BACK_S_MAX:
            return None, left
        time.sleep(0.2)
    return time.monotonic() - began_s, left
