"""Does a gateway keep its promises while its processes, its disk and its clock are broken under load?

    make chaos
    python -m loadtests.chaos [--only PATTERN] [--rate N] [--out FILE] [--list]

Starts `turnout serve` on Ray with two replicas, breaks one thing after another while requests come in an
open loop and traffic is split back and forth, prints a table and a line for each promise that was not kept,
and ends with 1 if there is one. docs/reliability.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tempfile
import traceback
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from loadtests.bench import machine
from loadtests.bench.errors import BenchError
from loadtests.chaos import models, report
from loadtests.chaos.client import RATE
from loadtests.chaos.faults import FAULTS, UnableError
from loadtests.chaos.served import serving
from loadtests.chaos.strike import Fault, tried

FILE = Path("build/chaos/chaos.json")


def run(faults: Sequence[Fault], rate: float) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Strike one gateway with one fault after another; return what was measured, and what could not be."""
    rows, skipped = [], {}
    with tempfile.TemporaryDirectory(prefix="turnout-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        models.lay_out(folder / "models")
        waiting = list(faults)
        while waiting:
            place = Path(tempfile.mkdtemp(dir=folder))
            with serving(place, folder / "models") as served:
                while waiting:
                    fault = waiting.pop(0)
                    print(f"{fault.name}: {fault.how}", flush=True)
                    try:
                        row = report.document(tried(served, fault, place, rate))
                    except UnableError as error:
                        skipped[fault.name] = str(error)
                        print(f"  skipped: {error}", flush=True)
                    except BenchError as error:
                        # Whatever it left behind, the next fault gets a new gateway.
                        skipped[fault.name] = f"it could not be measured: {error}"
                        print(f"  {skipped[fault.name]}", flush=True)
                        break
                    else:
                        rows.append(row)
                        tell(row)
                        if row["whole_s"] is None or fault.last:
                            break
    return rows, skipped


def tell(row: dict[str, Any]) -> None:
    """Print a row as it is measured."""
    pairs = zip(report.COLUMNS[1:-1], report.cells(row)[1:-1], strict=True)
    print(
        "  " + ", ".join(f"{name} {cell}" for name, cell in pairs) + f"\n  {row['note']}" * bool(row["note"])
    )
    print("".join(f"  BROKEN {line}\n" for line in row["broken"]), end="", flush=True)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="loadtests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="faults whose name has this in it")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second (default 500)")
    parser.add_argument("--out", type=Path, default=FILE, help="where the JSON goes")
    parser.add_argument("--list", action="store_true", help="say which faults there are")
    options = parser.parse_args(given)
    faults = [each for each in FAULTS if fnmatch(each.name, f"*{options.only}*")]
    if options.list or not faults:
        print("\n".join(f"{each.name}: {each.how}" for each in FAULTS))
        return 0 if options.list else 2
    where = f"{machine.describe()}, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    print(where, flush=True)
    try:
        rows, skipped = run(faults, options.rate)
    except BenchError:
        traceback.print_exc()
        return 2
    report.write(options.out, where, rows, skipped)
    lines = [line for row in rows for line in row["broken"]]
    print(f"\n{report.table(rows)}\n")
    print("".join(f"skipped: {name}: {why}\n" for name, why in skipped.items()), end="")
    print("".join(f"BROKEN {line}\n" for line in lines), end="")
    unmeasured = [name for name, why in skipped.items() if why.startswith("it could not")]
    print(f"{len(rows)} faults, {len(lines)} promises broken, {len(skipped)} faults skipped")
    return 1 if lines or unmeasured else 0


if __name__ == "__main__":
    sys.exit(main())
