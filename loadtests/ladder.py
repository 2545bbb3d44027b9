"""How near to the machine does Turnout come? The ladder: limit, floor, local, replica, plain Ray Serve.

    make bench NAME=ladder
    python -m loadtests.ladder [--quick] [--only PATTERN] [--seconds S] [--repeat N] [--prototype DIR]

Prints each figure as it is measured, then a table, and writes build/bench/ladder.json.
docs/performance.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from loadtests.bench import command, footprint, latency, throughput
from loadtests.bench.machine import Cores
from loadtests.bench.rows import Row, or_reason
from loadtests.bench.turnout import Bench

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


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command.options("ladder", __doc__, repeat=3)
    parser.add_argument("--prototype", type=Path, metavar="DIR", help="a prototype to measure beside")
    return command.read(parser, given)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = arguments(given)

    def bench(cores: Cores) -> Bench:
        command.beside(cores)
        wanted = (options.seconds, options.repeat, options.only, options.prototype)
        return Bench(command.FOLDER, cores, *wanted)

    return command.run("ladder", bench, climb)


if __name__ == "__main__":
    sys.exit(main())
