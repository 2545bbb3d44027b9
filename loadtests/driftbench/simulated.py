"""Does the detector of drift keep what it promises, in simulated streams?

    python -m loadtests.driftbench.simulated [--quick] [--seed N]

Prints each figure, then a table, and writes build/bench/drift-simulated.json. docs/statistics.md says
what is simulated and what came out. Half an hour on one core; --quick takes a minute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtests.bench.rows import Row, table, tell, write
from loadtests.driftbench.delays import delays, recurring
from loadtests.driftbench.labels import labels
from loadtests.driftbench.undrifted import undrifted

FOLDER = Path("build/bench")


def simulated(*, quick: bool, seed: int) -> Iterator[Row]:
    """Yield every figure; the quick ones are of fewer and shorter streams."""
    yield from undrifted(streams=100 if quick else 1_000, rows=10_000 if quick else 100_000, seed=seed)
    yield from delays(streams=100 if quick else 1_000, seed=seed)
    yield from recurring(streams=100 if quick else 1_000, seed=seed)
    yield from labels(streams=20 if quick else 200, seed=seed)


def main(given: Sequence[str] | None = None) -> int:
    """Simulate and report. Goals that are missed are told, and do not fail: a benchmark is not a test."""
    parser = argparse.ArgumentParser(prog="loadtests.driftbench.simulated")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter streams: does it work")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default 1)")
    options = parser.parse_args(sys.argv[1:] if given is None else given)
    rows: list[Row] = []
    for row in tell(simulated(quick=options.quick, seed=options.seed)):
        rows.append(row)
        write(rows, FOLDER / "drift-simulated.json")
    print(f"\n{table(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
