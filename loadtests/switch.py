"""How fast and how certain are switches of traffic, and what does being able to switch cost?

    make bench NAME=switch
    python -m loadtests.switch [--quick] [--only PATTERN] [--seconds S] [--repeat N] [--baseline DIR]

Prints each figure as it is measured, then a table, and writes build/bench/switch.json.
docs/performance.md says what is measured and how.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from loadtests.bench import command
from loadtests.bench.machine import Cores
from loadtests.bench.rows import Row
from loadtests.bench.turnout import Bench
from loadtests.switching import checks, cost, selftest, shadowing, thousand


def measured(bench: Bench, baseline: Path | None) -> Iterator[Row]:
    """Measure everything that is wanted: first on all cores, then with one each for server and load."""
    yield from selftest.selftest(bench)
    yield from checks.checks(bench)
    yield from thousand.thousand(bench)
    command.beside(bench.cores)
    yield from cost.cost(bench, baseline)
    yield from shadowing.shadowing(bench)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = command.options("switch", __doc__)
    parser.add_argument("--baseline", type=Path, metavar="DIR", help="an older checkout to measure beside")
    options = command.read(parser, given)

    def bench(cores: Cores) -> Bench:
        return Bench(command.FOLDER, cores, options.seconds, options.repeat, options.only)

    return command.run("switch", bench, partial(measured, baseline=options.baseline))


if __name__ == "__main__":
    sys.exit(main())
