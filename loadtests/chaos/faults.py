"""In which ways is a gateway broken, one after the other?"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

import psutil  # type: ignore[import-untyped]  # Its types are another distribution.

from loadtests.bench.errors import BenchError
from loadtests.chaos.memory import held_bytes
from loadtests.chaos.models import ENDLESS, FILLING, GREEDY, HUNGRY, REGISTER, SPIN, SPIN_TOO, STUCK
from loadtests.chaos.strike import MEMORY_BYTES_MAX, Fault, Wound
from loadtests.chaos.target import (
    Target,
    alive,
    beside,
    busiest,
    gone,
    infer,
    kill,
    ports_with,
    post,
    resume,
    titled,
)
from loadtests.chaos.trial import Victim

BROKEN_S = 8.0
"""How long what is healed again stays broken."""
SLOW_SYNC_S = 2.0
JUMPS_S = (30 * 86400.0, -86400.0)
UNNOTICED_S_MAX = 70.0
"""Longer than the longest deadline of a request by default."""
LINES = 8
"""So many connections that two of them are with the same replica."""
SOON_S = 1.0
"""How long nobody may be without an answer where the fault is none of the replicas' business."""
SHADOW_BYTES = 1 << 30
"""What a shadow's process may use."""
COUNTING, SHADOWING = "serving.drift.child", "serving.shadow.child"
STARTED_S_MAX = 60.0


class UnableError(BenchError):
    """The machine does not let this fault be made."""


def kill_replica(target: Target) -> Wound:
    """End the busiest replica."""
    process, began_ns = busiest(target), time.monotonic_ns()
    return Wound(began_ns, victims=[kill(process, target.port)], dead=frozenset({process.pid}))


def kill_all_replicas(target: Target) -> Wound:
    """End all replicas."""
    processes, began_ns = target.replicas(), time.monotonic_ns()
    victims = [kill(each, target.port) for each in processes]
    return Wound(began_ns, victims=victims, dead=frozenset(each.pid for each in processes))


def stop_replica(target: Target) -> Wound:
    """Stop the busiest replica; whoever notices may end it."""
    process, began_ns = busiest(target), time.monotonic_ns()
    process.send_signal(signal.SIGSTOP)
    ports = ports_with(process, target.port)
    until_ns = gone(process)
    note = (
        f"it was ended after {(until_ns - began_ns) / 1e9:.1f} s" if not alive(process) else "nobody ended it"
    )
    resume(process.pid)
    return Wound(
        began_ns,
        victims=[Victim(began_ns, until_ns, ports)],
        dead=frozenset({process.pid}),
        note=note,
    )


def kill_control(target: Target) -> Wound:
    """End the control."""
    control, began_ns = target.control(), time.monotonic_ns()
    control.send_signal(signal.SIGKILL)
    return Wound(began_ns)


def stop_control(target: Target) -> Wound:
    """Stop the control, and leave it so unless somebody ends it."""
    control, began_ns = target.control(), time.monotonic_ns()
    control.send_signal(signal.SIGSTOP)

    def later() -> tuple[Victim, ...]:
        resume(control.pid)
        return ()

    return Wound(began_ns, later=later)


def kill_daemon(name: str, target: Target) -> Wound:
    """End one of Ray's processes; the replicas that it takes along count as killed."""
    [daemon], replicas = _named(target, name), target.replicas()
    began_ns = time.monotonic_ns()
    deaths = [0] * len(replicas)
    daemon.send_signal(signal.SIGKILL)

    def watch(number: int) -> None:
        deaths[number] = gone(replicas[number])

    watches = [threading.Thread(target=watch, args=[number], daemon=True) for number in range(len(replicas))]
    for each in watches:
        each.start()

    def later() -> list[Victim]:
        for each in watches:
            each.join()
        return [] if any(map(alive, replicas)) else [Victim(began_ns, max(deaths), None)]

    def whole() -> bool:
        return any(each.pid != daemon.pid for each in titled(target.family(), name))

    return Wound(began_ns, dead=frozenset(each.pid for each in replicas), whole=whole, later=later)


def kill_actor(title: str, target: Target) -> Wound:
    """End one of the processes in which Ray runs its own part of Serve."""
    [actor], began_ns = _named(target, title), time.monotonic_ns()
    actor.send_signal(signal.SIGKILL)

    def whole() -> bool:
        return any(each.pid != actor.pid for each in titled(target.family(), title))

    return Wound(began_ns, whole=whole)


def stop_daemon(name: str, target: Target) -> Wound:
    """Stop one of Ray's processes for a while."""
    return _stopped_for_a_while(_named(target, name)[0])


