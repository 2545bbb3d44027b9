"""Does the checker still catch a gateway that is broken? Before it judges another."""

from __future__ import annotations

from collections.abc import Iterator

from loadtests.bench.rows import Goal, Row
from loadtests.bench.turnout import Bench
from loadtests.register import Kind
from loadtests.switching import trial
from loadtests.switching.admin import Admin
from loadtests.switching.broken import Broken, Defect

NAME = "checker: broken gateways caught"
SWITCHES = 4
THINK_MS = 3.0
CAUGHT_FOR = {
    Defect.EARLY: Kind.STALE,
    Defect.LAGS: Kind.STALE,
    Defect.DROPS: Kind.FAILED,
    Defect.FAILS: Kind.FAILED,
    Defect.MISLABELS: Kind.MISLABELLED,
    Defect.MISROUTES: Kind.MISLABELLED,
    Defect.SPREADS: Kind.INVERSION,
}


def selftest(bench: Bench) -> Iterator[Row]:
    """Judge gateways that are broken, each in its way, and one that is right; the latter must pass."""
    if not bench.wants(NAME):
        return
    told = []
    for defect in Defect:
        with Broken(defect) as gateway:
            run = trial.run(
                gateway.port,
                Admin(gateway.url, "none"),
                bench.folder / "run",
                switches=SWITCHES,
                think_ms=THINK_MS,
                atomic=True,
            )
        counts = run.verdict().counts
        if counts[CAUGHT_FOR[defect]] if defect in CAUGHT_FOR else not any(counts.values()):
            told.append(defect)
    right = Defect.NONE in told
    note = "the one that is right passes" if right else "the one that is right does not pass"
    yield Row(
        NAME, len(told) - right if right else 0, f"of {len(CAUGHT_FOR)}", Goal(len(CAUGHT_FOR)), note=note
    )
