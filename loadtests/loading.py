"""Does loading a version slow down what is served meanwhile? ``make bench NAME=loading``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from loadtests.bench import latency, machine, models
from loadtests.bench.rows import figure, table, write
from loadtests.bench.turnout import Bench
from loadtests.ladder import FOLDER, closing, whole


def main(given: Sequence[str] | None = None) -> int:
    """Measure and report; a goal that is missed is told, and does not fail."""
    parser = argparse.ArgumentParser(prog="loadtests.loading", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="figures whose name has this in it (* allowed)"
    )
    parser.add_argument("--seconds", type=whole, default=3, help="a third of the span before the loads")
    options = parser.parse_args(sys.argv[1:] if given is None else given)
    cores = machine.cores()
    os.sched_setaffinity(0, cores.load)
    bench = Bench(FOLDER, cores, options.seconds, 1, options.only)
    models.lay_out(bench.repository)
    print(f"{machine.describe()}\n{cores}", flush=True)
    rows = []
    for row in latency.loading(bench):
        print(*filter(None, (row.name, figure(row.value), row.unit, row.verdict, row.note)), flush=True)
        rows.append(row)
        write(rows, FOLDER / "loading.json")
    print(f"\n{table(rows)}\n{closing(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
