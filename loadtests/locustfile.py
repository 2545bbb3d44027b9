"""How is a gateway that runs asked with locust's own command line?

    turnout serve --local & locust -f loadtests/locustfile.py --host http://127.0.0.1:8000

It needs the demo (`turnout demo --into build/demo`) and its gateway; options of our own are in `--help`.
`--curve` goes instead of --users by time. There is no scenario and no verdict: `make loadtest` has those.
"""

# ruff: noqa: E402, I001 - The way comes first, then locust: it patches what all others import.
from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if sys.path and Path(sys.path[0]).resolve() == HERE:  # locust put it there, and a grpc.py lies in it.
    sys.path[0] = str(HERE.parent)

from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

import time
from typing import Any

from loadtests.locusts.asking import rows_of
from loadtests.locusts.book import Book
from loadtests.locusts.curves import Curve
from loadtests.locusts.shapes import SHAPES
from loadtests.locusts.target import Target
from loadtests.locusts.users import GrpcUser, HttpBinaryUser, HttpJsonUser

__all__ = ["GrpcUser", "HttpBinaryUser", "HttpJsonUser"]


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    say = parser.add_argument
    say(
        "--grpc", default="127.0.0.1:8001", help="ADDRESS:PORT of the gateway's gRPC", include_in_web_ui=False
    )
    say("--demo", default="build/demo", help="where `turnout demo` laid it out", include_in_web_ui=False)
    say(
        "--curve",
        default="",
        choices=["", *Curve],
        help="how many ask as time goes by",
        include_in_web_ui=False,
    )
    say("--curve-users", type=int, default=12, help="the most of them", include_in_web_ui=False)
    say("--curve-seconds", type=float, default=60.0, help="how long it takes", include_in_web_ui=False)


@events.init.add_listener
def _aim(environment: Environment, **_more: Any) -> None:
    asked = environment.parsed_options
    assert asked is not None, "locust's command line has options"
    http = (environment.host or "http://127.0.0.1:8000").removeprefix("http://").rstrip("/")
    environment.turnout = Target(http, asked.grpc, rows_of(Path(asked.demo)), Book(time.monotonic))
    if asked.curve:
        environment.shape_class = SHAPES[Curve(asked.curve)](asked.curve_users, asked.curve_seconds)
