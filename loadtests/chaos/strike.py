"""What is seen of a gateway from before a fault until it is whole again?"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench.errors import BenchError
from loadtests.chaos.changes import VERBS, Changes
from loadtests.chaos.client import ANSWER_S_MAX, RATE
from loadtests.chaos.history import load
from loadtests.chaos.memory import HighWater
from loadtests.chaos.target import Target, is_whole
from loadtests.chaos.trial import Trial, Victim

CALM_S = 2.0
"""How long all is watched before the fault, and after it is over."""
WHOLE_S_MAX = 90.0
MEMORY_BYTES_MAX = 300 << 20
GAP_S_MAX = 10.0
ENDED_S_MAX = 60.0
"""How long a client may take to write its history, on cores that others use."""


@dataclass
class Wound:
    """What a fault did: when, to whom, and what has to be there again before the gateway is whole.

    `whole` is asked beside all that is asked of every gateway.
    """

    began_ns: int
    healed_ns: int = 0
    victims: Sequence[Victim] = ()
    dead: frozenset[int] = frozenset()
    whole: Callable[[], bool] = lambda: True
    note: str = ""
    later: Callable[[], Sequence[Victim]] = field(default=lambda: ())
    """Victims that are known only when all is over."""


@dataclass(frozen=True)
class Fault:
    """A way in which something breaks.

    Parameters
    ----------
    how : str
        How it is injected, as the documentation has it.
    strike : callable
        Does it, and returns when it is done: healed, where it is to heal.
    gap_s_max, memory_bytes_max
        How long nobody may be without an answer, and by how much memory may grow.
    before : callable
        Gets a gateway ready, without load; what it returns undoes that.
    verbs : sequence of str
        By which traffic is moved, in turn; a rollback ends shadows.
    last : bool
        The gateway is not to be used for another fault, since it may not get over this one.
    quiet : bool
        No change of traffic is made while it strikes: such a change would notice a replica that is silent.
    """

    name: str
    how: str
    strike: Callable[[Target], Wound]
    gap_s_max: float = GAP_S_MAX
    memory_bytes_max: int = MEMORY_BYTES_MAX
    before: Callable[[Target], Callable[[], None]] = lambda _target: lambda: None
    verbs: Sequence[str] = VERBS
    last: bool = False
    quiet: bool = False


@contextlib.contextmanager
def asking(port: int, file: Path, rate: float) -> Iterator[None]:
    """Have the gateway asked until the block ends; then the history is in `file`."""
    command = [sys.executable, "-m", "loadtests.chaos.client", str(port), str(file), "--rate", str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            if client.stdout.readline().strip() != "asking":
                raise BenchError("the client got no answer")
            yield
            client.stdin.close()
            client.wait(ANSWER_S_MAX + ENDED_S_MAX)
        finally:
            client.kill()


def tried(target: Target, fault: Fault, folder: Path, rate: float = RATE, calm_s: float = CALM_S) -> Trial:
    """Strike a gateway under load, and return what was seen.

    Raises
    ------
    BenchError
        If it was not whole before, or could not be struck.
    """
    file = folder / "history"
    changes = Changes(target.ask, fault.name, fault.verbs)
    target.mend()
    undo = fault.before(target)
    _wait(lambda: is_whole(target, frozenset()), WHOLE_S_MAX, "the gateway was not whole before")
    changes.start()
    memory = HighWater(lambda: [each.pid for each in target.family()])
    memory.start()
    try:
        with asking(target.port, file, rate):
            time.sleep(calm_s)
            before = memory.forget()
            with changes.held() if fault.quiet else contextlib.nullcontext():
                wound = fault.strike(target)
            mended: list[str] = []
            whole_ns = _whole(target, changes, wound, mended)
            time.sleep(calm_s)
    finally:
        memory.stop()
        changes.stop()
        undo()
    entries, chain = target.journal()
    return Trial(
        fault=fault.name,
        how=fault.how,
        requests=sorted(load(file)),
        switches=changes.switches,
        receipts=changes.receipts,
        entries=entries,
        began_ns=wound.began_ns,
        healed_ns=wound.healed_ns or wound.began_ns,
        whole_ns=whole_ns,
        gap_s_max=fault.gap_s_max,
        memory_bytes_max=fault.memory_bytes_max,
        memory_before=before,
        memory_high=memory.bytes_max,
        victims=[*wound.victims, *wound.later()],
        chain=chain,
        note="; ".join(filter(None, [wound.note, *mended, _unanswered(changes.errors)])),
    )


def _unanswered(errors: Sequence[str]) -> str:
    return f"{len(errors)} changes got no receipt, such as {errors[0]}" if errors else ""


def _whole(target: Target, changes: Changes, wound: Wound, mended: list[str]) -> int | None:
    """Wait until everything is there and a change was confirmed; start anew what nobody else would."""
    healed_ns = wound.healed_ns or wound.began_ns
    over = threading.Event()

    def mend() -> None:
        while not over.wait(0.1):
            if said := target.mend():
                mended.append(said)

    supervisor = threading.Thread(target=mend, name="chaos-supervisor", daemon=True)
    supervisor.start()
    try:
        until_s = time.monotonic() + WHOLE_S_MAX
        while time.monotonic() < until_s:
            confirmed_ns = changes.confirmed_since(healed_ns)
            if confirmed_ns and is_whole(target, wound.dead) and wound.whole():
                return time.monotonic_ns()
            time.sleep(0.05)
        return None
    finally:
        over.set()
        supervisor.join(WHOLE_S_MAX)


def _wait(holds: Callable[[], bool], s_max: float, otherwise: str) -> None:
    until_s = time.monotonic() + s_max
    while not holds():
        if time.monotonic() > until_s:
            raise BenchError(otherwise)
        time.sleep(0.1)
