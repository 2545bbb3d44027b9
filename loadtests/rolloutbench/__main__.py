"""Do rollouts that judge themselves keep what they promise, in simulation?

    python -m loadtests.rolloutbench [--quick] [--seed N]

Prints each figure, then a table, and writes build/bench/rollout.json. docs/statistics.md says what is
simulated and what came out. Two minutes on one core; --quick takes some seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtests.bench.rows import Row, table, tell, write
from loadtests.rolloutbench.alike import alike
from loadtests.rolloutbench.worse import worse

FOLDER = Path("build/bench")
QUICK = 0.05


def simulated(*, quick: bool, seed: int) -> Iterator[Row]:
    """Yield every figure; the quick ones are of fewer runs."""
    scale = QUICK if quick else 1.0
    yield from alike(scale=scale, seed=seed)
    yield from worse(scale=scale, seed=seed)


def main(given: Sequence[str] | None = None) -> int:
    """Simulate and report. Goals that are missed are told, and do not fail: a benchmark is not a test."""
    parser = argparse.ArgumentParser(prog="loadtests.rolloutbench")
    parser.add_argument("--quick", action="store_true", help="fewer runs: does it work")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default 1)")
    options = parser.parse_args(sys.argv[1:] if given is None else given)
    rows: list[Row] = []
    for row in tell(simulated(quick=options.quick, seed=options.seed)):
        rows.append(row)
        write(rows, FOLDER / "rollout.json")
    print(f"\n{table(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
