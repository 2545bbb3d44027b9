"""Does the live version behave as a register, on four replicas, whatever becomes of them; and how fast?"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from loadtests.bench.client import percentile
from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Better, Goal, Row, or_reason
from loadtests.bench.server import Server
from loadtests.bench.turnout import Bench, Setup
from loadtests.register import Kind, Switch
from loadtests.switching import faults, gaps, trial
from loadtests.switching.access import admin
from loadtests.switching.admin import Admin
from loadtests.switching.faults import Victims
from loadtests.switching.trial import Fault, Run
from loadtests.switching.versions import lay_out_register

REPLICAS = 4
SWITCHES = 100
SWITCHES_QUICK = 12
THINK_MS = 5.0
"""The mean pause of a client between an answer and its next request: half of the machine is busy then."""
NONE = Goal(0, Better.LOWER)
P50_MS, P99_MS, GAP_MS = Goal(5, Better.LOWER), Goal(20, Better.LOWER), Goal(20, Better.LOWER)
ROLLBACK = f"rollback acknowledged by {REPLICAS} replicas under load"
Begin = Callable[[Victims, int, float], Fault]
"""Given the number of switches and how long one takes, returns what is done meanwhile."""
USUAL_MS = 20.0
"""What a change is taken to last, as a client sees it, where none was measured in the same run."""


@dataclass(frozen=True, slots=True)
class Case:
    """A run of switches: which kind, and what is done to the gateway meanwhile."""

    what: str
    fault: Begin
    atomic: bool

    @property
    def name(self) -> str:
        """Name the figure."""
        return f"checker: {self.what}{', atomic' if self.atomic else ''}"

    @property
    def times(self) -> int:
        """How many times as many switches there are: more where they are timed."""
        return 2 if self is UNDISTURBED else 1

    @property
    def quick(self) -> bool:
        """Whether a quick look looks at it."""
        return not self.atomic or self.fault is faults.nothing


CASES = tuple(
    Case(what, fault, atomic)
    for what, fault in {
        "undisturbed": faults.nothing,
        "a replica stopped": faults.stopped,
        "replicas come and go": faults.coming_and_going,
        "the control killed": faults.control_killed,
    }.items()
    for atomic in (False, True)
)
UNDISTURBED = CASES[0]


def checks(bench: Bench) -> Iterator[Row]:
    """Let the checker judge every case, on one deployment; a quick look leaves out some atomic ones."""
    every = [case for case in CASES if bench.repeat > 1 or case.quick]
    wanted = [case for case in every if bench.wants(case.name)]
    if bench.wants(ROLLBACK) and UNDISTURBED not in wanted:
        wanted.insert(0, UNDISTURBED)
    if wanted:
        yield from or_reason(_checks(bench, wanted), "checker", "violations", NONE)


def _checks(bench: Bench, wanted: Sequence[Case]) -> Iterator[Row]:
    repository = bench.folder / "models-register"
    lay_out_register(repository)
    setup = Setup(repository, local=False, replicas=REPLICAS, every_core=True, state="register-state")
    shutil.rmtree(bench.state(setup), ignore_errors=True)
    with bench.turnout("register", setup) as server:
        control = admin(server)
        victims, change_ms = Victims(server, control), USUAL_MS
        for case in wanted:
            try:
                run = _run(bench, case, server, control, victims, change_ms)
            except BenchError as error:
                yield Row(case.name, None, "violations", NONE, note=str(error))
                continue
            if case is UNDISTURBED:
                change_ms = percentile((change.client_ms for change in run.answered), 50)
                yield from speed(run)
            yield judged(case.name, run)


def _run(bench: Bench, case: Case, server: Server, control: Admin, victims: Victims, change_ms: float) -> Run:
    victims.wait_whole(REPLICAS)
    victims.forget()
    switches = SWITCHES_QUICK if bench.repeat == 1 else SWITCHES * case.times
    return trial.run(
        server.port,
        control,
        bench.folder / "run",
        switches=switches,
        atomic=case.atomic,
        think_ms=THINK_MS,
        fault=case.fault(victims, switches, change_ms),
    )


def judged(name: str, run: Run) -> Row:
    """Make a row of the verdict; what the checker has to show is printed.

    A switch that was refused counts, too: it is a rollback that somebody needed.
    """
    verdict = run.verdict()
    first, *shown = str(verdict).splitlines()
    for line in [*shown, *sorted(set(run.refusals))]:
        print(line, flush=True)
    killed = sum(change.switch.killed for change in run.changes)
    unanswered = [change for change in run.changes if not change.receipt]
    happened = sum(change.happened for change in unanswered)
    told = [
        first,
        f"{len(run.refusals)} refused",
        f"{run.faults} faults, {killed} receipts of replicas that the control ended",
        f"{len(unanswered)} without an answer, {happened} of which had happened",
        spread(run),
        f"{run.per_s:.0f} requests/s",
    ]
    note = "; ".join(told)
    if not verdict.proven:
        return Row(name, None, "violations", NONE, note=f"nothing was proven: {note}")
    violations = sum(verdict.counts[kind] for kind in Kind) + len(run.refusals)
    return Row(name, float(violations), "violations", NONE, note=note)


def spread(run: Run) -> str:
    """Say how long switches took, by their receipts."""
    took = [change.receipt_ms for change in run.answered]
    p50, p99, most = (percentile(took, percent) for percent in (50, 99, 100))
    return f"receipts p50 {p50:.1f}, p99 {p99:.1f}, max {most:.1f} ms"


def speed(run: Run) -> Iterator[Row]:
    """Say how long the switches took, and how long nobody was answered around them."""
    answered = run.answered[1:]
    receipts = [change.receipt_ms for change in answered]
    clients = [change.client_ms for change in answered]
    note = f"{len(receipts)} of them, {run.per_s:.0f} requests/s"
    for percent, goal in ((50, P50_MS), (99, P99_MS)):
        seen = f"{percentile(clients, percent):.1f} ms as the client sees it"
        yield Row(
            f"{ROLLBACK}: p{percent}", percentile(receipts, percent), "ms", goal, note=f"{note}; {seen}"
        )
    for step, took in steps(run).items():
        yield Row(
            f"{ROLLBACK}: {step}", percentile(took, 50), "ms p50", note=f"p99 {percentile(took, 99):.2f} ms"
        )
    yield from silence(run)


def steps(run: Run) -> dict[str, list[float]]:
    """Return what the receipts say of each step, in ms."""
    took: dict[str, list[float]] = {}
    for change in run.answered[1:]:
        for step, ms in change.receipt["steps_ms"].items():
            took.setdefault(step, []).append(ms)
    return took


def silence(run: Run) -> Iterator[Row]:
    """Give the longest gaps between answers at switches, and in spans as long between them."""
    ends, around = gaps.answered(run.requests), gaps.at_switches(_without_first(run))
    for name, windows, goal in (
        ("longest gap between answers at a switch: p99", around, GAP_MS),
        ("longest gap between answers without a switch: p99", gaps.between(around), None),
    ):
        longest = [gap / 1e6 for window in windows if (gap := gaps.longest_ns(ends, window)) is not None]
        value = percentile(longest, 99) if longest else None
        note = f"{len(longest)} spans, p50 {percentile(longest, 50):.1f} ms" if longest else "no spans"
        yield replace(Row(name, value, "ms", goal), note=note)


def _without_first(run: Run) -> list[Switch]:
    return run.switches[1:]  # The first was before anybody asked.
