"""How is one run told, as plain values?"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.bench.load import Load, Plan
from serving.bench.promise import Promise, verdict
from serving.bench.search import Found
from serving.bench.tally import Moment, Total, spread

BUSY = 0.95
"""From here on the generator was the limit, not what it asked."""


def machine() -> str:
    """Name the processor, how many cores of it this may use, and the Python."""
    return f"{_processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def document(plan: Plan, load: Load, promised: Sequence[Promise] = ()) -> dict[str, Any]:
    """Return what was asked, what came of it, and what is broken of what was promised."""
    tally, whole = load.tally, load.tally.whole()
    broken = verdict(promised, whole)
    seconds = min(plan.seconds, max((load.begin_ns + load.spent_ns - tally.from_ns) / 1e9, 1e-9))
    good = whole.count - whole.errors
    return {
        "machine": machine(),
        "model": plan.model,
        "protocol": plan.scheme,
        "target": f"{plan.at[0]}:{plan.at[1]}",
        "arrivals": str(plan.arrivals),
        "rate_per_s": plan.rate_per_s,
        "seconds": plan.seconds,
        "warm_s": plan.warm_s,
        "count": whole.count,
        "errors": whole.errors,
        "stale": whole.stale,
        "good_per_s": round(good / seconds, 1),
        "latency": spread(whole.latency),
        "service": spread(whole.service),
        "outcomes": dict(sorted(tally.outcomes.items())),
        "versions": _versions(load),
        "queued": load.queued,
        "busy": round(load.busy, 3),
        "cut": load.cut,
        "phases": _phases(load),
        "changes": [
            {"at_s": _since(load, at_ns), "what": what, "revision": revision}
            for at_ns, revision, what in tally.changes
        ],
        "series": [_moment(each) for each in tally.series],
        "totals": [
            {"model": plan.model, "version": version, "phase": phase, **_total(total)}
            for (phase, version), total in sorted(tally.totals.items())
        ],
        "broken": [{"promise": each.promise, "found": each.found} for each in broken],
        "ok": not broken,
    }


def found(plan: Plan, searched: Found) -> dict[str, Any]:
    """Return what came of a search."""
    return {
        "machine": machine(),
        "model": plan.model,
        "protocol": plan.scheme,
        "target": f"{plan.at[0]}:{plan.at[1]}",
        "rate_per_s": round(searched.rate_per_s, 1),
        "broken_per_s": None if searched.broken_per_s is None else round(searched.broken_per_s, 1),
        "passed": searched.passed,
        "repeats": searched.repeats,
        "sure": round(searched.sure, 3),
        "cut": searched.cut,
        "limited": any(not each.kept and each.busy >= BUSY for each in searched.trials),
        "trials": [
            {"rate_per_s": round(t.rate_per_s, 1), "kept": t.kept, "busy": round(t.busy, 3), "found": t.found}
            for t in searched.trials
        ],
        "ok": searched.rate_per_s > 0 and searched.passed >= searched.repeats,
    }


def _since(load: Load, at_ns: int) -> float:
    return round((at_ns - load.tally.from_ns) / 1e9, 6)


def _phases(load: Load) -> list[dict[str, Any]]:
    told = load.tally.phases
    starts = [0.0, *(max(_since(load, at_ns), 0.0) for at_ns, _ in told[1:])]
    ends = [*starts[1:], _since(load, load.begin_ns + load.spent_ns)]
    return [
        {"name": name, "began_s": began_s, "ended_s": ended_s}
        for (_, name), began_s, ended_s in zip(told, starts, ends, strict=True)
        if ended_s > began_s
    ]


def _versions(load: Load) -> dict[str, int]:
    counts: dict[str, int] = {}
    for (_, version), total in sorted(load.tally.totals.items()):
        if version:
            counts[version] = counts.get(version, 0) + total.count
    return counts


def _moment(each: Moment) -> dict[str, Any]:
    return {
        "second": each.second,
        "version": each.version,
        "count": each.count,
        "errors": each.errors,
        "p50_ms": each.p50_ms,
        "p99_ms": each.p99_ms,
    }


def _total(total: Total) -> dict[str, Any]:
    return {
        "count": total.count,
        "errors": total.errors,
        "stale": total.stale,
        "histogram": total.latency.document(),
        "service": total.service.document(),
    }
