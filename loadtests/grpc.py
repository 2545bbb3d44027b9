"""How fast is gRPC, beside grpcio's own server and beside HTTP, and what does shared memory save?

    make bench NAME=grpc
    python -m loadtests.grpc [--quick] [--only PATTERN] [--seconds S] [--repeat N]

Prints each figure as it is measured, then a table, and writes build/bench/grpc.json.
docs/performance.md says what is measured and how.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from loadtests.bench import command
from loadtests.bench.machine import Cores
from loadtests.bench.rows import Row
from loadtests.bench.turnout import Bench
from loadtests.grpcbench.cases import cases
from loadtests.grpcbench.shared import shared
from loadtests.grpcbench.speed import against_http, engines


def measured(bench: Bench) -> Iterator[Row]:
    """Yield every figure that is wanted."""
    yield from engines(bench)
    yield from against_http(bench)
    yield from shared(bench)
    yield from cases(bench)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = command.read(command.options("grpc", __doc__), given)

    def bench(cores: Cores) -> Bench:
        command.beside(cores)
        return Bench(command.FOLDER, cores, options.seconds, options.repeat, options.only)

    return command.run("grpc", bench, measured)


if __name__ == "__main__":
    sys.exit(main())
