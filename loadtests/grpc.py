"""How fast is gRPC, beside grpcio's own server and beside HTTP, and what does shared memory save?

    make bench NAME=grpc
    python -m loadtests.grpc [--quick] [--only PATTERN] [--seconds S] [--repeat N]

Prints each figure as it is measured, then a table, and writes build/bench/grpc.json.
docs/performance.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Iterator, Sequence

from loadtests.bench import machine, models
from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Row, figure, table, write
from loadtests.bench.turnout import Bench
from loadtests.grpcbench.cases import cases
from loadtests.grpcbench.shared import shared
from loadtests.grpcbench.speed import against_http, engines
from loadtests.ladder import FOLDER, closing, whole


def measured(bench: Bench) -> Iterator[Row]:
    """Yield every figure that is wanted."""
    yield from engines(bench)
    yield from against_http(bench)
    yield from shared(bench)
    yield from cases(bench)


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="loadtests.grpc", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a second each, once: does it work")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="figures whose name has this in it (* allowed)"
    )
    parser.add_argument("--seconds", type=whole, default=2, help="of each measurement (default 2)")
    parser.add_argument("--repeat", type=whole, default=5, help="measurements of which the median is taken")
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
    os.sched_setaffinity(0, cores.load)
    print(f"{where}, {when}\n{cores}", flush=True)
    bench = Bench(FOLDER, cores, options.seconds, options.repeat, options.only)
    models.lay_out(bench.repository)
    rows = [Row("machine", len(cores.every), "cores", note=f"{where}, {when}; {cores}")]
    for row in measured(bench):
        print(*filter(None, (row.name, figure(row.value), row.unit, row.verdict, row.note)), flush=True)
        rows.append(row)
        write(rows, FOLDER / "grpc.json")
    print(f"\n{table(rows[1:])}\n\n{where}, {when}\n{cores}\n{closing(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
