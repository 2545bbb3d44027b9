"""How soon do detectors of others find the same changes, at the same rate of false alarms?

    build/peers/bin/python -m loadtests.driftbench.peers [--quick] [--only PATTERN]

Runs in an environment of its own: requirements/peers.txt says how to make it. Prints each figure and
writes build/bench/drift-peers.json. A peer that is not installed has a row that says so. An hour or two
on one core; --quick takes minutes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kernels.concept import Adwin, PageHinkley
from kernels.detect import Detector
from loadtests.bench.rows import Better, Goal, Row, table, tell, write
from loadtests.driftbench.contenders import CONTENDERS, Contender
from loadtests.driftbench.delays import (
    AFTER_ROWS,
    ALPHA,
    BEFORE_ROWS,
    HORIZON_ROWS,
    N,
    median,
    note,
)
from loadtests.driftbench.streams import CHANGES, Values, binned, changed, drawn

FOLDER = Path("build/bench")
HOW = "not installed here; requirements/peers.txt says how to have it"
BLOCKS = (1, 10, 50)
"""The first is for a fair comparison: most peers look at each row."""
OURS = "turnout, blocks of {}"
Known = dict[tuple[str, str], Values]
"""By detector and change: the delay of each stream that was tried, at the calibrated bar."""


class Streams:
    """The streams that all get, in columns: undrifted ones, those of each change, and references for each."""

    def __init__(self, seed: int, undrifted: int, changes: int) -> None:
        rng = np.random.default_rng(seed)
        self.references: Values = rng.standard_normal((N, undrifted))
        self.undrifted: Values = rng.standard_normal((HORIZON_ROWS, undrifted))
        rows = BEFORE_ROWS + AFTER_ROWS
        self.changed = {name: changed(name, rng, rows, changes, -BEFORE_ROWS) for name in CHANGES}


def evidence(references: Values, streams: Values, block: int) -> Values:
    """Return log e of each stream after every block, (blocks, streams)."""
    known = drawn(references[:, : streams.shape[1]])
    detector, told = Detector(known.counts, together=1), []
    for begin in range(0, len(streams), block):
        detector.update(binned(streams[begin : begin + block], known.edges))
        told.append(detector.log_e)
    return np.stack(told)


def ours(streams: Streams, block: int, known: Known) -> Iterator[Row]:
    """Yield our own figures: at the bar of the formula, and at one that is calibrated like the others'."""
    name, formula = OURS.format(block), float(np.log(HORIZON_ROWS / block / ALPHA))
    highest = evidence(streams.references, streams.undrifted, block).max(axis=0)
    yield Row(
        f"{name}: false alarms at the bar of the formula",
        float((highest >= formula).mean()),
        "share",
        Goal(ALPHA, Better.LOWER),
        note=f"{len(highest):,} streams of {HORIZON_ROWS:,} rows, log e >= {formula:.2f}",
    )
    spare = int(ALPHA * len(highest))
    calibrated = float(np.nextafter(np.sort(highest)[::-1][spare], np.inf))
    for change, values in streams.changed.items():
        log_e = evidence(streams.references, values, block)
        for bar, how in ((formula, "formula"), (calibrated, "calibrated")):
            found = delay((log_e >= bar), block)
            yield Row(f"{name}, {how}: delay, {change}", median(found), "rows", note=note(found))
            if how == "calibrated":
                known[name, change] = found


def delay(told: np.ndarray, block: int) -> Values:
    """Return the rows from the change to the first alarm: inf for never, NaN for one before it."""
    first = np.where(told.any(axis=0), (told.argmax(axis=0) + 1.0) * block - BEFORE_ROWS, np.inf)
    return np.where(first <= 0, np.nan, first)


