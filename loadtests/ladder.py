"""How near to the machine does Turnout come? The ladder: limit, floor, local, replica, plain Ray Serve.

    make bench NAME=ladder
    python -m loadtests.ladder [--quick] [--only PATTERN] [--seconds S] [--repeat N] [--prototype DIR]

Prints each figure as it is measured, then a table, and writes build/bench/ladder.json.
docs/performance.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from loadtests.bench import footprint, latency, machine, models, throughput
from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Row, figure, or_reason, table, write
from loadtests.bench.turnout import Bench

FOLDER = Path("build/bench")
Rung = Callable[[Bench], Iterator[Row]]


def rungs(known: dict[str, Row]) -> Iterator[tuple[str, Rung]]:
    """Yield the rungs in their order. `known` holds the rows so far, to set later ones against."""
    yield "local", throughput.local
    yield "metrics", throughput.metrics
    yield "fairness", latency.fairness
    yield "loading", latency.loading
    yield "memory", footprint.memory
    yield "ready", footprint.ready
    yield "replica", throughput.replica
    yield "plain", lambda bench: throughput.plain(bench, known)


def climb(bench: Bench) -> Iterator[Row]:
    """Measure every rung; one that cannot be measured leaves a row that says why, and the others go on."""
    known: dict[str, Row] = {}
    for name, rung in rungs(known):
        for row in or_reason(rung(bench), name, "", None):
            known[row.name] = row
            yield row


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="loadtests.ladder", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a second each, once: does it work")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="figures whose name has this in it (* allowed)"
    )
    parser.add_argument("--seconds", type=whole, default=2, help="of each measurement (default 2)")
    parser.add_argument("--repeat", type=whole, default=3, help="measurements of which the median is taken")
    parser.add_argument("--prototype", type=Path, metavar="DIR", help="a prototype to measure beside")
    options = parser.parse_args(given)
    if options.quick:
        options.seconds = options.repeat = 1
    return options


def whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 600:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 600, got {text!r}")
    return int(text)


def main(given: Sequence[str] | None = None) -> int:
    """Measure and report. Goals that are missed are told, and do not fail: a benchmark is not a test."""
    options = arguments(sys.argv[1:] if given is None else given)
    today = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    where, cores = machine.describe(), machine.cores()
    try:
        machine.require_wrk()
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    os.sched_setaffinity(0, cores.load)
    print(f"{where}, {today}\n{cores}", flush=True)
    bench = Bench(FOLDER, cores, options.seconds, options.repeat, options.only, options.prototype)
    models.lay_out(bench.repository)
    rows = [Row("machine", len(cores.every), "cores", note=f"{where}, {today}; {cores}")]
    for row in climb(bench):
        print(*filter(None, (row.name, figure(row.value), row.unit, row.verdict, row.note)), flush=True)
        rows.append(row)
        write(rows, FOLDER / "ladder.json")
    print(f"\n{table(rows[1:])}\n\n{where}, {today}\n{cores}\n{closing(rows)}")
    return 0


def closing(rows: Sequence[Row]) -> str:
    """Say how many goals there were, and which were missed."""
    missed = [row for row in rows if row.missed]
    count = sum(row.goal is not None for row in rows)
    if not missed:
        return f"{count} goals, none missed"
    return f"{count} goals, {len(missed)} missed: {', '.join(row.name for row in missed)}"


if __name__ == "__main__":
    sys.exit(main())
