"""How fast and how certain are switches of traffic, and what does being able to switch cost?

    make bench NAME=switch
    python -m loadtests.switch [--quick] [--only PATTERN] [--seconds S] [--repeat N] [--baseline DIR]

Prints each figure as it is measured, then a table, and writes build/bench/switch.json.
docs/performance.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtests.bench import machine, models
from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Row, figure, table, write
from loadtests.bench.turnout import Bench
from loadtests.ladder import FOLDER, closing, whole
from loadtests.switching import checks, cost, selftest, shadowing, thousand


def measured(bench: Bench, baseline: Path | None) -> Iterator[Row]:
    """Measure everything that is wanted: first on all cores, then with one each for server and load."""
    yield from selftest.selftest(bench)
    yield from checks.checks(bench)
    yield from thousand.thousand(bench)
    os.sched_setaffinity(0, bench.cores.load)
    yield from cost.cost(bench, baseline)
    yield from shadowing.shadowing(bench)


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="loadtests.switch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few switches, a second each: does it work")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="figures whose name has this in it (* allowed)"
    )
    parser.add_argument("--seconds", type=whole, default=2, help="of each measurement (default 2)")
    parser.add_argument("--repeat", type=whole, default=5, help="measurements of which the median is taken")
    parser.add_argument("--baseline", type=Path, metavar="DIR", help="an older checkout to measure beside")
    options = parser.parse_args(given)
    if options.quick:
        options.seconds = options.repeat = 1
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Measure and report. Goals that are missed are told, and do not fail: a benchmark is not a test."""
    options = arguments(sys.argv[1:] if given is None else given)
    where, cores = machine.describe(), machine.cores()
    when = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    try:
        machine.require_wrk()
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{where}, {when}\n{cores}", flush=True)
    bench = Bench(FOLDER, cores, options.seconds, options.repeat, options.only)
    models.lay_out(bench.repository)
    rows = [Row("machine", len(cores.every), "cores", note=f"{where}, {when}; {cores}")]
    for row in measured(bench, options.baseline):
        print(*filter(None, (row.name, figure(row.value), row.unit, row.verdict, row.note)), flush=True)
        rows.append(row)
        write(rows, FOLDER / "switch.json")
    print(f"\n{table(rows[1:])}\n\n{where}, {when}\n{cores}\n{closing(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
