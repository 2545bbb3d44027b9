"""What does counting evidence for rollouts cost?

    make bench NAME=evidence
    python -m loadtests.evidence [--quick] [--only PATTERN] [--seconds S] [--repeat N]

Prints each figure as it is measured, then a table, and writes build/bench/evidence.json.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from loadtests.bench import command
from loadtests.bench.machine import Cores
from loadtests.bench.rows import Row
from loadtests.bench.turnout import Bench
from loadtests.evidencebench.tap import tap
from loadtests.evidencebench.throughput import throughput


def measured(bench: Bench) -> Iterator[Row]:
    """Yield every figure that is wanted."""
    yield from tap(bench)
    yield from throughput(bench)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = command.read(command.options("evidence", __doc__, repeat=9), given)

    def bench(cores: Cores) -> Bench:
        command.beside(cores)
        return Bench(command.FOLDER, cores, options.seconds, options.repeat, options.only)

    return command.run("evidence", bench, measured)


if __name__ == "__main__":
    sys.exit(main())
