"""Does loading a version slow down what is served meanwhile? ``make bench NAME=loading``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from loadtests.bench import command, latency
from loadtests.bench.machine import Cores
from loadtests.bench.turnout import Bench


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; --seconds are a third of the span before the loads."""
    parser = command.options("loading", __doc__)
    parser.set_defaults(seconds=3)
    options = command.read(parser, given)

    def bench(cores: Cores) -> Bench:
        command.beside(cores)
        return Bench(command.FOLDER, cores, options.seconds, 1, options.only)

    return command.run("loading", bench, latency.loading)


if __name__ == "__main__":
    sys.exit(main())
