"""How is a benchmark run: its options, its figures as they come, its table, and the file that keeps them?"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from loadtests.bench import machine, models
from loadtests.bench.errors import BenchError
from loadtests.bench.machine import Cores
from loadtests.bench.rows import Row, table, tell, write
from loadtests.bench.turnout import Bench

FOLDER = Path("build/bench")


def options(name: str, text: str | None, *, repeat: int = 5) -> argparse.ArgumentParser:
    """Return the options that all benchmarks have; `text` is the module's own."""
    parser = argparse.ArgumentParser(prog=f"loadtests.{name}", description=(text or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a second each, once: does it work")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="figures whose name has this in it (* allowed)"
    )
    parser.add_argument("--seconds", type=whole, default=2, help="of each measurement (default 2)")
    parser.add_argument(
        "--repeat", type=whole, default=repeat, help="measurements of which the median is taken"
    )
    return parser


def read(parser: argparse.ArgumentParser, given: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, by default this process's."""
    chosen = parser.parse_args(sys.argv[1:] if given is None else given)
    if chosen.quick:
        chosen.seconds = chosen.repeat = 1
    return chosen


def whole(text: str) -> int:
    """Read a number of seconds or of times."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 600:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 600, got {text!r}")
    return int(text)


def run(name: str, bench: Callable[[Cores], Bench], measured: Callable[[Bench], Iterator[Row]]) -> int:
    """Measure and report. Goals that are missed are told, and do not fail: a benchmark is not a test."""
    where, cores = machine.describe(), machine.cores()
    when = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    try:
        machine.require_wrk()
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{where}, {when}\n{cores}", flush=True)
    made = bench(cores)
    models.lay_out(made.repository)
    rows = [Row("machine", len(cores.every), "cores", note=f"{where}, {when}; {cores}")]
    for row in tell(measured(made)):
        rows.append(row)
        write(rows, FOLDER / f"{name}.json")
    print(f"\n{table(rows[1:])}\n\n{where}, {when}\n{cores}\n{closing(rows)}")
    return 0


def beside(cores: Cores) -> None:
    """Keep this process, which asks, off the server's cores."""
    os.sched_setaffinity(0, cores.load)


def closing(rows: Sequence[Row]) -> str:
    """Say how many goals there were, and which were missed."""
    missed = [row for row in rows if row.missed]
    count = sum(row.goal is not None for row in rows)
    if not missed:
        return f"{count} goals, none missed"
    return f"{count} goals, {len(missed)} missed: {', '.join(row.name for row in missed)}"
