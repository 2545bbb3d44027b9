"""Do good clients notice the hostile ones beside them?

    make hostile
    python -m loadtests.hostile [--only PATTERN] [--seconds S] [--out FILE] [--list]

Starts `turnout serve --local`, has good clients ask it at a constant rate without and with one attack after
another, prints a table and a line for each promise that was not kept, and ends with 1 if there is one.
docs/reliability.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from loadtests.bench import machine
from loadtests.bench.errors import BenchError
from loadtests.hostile import report
from loadtests.hostile.attack import Attack
from loadtests.hostile.attacks import ATTACKS
from loadtests.hostile.gateway import serving
from loadtests.hostile.siege import Pace, capacity, tried

FILE = Path("build/hostile/hostile.json")
SECONDS = 1.0
PART = 1 / 3
"""Of what the gateway can do, the good clients ask for."""
RATE_MAX = 3000.0
"""More would keep the core busy that they and the attackers share."""


def run(attacks: Sequence[Attack], seconds: float) -> list[dict[str, Any]]:
    """Attack one gateway in one way after another; return what was measured."""
    rows, cores = [], machine.cores()
    folder = tempfile.TemporaryDirectory(prefix="turnout-hostile-", ignore_cleanup_errors=True)
    with folder as name, serving(Path(name), cores) as gateway:
        able = {model: capacity(gateway, cores, model) for model in {each.model for each in attacks}}
        print("".join(f"{model}: {per_s:,.0f} a second\n" for model, per_s in able.items()), flush=True)
        for attack in attacks:
            rate = min(RATE_MAX, able[attack.model] * PART)
            print(f"{attack.name}: {attack.how}; good clients: {rate:,.0f}/s", flush=True)
            rows.append(report.document(tried(gateway, cores, attack, Pace(rate, seconds))))
            tell(rows[-1])
    return rows


def tell(row: dict[str, Any]) -> None:
    """Print a row as it is measured."""
    pairs = zip(report.COLUMNS[1:-1], report.cells(row)[1:-1], strict=True)
    print("  " + ", ".join(f"{name} {cell}" for name, cell in pairs))
    print(f"  {row['seen']}")
    for word, lines in (("BROKEN", row["broken"]), ("open", row["open"])):
        print("".join(f"  {word} {line}\n" for line in lines), end="", flush=True)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="loadtests.hostile", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="attacks whose name has this in it")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each round (default 1)")
    parser.add_argument("--out", type=Path, default=FILE, help="where the JSON goes")
    parser.add_argument("--list", action="store_true", help="say which attacks there are")
    options = parser.parse_args(given)
    attacks = [each for each in ATTACKS if fnmatch(each.name, f"*{options.only}*")]
    if options.list or not attacks:
        print("\n".join(f"{each.name}: {each.how}" for each in ATTACKS))
        return 0 if options.list else 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that nothing is left behind.
    load = "/".join(f"{each:.1f}" for each in os.getloadavg())
    where = f"{machine.describe()}, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, load average {load}"
    print(f"{where}\n{machine.cores()}", flush=True)
    try:
        rows = run(attacks, options.seconds)
    except BenchError:
        traceback.print_exc()
        return 2
    report.write(options.out, where, rows)
    lines = [line for row in rows for line in row["broken"]]
    opened = [line for row in rows for line in row["open"]]
    print(f"\n{report.table(rows)}\n")
    told = [*(f"OPEN {line}\n" for line in opened), *(f"BROKEN {line}\n" for line in lines)]
    print("".join(told), end="")
    print(f"{len(rows)} attacks, {len(lines)} promises broken, {len(opened)} open")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
