"""What does watching for drift cost, and how soon and how surely does it find some?

    make bench NAME=drift
    python -m loadtests.drift [--quick] [--only PATTERN] [--seconds S] [--repeat N] [--seed N]

Prints each figure as it is measured, then a table, and writes build/bench/drift.json. The peers run in an
environment of their own, which requirements/peers.txt says how to make; without it their rows say so.
docs/performance.md and docs/statistics.md say what is measured and how. About an hour; --quick takes minutes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from loadtests.bench import machine, models
from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Better, Goal, Row, figure, or_reason, table, write
from loadtests.bench.turnout import Bench
from loadtests.driftbench import folding, path, simulated
from loadtests.ladder import FOLDER, closing, whole

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


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="loadtests.drift", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="little of everything: does it work")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="fold, drift/tap, drift/S, simulated, peers (* allowed)"
    )
    parser.add_argument("--seconds", type=whole, default=2, help="of each measurement (default 2)")
    parser.add_argument("--repeat", type=whole, default=5, help="measurements of which the median is taken")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default 1)")
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
    for row in measured(bench, quick=options.quick, seed=options.seed):
        print(*filter(None, (row.name, figure(row.value), row.unit, row.verdict, row.note)), flush=True)
        rows.append(row)
        write(rows, FOLDER / "drift.json")
    print(f"\n{table(rows[1:])}\n\n{where}, {when}\n{cores}\n{closing(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
