"""How are a run and a search written for people?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from serving.bench.report import BUSY
from serving.bench.tally import Recent
from serving.cli_words import aligned, plain

Document = Mapping[str, Any]
SPREAD = ("p50", "p90", "p95", "p99", "p999", "max")


def run(said: Document) -> Iterator[str]:
    """Write what came of a run."""
    how = "as fast as answers came" if said["arrivals"] == "closed" else _rate(said)
    yield plain(f"{said['model']} at {_place(said)}: {said['count']:,} requests, {how}")
    yield f"  {said['good_per_s']:,.0f} good answers a second"
    yield from aligned(list(_spreads(said)), "  ")
    yield from aligned(list(_counts(said)), "  ")
    for each in said["broken"]:
        yield plain(f"  BROKEN  {each['promise']}: {each['found']}")
    if said["busy"] >= BUSY:
        yield f"  the generator was busy {100 * said['busy']:.0f}% of the time: it was the limit itself"
    if said["cut"]:
        yield "  it was ended before its time"


def _place(said: Document) -> str:
    return said["target"] if said["protocol"] == "http" else f"{said['protocol']}://{said['target']}"


def _rate(said: Document) -> str:
    return f"{said['arrivals']} at {said['rate_per_s']:,.6g}/s for {said['seconds']:g} s"


def _spreads(said: Document) -> Iterator[tuple[str, ...]]:
    yield ("ms", *SPREAD)
    for name, meaning in (("latency", "since due"), ("service", "since sent")):
        yield (meaning, *(_ms(said[name][f"{each}_ms"]) for each in SPREAD))


def _counts(said: Document) -> Iterator[tuple[str, str]]:
    yield "outcomes", _shares(said["outcomes"], said["count"])
    if said["versions"]:
        yield "versions", _shares(said["versions"], sum(said["versions"].values()))
    if said["stale"]:
        yield "STALE", f"{said['stale']:,} answers by an older revision than was confirmed"
    if said["queued"]:
        yield "queued", f"{said['queued']:,} requests found no connection free; --connections-max allows more"


def _shares(counts: Mapping[str, int], whole: int) -> str:
    return "  ".join(
        f"{name} {count:,} ({100 * count / whole if whole else 0:.4g}%)" for name, count in counts.items()
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if value < 1000 else f"{value:,.0f}"


def search(said: Document) -> Iterator[str]:
    """Write what came of a search."""
    rows = [("rate/s", "promises", "generator", "")]
    rows += [
        (
            f"{each['rate_per_s']:,.0f}",
            "kept" if each["kept"] else "broken",
            f"{100 * each['busy']:.0f}%",
            each["found"],
        )
        for each in said["trials"]
    ]
    yield from aligned(rows, "  ")
    yield from _found(said)


def _found(said: Document) -> Iterator[str]:
    if not said["rate_per_s"]:
        yield plain(f"{said['model']}: no rate that was tried keeps the promises")
    else:
        yield plain(
            f"{said['model']}: {said['rate_per_s']:,.0f}/s, kept {said['passed']} of {said['passed']} times"
            f" (a trial keeps it with a probability of {100 * said['sure']:.0f}% or more, at 95% confidence)"
        )
    if said["broken_per_s"]:
        yield f"  broken at {said['broken_per_s']:,.0f}/s"
    if said["limited"]:
        yield "  where it broke the generator was busy all the time: the gateway may take more"
    if said["cut"]:
        yield "  time was over first; --within gives more"


def second(number: int, recent: Recent) -> str:
    """Write one second of a run."""
    shown = "  ".join(f"{name} {_ms(_quantile(recent, q))} ms" for name, q in (("p50", 0.5), ("p99", 0.99)))
    versions = _shares({k: v for k, v in sorted(recent.versions.items()) if k}, recent.versions.total())
    return plain(
        f"{number:4} s  {recent.count:,} done  {shown}  errors {recent.errors:,}  {versions}"
    ).rstrip()


def _quantile(recent: Recent, q: float) -> float | None:
    return recent.latency.quantile_ms(q) if recent.latency.count else None
