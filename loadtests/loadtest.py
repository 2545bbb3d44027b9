"""May this be released? A load test with a scenario, against a gateway that it starts, and one verdict.

    make loadtest [ARGS=...] [UI=1]
    python -m loadtests.loadtest [--seconds S] [--users N] [--shape SHAPE] [--step NAME ...] [--slo FILE]

Prints a line for each change and each broken promise, and last the verdict; writes results.json, junit.xml
and report.html to build/loadtest. Ends with 0 for yes, 1 for no, and 2 if it could not be run.
docs/load-testing.md says how a yes is meant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests.bench.errors import BenchError
from loadtests.locusts.broken import Defect
from loadtests.locusts.curves import Curve
from loadtests.locusts.scenario import STEPS
from loadtests.slo.promise import SloError, read

WAYS = ("json", "binary", "grpc")
COULD_NOT = 2


def options() -> argparse.ArgumentParser:
    """Return what the command line takes."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.loadtest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    say = parser.add_argument
    say("--seconds", type=float, default=3.0, metavar="S", help="of each phase, beyond its change (3)")
    say("--warm", type=float, default=2.0, metavar="S", help="before the first of them, not counted (2)")
    say("--users", type=int, default=12, metavar="N", help="the most that ask at once (12)")
    say("--way", action="append", choices=WAYS, default=[], help="how they ask; again for more (all)")
    say(
        "--shape",
        type=Curve,
        choices=Curve,
        default=Curve.STEADY,
        help="how many ask as time goes by (steady)",
    )
    say(
        "--step",
        action="append",
        default=[],
        metavar="NAME",
        help="a phase; again for more (all): " + _steps(),
    )
    say("--slo", type=Path, default=Path("loadtests/slo.toml"), metavar="FILE", help="the promises")
    say("--into", type=Path, default=Path("build/loadtest"), metavar="DIR", help="where reports and state go")
    say(
        "--demo",
        type=Path,
        default=Path("build/demo"),
        metavar="DIR",
        help="where `turnout demo` laid it out",
    )
    say("--http", default="", metavar="AT", help="ADDRESS:PORT of a gateway that runs, which serves the demo")
    say("--grpc", default="", metavar="AT", help="its gRPC, if it is to be asked so")
    say("--admin", default="", metavar="AT", help="its admin application")
    say("--token-file", type=Path, metavar="FILE", help="the token of its admin application")
    say("--defect", type=Defect, choices=Defect, default=None, help="put a proxy in front that is broken so")
    say("--ui", action="store_true", help="locust's web interface instead, on loopback")
    say("--ui-port", type=int, default=8089, metavar="PORT", help="where it listens (8089)")
    return parser


def _steps() -> str:
    return ", ".join(each.name for each in STEPS)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = options()
    asked = parser.parse_args(given)
    if asked.http and not (asked.admin and asked.token_file):
        parser.error("--http needs --admin and --token-file: the scenario changes traffic")
    if asked.seconds <= 0 or asked.users <= 0 or asked.warm < 0:
        parser.error("--seconds and --users are above 0, and --warm is not below")
    if asked.defect is not None and "grpc" in asked.way:
        parser.error("--defect stands in front of HTTP alone; leave out --way grpc")
    try:
        slo = read(asked.slo)
        # Here and not above: it makes all of the standard library cooperative.
        from loadtests.locusts import running, web

        return web.serve(asked, slo) if asked.ui else running.run(asked, slo)
    except (BenchError, SloError, OSError) as error:
        print(f"load test: could not be run: {error}", file=sys.stderr)
        return COULD_NOT


def end(code: int) -> None:
    """End this process at once: what it started has ended, and what it had to write is written.

    The interpreter's own end was once seen not to come, after the verdict; why is not known, and in 39 short
    runs without this it came each time.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end(main())