def theirs(peer: Contender, streams: Streams, known: Known) -> Iterator[Row]:
    """Yield a peer's figures."""
    if importlib.util.find_spec(peer.package) is None:
        yield Row(f"{peer.name}: delay", None, "rows", note=HOW)
        return
    start_s = time.perf_counter()
    undrifted = streams.undrifted[:, : peer.runs[0]]
    many = f"{undrifted.shape[1]:,} streams of {HORIZON_ROWS:,} rows"
    if peer.shipped is not None:
        pairs = zip(streams.references.T, undrifted.T[:200], strict=False)
        alarms = [peer.first(peer.shipped, *pair) < np.inf for pair in pairs]
        rate = f"{len(alarms)} streams of {HORIZON_ROWS:,} rows"
        yield Row(f"{peer.name}: false alarms as shipped", float(np.mean(alarms)), "share", note=rate)
    bar = peer.calibrated(ALPHA, streams.references[:, : undrifted.shape[1]], undrifted)
    took_s = time.perf_counter() - start_s
    yield Row(f"{peer.name}: bar for {ALPHA:.0%}", bar, "", note=f"{many}; {took_s:.0f} s")
    skipped = 0 if peer.lead_rows is None else BEFORE_ROWS - peer.lead_rows
    for change, values in streams.changed.items():
        pairs = zip(streams.references.T, values[skipped:, : peer.runs[1]].T, strict=False)
        firsts = [peer.first(bar, *pair) for pair in pairs]
        found = np.array(firsts) + skipped - BEFORE_ROWS
        found = np.where(found <= 0, np.nan, found)
        told = f"{len(found)} runs; {note(found)}"
        yield Row(f"{peer.name}: delay, {change}", median(found), "rows", note=told)
        known[peer.name, change] = found


def best(known: Known) -> Iterator[Row]:
    """Set our delays against those of whichever peer is the soonest, over the streams that both had."""
    us = OURS.format(BLOCKS[0])
    for change in CHANGES:
        ratios = {}
        for name in {name for name, what in known if what == change and "turnout" not in name}:
            theirs_ = known[name, change]
            mine, other = median(known[us, change][: len(theirs_)]), median(theirs_)
            if mine is not None and other is not None:
                ratios[name] = mine / other
        if ratios:
            first = max(ratios, key=lambda name: ratios[name])
            goal = Goal(1.0, Better.LOWER)
            told = f"{first}, {len(known[first, change])} streams"
            yield Row(
                f"delay to the soonest peer's: {change}", ratios[first], "ratio", goal, first, note=told
            )


def agreement(streams: Streams) -> Iterator[Row]:
    """Say in how many streams our ADWIN and Page-Hinkley tell at the very row at which river's do."""
    if importlib.util.find_spec("river") is None:
        yield Row("kernels.concept as river", None, "share", note=HOW)
        return
    from river import drift

    columns = [column for values in streams.changed.values() for column in values.T[:20].tolist()]
    # ADWIN's bound is the paper's, but river's takes 4 less from the length of each part.
    for name, make, theirs_, goal in (
        ("Adwin", Adwin, drift.ADWIN, 0.9),
        ("PageHinkley", PageHinkley, lambda: drift.PageHinkley(alpha=1.0), 1.0),
    ):
        same = 0
        for column in columns:
            mine, other = make(), theirs_()
            at = next((i for i, value in enumerate(column) if mine.update(value)), -1)
            same += at == next(
                (i for i, v in enumerate(column) if other.update(v) or other.drift_detected), -1
            )
        told = f"first alarm in {len(columns)} streams"
        yield Row(f"kernels.concept.{name} as river", same / len(columns), "share", Goal(goal), note=told)


def figures(options: argparse.Namespace) -> Iterator[Row]:
    """Yield everything that is wanted."""
    streams = Streams(options.seed, 20 if options.quick else 1000, 5 if options.quick else 200)
    known: Known = {}
    for block in BLOCKS:
        yield from ours(streams, block, known)
    for peer in CONTENDERS:
        if options.only in peer.name:
            yield from theirs(peer, streams, known)
    yield from best(known)
    yield from agreement(streams)


def versions() -> Row:
    """Say which peers these were."""
    told = []
    for package in ("river", "alibi-detect", "numpy", "scipy"):
        try:
            told.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            told.append(f"no {package}")
    return Row("versions", float(len(told)), "", note=", ".join(told))


def main(given: Sequence[str] | None = None) -> int:
    """Measure and report. Goals that are missed are told, and do not fail: a benchmark is not a test."""
    parser = argparse.ArgumentParser(prog="loadtests.driftbench.peers")
    parser.add_argument("--quick", action="store_true", help="fewer streams: does it work")
    parser.add_argument("--only", default="", metavar="PATTERN", help="peers whose name has this in it")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default 1)")
    options = parser.parse_args(sys.argv[1:] if given is None else given)
    rows = [versions()]
    for row in tell(figures(options)):
        rows.append(row)
        write(rows, FOLDER / "drift-peers.json")
    print(f"\n{table(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