def kill_beside(module: str, target: Target) -> Wound:
    """End one of the processes beside the replicas that run a module."""
    there = beside(target, module)
    if not there:
        raise BenchError(f"no process runs {module}")
    began_ns = time.monotonic_ns()
    there[0].send_signal(signal.SIGKILL)
    dead = there[0].pid

    def whole() -> bool:
        pids = {each.pid for each in beside(target, module)}
        return dead not in pids and len(pids) == len(there)

    return Wound(began_ns, whole=whole)


def stop_beside(module: str, target: Target) -> Wound:
    """Stop one of them for a while."""
    there = beside(target, module)
    if not there:
        raise BenchError(f"no process runs {module}")
    wound = _stopped_for_a_while(there[0])
    wound.whole = lambda: len(beside(target, module)) == len(there)
    return wound


def fill_disk(target: Target) -> Wound:
    """Leave no room on the journal's file system, for a while."""
    folder = target.disk()
    if folder is None:
        raise UnableError("no file system of its own may be mounted for the journal here")
    began_ns = time.monotonic_ns()
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as opened:
            while opened.write(bytes(4096)) == 4096:
                pass
    except OSError as error:
        note = f"{error.strerror} for {BROKEN_S:g} s"
    else:
        note = "the disk took a part of a page at last"
    time.sleep(BROKEN_S)
    filler.unlink()
    return Wound(began_ns, healed_ns=time.monotonic_ns(), note=note)


def slow_disk(target: Target) -> Wound:
    """Have each sync take longer, for a while."""
    began_ns = time.monotonic_ns()
    target.settle(sync_s=SLOW_SYNC_S)
    time.sleep(BROKEN_S)
    target.settle()
    return Wound(began_ns, healed_ns=time.monotonic_ns())


def jump_clock(target: Target) -> Wound:
    """Have the clock jump ahead, then back beyond where it was, then to the truth."""
    began_ns = time.monotonic_ns()
    for clock_s in JUMPS_S:
        target.settle(clock_s=clock_s)
        time.sleep(BROKEN_S / len(JUMPS_S))
    target.settle()
    return Wound(began_ns, healed_ns=time.monotonic_ns())


def kill_after_clock(target: Target) -> Wound:
    """End the busiest replica once the clock was ahead, and was set right."""
    target.settle(clock_s=-min(JUMPS_S))
    time.sleep(BROKEN_S / 2)
    target.settle()
    return kill_replica(target)


def hang_run(model: str, target: Target) -> Wound:
    """Ask for a run that does not end, and wait until its replica answers others again or was ended."""
    line, beside, replica = _two_lines(target)
    began_ns = time.monotonic_ns()
    line.sendall(post(model, ENDLESS))
    time.sleep(0.05)
    ports = ports_with(replica, target.port)
    beside.sendall(post(REGISTER, 1.0))
    answers = _answers(beside)
    until_ns = time.monotonic_ns() if answers else gone(replica)
    after = f"after {(until_ns - began_ns) / 1e9:.1f} s"
    line.close()
    beside.close()
    if answers or alive(replica):
        return Wound(
            began_ns, note=f"its replica answered others {after}" * answers or "nobody ended its replica"
        )
    victims, dead = [Victim(began_ns, until_ns, ports)], frozenset({replica.pid})
    return Wound(began_ns, victims=victims, dead=dead, note=f"its replica was ended {after}")


def _two_lines(target: Target) -> tuple[socket.socket, socket.socket, psutil.Process]:
    """Return two connections with the same replica, and that one."""
    lines = [socket.create_connection(("127.0.0.1", target.port), 10) for _ in range(LINES)]
    for each in lines:  # Whoever answers has taken the connection.
        each.sendall(post(REGISTER, 1.0))
        each.recv(65536)
    mine = {each.getsockname()[1]: each for each in lines}
    replica = max(target.replicas(), key=lambda each: len(ports_with(each, target.port) & set(mine)))
    first, second, *_ = [mine[port] for port in sorted(ports_with(replica, target.port) & set(mine))]
    for each in lines:
        if each not in (first, second):
            each.close()
    return first, second, replica


def _answers(line: socket.socket) -> bool:
    """Say whether what was asked is answered, before the connection ends or too late."""
    line.settimeout(UNNOTICED_S_MAX)
    try:
        return bool(line.recv(65536))
    except OSError:
        return False


def feed_shadow(target: Target) -> Wound:
    """Ask for what makes the shadow take memory: as much as it may have, and more."""
    there = [each.pid for each in beside(target, SHADOWING)]
    if not there:
        raise BenchError("the shadow is not there")
    began_ns, until_s, most = time.monotonic_ns(), time.monotonic() + BROKEN_S, 0
    while time.monotonic() < until_s:
        for value in (FILLING, GREEDY):
            infer(target.port, REGISTER, value, 10.0)
        most = max(most, *(held_bytes([pid]) for pid in there))
        time.sleep(0.1)
    note = f"one of the shadow's processes held {most >> 20} MiB"
    return Wound(began_ns, healed_ns=time.monotonic_ns(), note=note)


