"""What is done to a gateway while it is switched: which of its processes are stopped, killed, replaced?"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import psutil  # type: ignore[import-untyped]  # Its types are another distribution.

from loadtests.bench.errors import BenchError
from loadtests.bench.server import Server, family
from loadtests.register import Kill
from loadtests.switching.admin import Admin

SETTLE_NS = 500_000_000
"""For so long after a kill its connections may still be found lost, or be used by a client unawares."""
GONE_S_MAX = 60.0
WHOLE_S_MAX = 120.0
KILL_EVERY = 4
"""Every so many switches the control is killed; in between it shows that it recovered."""
CONTROL, REPLICA = ":Control", ":Gateway"
"""Parts of the titles of the processes in which Ray runs the control and the replicas."""


class Victims:
    """The processes of one gateway, and when which of them was killed. Others are never touched."""

    def __init__(self, server: Server, admin: Admin) -> None:
        self._server = server
        self._admin = admin
        self.kills: list[Kill] = []
        self.control_kills = 0

    def forget(self) -> None:
        """Begin to count anew."""
        self.kills.clear()
        self.control_kills = 0

    def replicas(self) -> list[int]:
        """Return the process numbers of the replicas that are connected."""
        mine = {process.pid for process in family(self._server.process)}
        replicas = self._admin.traffic()["replicas"]
        return [each["pid"] for each in replicas if each["connected"] and each["pid"] in mine]

    def replica(self) -> int:
        """Return the process number of one replica."""
        pids = self.replicas()
        if not pids:
            raise BenchError("no replica is connected")
        return pids[0]

    def control(self) -> int:
        """Return the process number of the control."""
        pids = self._titled(CONTROL)
        if not pids:
            raise BenchError("there is no control")
        return pids[0]

    def _titled(self, title: str) -> list[int]:
        pids = []
        for process in family(self._server.process):
            with contextlib.suppress(psutil.Error):
                if title in " ".join(process.cmdline()[:1]):
                    pids.append(int(process.pid))
        return pids

    def kill_control(self, pid: int) -> None:
        """Kill the control; that excuses no request."""
        self.control_kills += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill(self, pid: int) -> None:
        """Kill a replica, and note it."""
        from_ns = time.monotonic_ns()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.kills.append(Kill(from_ns, time.monotonic_ns() + SETTLE_NS))

    def watch(self, pid: int) -> None:
        """Wait until somebody else has killed a process, and note it."""
        from_ns = time.monotonic_ns()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(GONE_S_MAX)
        self.kills.append(Kill(from_ns, time.monotonic_ns() + SETTLE_NS))

    def replace(self) -> None:
        """Have all replicas replaced, one by one, as SIGUSR2 does, and see the last of them go."""
        old = self._titled(REPLICA)
        self._server.process.send_signal(signal.SIGUSR2)
        end_s = time.monotonic() + WHOLE_S_MAX
        while time.monotonic() < end_s and any(psutil.pid_exists(pid) for pid in old):
            time.sleep(0.2)

    def wait_whole(self, count: int) -> None:
        """Wait until so many replicas are connected."""
        end_s = time.monotonic() + WHOLE_S_MAX
        while len(self.replicas()) != count:
            if time.monotonic() > end_s:
                raise BenchError(f"not {count} replicas after {WHOLE_S_MAX:g} s but {len(self.replicas())}")
            time.sleep(0.2)


Act = Callable[[], None]


class Planned:
    """Things to do at the switches of certain numbers.

    What a plan's function looks up is looked up before the switch is submitted; the act that it returns
    is done in a thread, so that the switch does not wait for it.
    """

    def __init__(self, victims: Victims, plan: dict[int, Callable[[], Act]]) -> None:
        self._victims = victims
        self._plan = plan
        self._threads: list[threading.Thread] = []

    @property
    def kills(self) -> Sequence[Kill]:
        """When processes were killed, so far."""
        return self._victims.kills

    def before(self, number: int) -> None:
        """Begin what is planned for switch `number`."""
        if number in self._plan:
            thread = threading.Thread(target=self._plan[number](), name=f"fault-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def count(self) -> int:
        """How many processes were stopped or killed, so far."""
        return len(self._victims.kills) + self._victims.control_kills

    @property
    def over(self) -> bool:
        """Whether all that was begun is done."""
        return not any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        """Wait for what was begun."""
        for thread in self._threads:
            thread.join(WHOLE_S_MAX)


def nothing(victims: Victims, _switches: int, _change_ms: float) -> Planned:
    """Do nothing."""
    return Planned(victims, {})


def stopped(victims: Victims, switches: int, _change_ms: float) -> Planned:
    """Stop a replica by SIGSTOP in the middle: it stays connected, and says nothing more."""

    def stop() -> Act:
        pid = victims.replica()
        os.kill(pid, signal.SIGSTOP)

        def watch() -> None:
            try:
                victims.watch(pid)
            except psutil.TimeoutExpired:
                os.kill(pid, signal.SIGCONT)  # Nobody has killed it; what comes of that the checker tells.

        return watch

    return Planned(victims, {switches // 2: stop})


def control_killed(victims: Victims, switches: int, change_ms: float, seed: int = 0) -> Planned:
    """Kill the control at every `KILL_EVERY`th switch, at moments spread over all that a change takes.

    `change_ms` is how long one takes, as whoever asks sees it; a quarter of the kills come later than that.
    """
    numbers = list(range(1, switches, KILL_EVERY))
    moments = [(place + 0.5) / len(numbers) * change_ms * 4 / 3 / 1e3 for place in range(len(numbers))]
    random.Random(seed).shuffle(moments)

    def killer(after_s: float) -> Callable[[], Act]:
        def look() -> Act:
            pid = victims.control()

            def kill() -> None:
                time.sleep(after_s)
                victims.kill_control(pid)

            return kill

        return look

    return Planned(victims, {number: killer(at) for number, at in zip(numbers, moments, strict=True)})


def coming_and_going(victims: Victims, switches: int, _change_ms: float) -> Planned:
    """Replace all replicas one by one from a tenth on; kill one at 6 tenths and one at 8 tenths."""

    def kill() -> Act:
        return partial(victims.kill, victims.replica())

    def replace() -> Act:
        return victims.replace

    return Planned(victims, {switches // 10: replace, switches * 6 // 10: kill, switches * 8 // 10: kill})
