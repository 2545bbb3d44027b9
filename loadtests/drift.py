"""What does watching for drift cost, and how soon and how surely does it find some?

    make bench NAME=drift
    python -m loadtests.drift [--quick] [--only PATTERN] [--seconds S] [--repeat N] [--seed N]

Prints each figure as it is measured, then a table, and writes build/bench/drift.json. The peers run in an
environment of their own, which requirements/peers.txt says how to make; without it their rows say so.
docs/performance.md and docs/statistics.md say what is measured and how. About an hour; --quick takes minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from loadtests.bench import command
from loadtests.bench.errors import BenchError
from loadtests.bench.machine import Cores
from loadtests.bench.rows import Better, Goal, Row, or_reason
from loadtests.bench.turnout import Bench
from loadtests.driftbench import folding, path, simulated

PEERS = Path("build/peers/bin/python")
PEERS_S_MAX = 3 * 3600
FOLD_ROUNDS = 25


def measured(bench: Bench, *, quick: bool, seed: int) -> Iterator[Row]:
    """Yield every figure that is wanted: first what it costs, then what it finds."""
    if wanted(bench, "fold"):
        yield from folding.folding(FOLD_ROUNDS if not quick else 5)
    yield from path.path(bench)
    if wanted(bench, "simulated"):
        yield from simulated.simulated(quick=quick, seed=seed)
    if wanted(bench, "peers"):
        yield from or_reason(_peers(bench.folder, quick=quick), "peers", "", None)


def wanted(bench: Bench, part: str) -> bool:
    """Say whether a part that is measured as a whole is wanted."""
    return not bench.only or fnmatch(part, f"*{bench.only}*")


def _peers(folder: Path, *, quick: bool) -> Iterator[Row]:
    """Have the peers measured by an interpreter that has them, and take over its rows."""
    if not PEERS.exists():
        raise BenchError("the peers are not installed; requirements/peers.txt says how to have them")
    command = [str(PEERS), "-m", "loadtests.driftbench.peers", *(["--quick"] if quick else [])]
    ended = subprocess.run(command, timeout=PEERS_S_MAX, stdout=subprocess.DEVNULL, check=False)
    if ended.returncode:
        raise BenchError(f"the peers could not be measured: exit code {ended.returncode}")
    for each in json.loads((folder / "drift-peers.json").read_text()):
        goal = Goal(each.pop("goal"), Better(each.pop("better"))) if "goal" in each else None
        yield Row(**{**each, "goal": goal, "runs": tuple(each.get("runs", ()))})


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = command.options("drift", __doc__)
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default 1)")
    options = command.read(parser, given)

    def bench(cores: Cores) -> Bench:
        command.beside(cores)
        return Bench(command.FOLDER, cores, options.seconds, options.repeat, options.only)

    return command.run("drift", bench, partial(measured, quick=options.quick, seed=options.seed))


if __name__ == "__main__":
    sys.exit(main())