def shadowed(target: Target) -> Callable[[], None]:
    """Have the hungry version shadow all traffic."""
    _shadow(target, {str(HUNGRY): "100%"})
    until_s = time.monotonic() + STARTED_S_MAX
    while len(beside(target, SHADOWING)) < target.count:
        if time.monotonic() > until_s:
            raise BenchError("the shadow did not start")
        time.sleep(0.1)
    return lambda: _shadow(target, {})


def _shadow(target: Target, shadows: dict[str, str]) -> None:
    body = {"shadows": shadows, "why": "shadow", "by": "chaos"}
    status, said = target.ask("POST", f"/v2/models/{REGISTER}/traffic/shadow", body, STARTED_S_MAX)
    if status != 200:
        raise BenchError(f"the shadow was answered with {status}: {said}")


def _named(target: Target, name: str) -> list[psutil.Process]:
    found = titled(target.family(), name)
    if len(found) != 1:
        raise BenchError(f"{len(found)} processes are called {name}")
    return found


def _stopped_for_a_while(process: psutil.Process) -> Wound:
    began_ns = time.monotonic_ns()
    process.send_signal(signal.SIGSTOP)
    time.sleep(BROKEN_S)
    resume(process.pid)
    return Wound(began_ns, healed_ns=time.monotonic_ns())


FOR_A_WHILE = f"SIGSTOP, and SIGCONT after {BROKEN_S:g} s"
FAULTS = (
    Fault("replica killed", "SIGKILL of the replica with the most connections", kill_replica),
    Fault("all replicas killed", "SIGKILL of both", kill_all_replicas),
    Fault("replica stopped", "SIGSTOP of the replica with the most connections", stop_replica),
    Fault("control killed", "SIGKILL of the control", kill_control, SOON_S),
    Fault("counting killed", "SIGKILL of one replica's process that counts for drift",
          partial(kill_beside, COUNTING), SOON_S),
    Fault("counting stopped", f"{FOR_A_WHILE}, of the same", partial(stop_beside, COUNTING), SOON_S),
    Fault("shadow killed", "SIGKILL of one replica's process of a shadow",
          partial(kill_beside, SHADOWING), SOON_S, before=shadowed, verbs=("split",)),
    Fault("shadow eats memory", "requests that have it take 0.6 GB, and others for which it wants 2 GB",
          feed_shadow, SOON_S, MEMORY_BYTES_MAX + 2 * SHADOW_BYTES, shadowed, ("split",)),
    Fault("disk full", f"a file fills the tmpfs that the state is on, for {BROKEN_S:g} s", fill_disk, SOON_S),
    Fault("disk slow", f"a shim has `os.fsync` and `os.fdatasync` take {SLOW_SYNC_S:g} s longer",
          slow_disk, SOON_S),
    Fault("run never returns",
          f"a request for {ENDLESS:g} turns of a Loop, of another model on the event loop",
          partial(hang_run, SPIN)),
    Fault("run never returns, quiet", "the same, while nobody changes traffic",
          partial(hang_run, SPIN_TOO), quiet=True),
    Fault("run never returns nor stops", "the same of a Loop without a node, which nothing can stop",
          partial(hang_run, STUCK)),
    Fault("run never returns nor stops, quiet", "the same, while nobody changes traffic",
          partial(hang_run, STUCK), quiet=True),
    Fault("Ray's GCS stopped", f"{FOR_A_WHILE}, of gcs_server", partial(stop_daemon, "gcs_server"), SOON_S),
    Fault("Ray's raylet stopped", f"{FOR_A_WHILE}, of raylet", partial(stop_daemon, "raylet"), SOON_S),
    Fault("Serve's controller killed", "SIGKILL of the actor in which Ray Serve runs its controller",
          partial(kill_actor, "ray::ServeController"), SOON_S),
    Fault("Serve's proxy killed", "SIGKILL of the actor that the admin application is behind",
          partial(kill_actor, "ray::ProxyActor"), SOON_S),
    Fault("control stopped", "SIGSTOP of the control", stop_control, SOON_S),
    Fault("clock jumps", "a shim has `time.time` jump a month ahead, a day back, and to the truth",
          jump_clock, SOON_S, last=True),
    Fault("clock set back, replica killed",
          "the shim's clock is a day ahead for 4 s, and right again; then SIGKILL of a replica",
          kill_after_clock, last=True),
    Fault("Ray's GCS killed", "SIGKILL of gcs_server",
          partial(kill_daemon, "gcs_server")),
    Fault("Ray's raylet killed", "SIGKILL of raylet",
          partial(kill_daemon, "raylet")),
)  # fmt: skip
