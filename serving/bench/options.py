"""What can be said to `turnout bench`?

Light on purpose: the command line reads it whatever the verb.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

SECONDS = 10.0
TRIAL_S = 3.0
WARM_S = 1.0
TIMEOUT_S = 10.0
TRIAL_TIMEOUT_S = 2.0
"""What is late by more has broken any promise already, and trials are many."""
RATE_PER_S = 1000.0
SECONDS_MAX = 3600.0
WITHIN_S = 120.0
REQUESTS_MAX = 100_000_000
CONNECTIONS_MAX = 1024
CALLERS_MAX = 16_384
STREAMS = 64
"""Calls that are under way on a connection over gRPC; servers allow 100 or more."""
STREAMS_MAX = 1000
_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}):[ \t]*([\x21-\x7e][\x20-\x7e]{0,4095})", re.ASCII)
_CALLERS = re.compile(r"([A-Za-z0-9-]{1,128})=([0-9]{1,5})", re.ASCII)


def complete(verb: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its grammar."""
    verb.add_argument("model", metavar="MODEL", help="its name, or a reference such as digits@8")
    verb.add_argument(
        "--rate",
        type=_rate,
        metavar="N/s",
        help="requests a second; of a search the first; max: all it takes",
    )
    verb.add_argument(
        "--arrivals", choices=("poisson", "constant"), default="poisson", help="%(default)s without this"
    )
    verb.add_argument(
        "--seconds",
        type=_span,
        metavar="S",
        help=f"how long; {SECONDS:g} without this, {TRIAL_S:g} each trial of a search",
    )
    verb.add_argument(
        "--warm",
        type=_span_or_none,
        default=WARM_S,
        metavar="S",
        help="before that, not counted; %(default)s",
    )
    verb.add_argument(
        "--requests", type=_whole(REQUESTS_MAX), default=REQUESTS_MAX, metavar="N", help="at most"
    )
    verb.add_argument(
        "--timeout",
        type=_span,
        metavar="S",
        help=f"then a request has failed; {TIMEOUT_S:g} without this, {TRIAL_TIMEOUT_S:g} in a search",
    )
    _add_asking(verb)
    _add_promises(verb)
    verb.add_argument("--json", action="store_true", help="answer in JSON")


def _add_target(verb: argparse.ArgumentParser) -> None:
    at = verb.add_mutually_exclusive_group()
    at.add_argument("--http", metavar="ADDRESS:PORT", help="of the gateway; overrides --config")
    at.add_argument("--url", metavar="URL", help="of the gateway: http://, https://, grpc:// or grpcs://")
    verb.add_argument("--config", type=Path, metavar="FILE", help="the configuration of the gateway")
    verb.add_argument("--protocol", choices=("http", "grpc"), help="http without this, and without --url")
    trust = verb.add_mutually_exclusive_group()
    trust.add_argument("--ca", type=Path, metavar="FILE", help="who signs for the gateway; else the system's")
    trust.add_argument("--insecure", action="store_true", help="trust any certificate")


def _add_asking(verb: argparse.ArgumentParser) -> None:
    _add_target(verb)
    few = _whole(CONNECTIONS_MAX)
    verb.add_argument("--connections", type=few, default=16, metavar="N", help="at the start; %(default)s")
    verb.add_argument("--connections-max", type=few, default=256, metavar="N", help="%(default)s")
    verb.add_argument(
        "--streams",
        type=_whole(STREAMS_MAX),
        default=STREAMS,
        metavar="N",
        help="under way at most on each over gRPC; %(default)s",
    )
    verb.add_argument("--encoding", choices=("binary", "json"), help="of tensors over HTTP; binary")
    verb.add_argument(
        "--rows", type=_whole(4096), default=1, metavar="N", help="in each request; %(default)s"
    )
    verb.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="rows to ask (.npz, .csv, .parquet); else random",
    )
    verb.add_argument("--seed", type=_whole(1 << 31), default=1, metavar="N", help="of what is random")
    verb.add_argument(
        "--header", type=_header, action="append", default=[], metavar="NAME:VALUE", help="of each request"
    )
    verb.add_argument(
        "--callers",
        type=_callers,
        metavar="HEADER=N",
        help="name one of N callers there, such as x-user-id=500",
    )


def _add_promises(verb: argparse.ArgumentParser) -> None:
    way = verb.add_mutually_exclusive_group()
    way.add_argument("--slo", metavar="PROMISES", help="such as p99=5ms,errors=0.1%%; exit code 1 if broken")
    way.add_argument("--search", metavar="PROMISES", help="for the highest rate that keeps them")
    verb.add_argument(
        "--within", type=_span, default=WITHIN_S, metavar="S", help="what a search may take; %(default)g"
    )


def _rate(text: str) -> float:
    from serving.bench.arrivals import RATE_MAX

    if text == "max":
        return float("inf")
    number = text.removesuffix("/s")
    try:
        value = float(number.replace("_", ""))
    except ValueError:
        value = 0.0
    if not 0 < value <= RATE_MAX:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no rate; 2000/s and max are, up to {RATE_MAX:,.0f}/s"
        )
    return value


def _span(text: str) -> float:
    value = _span_or_none(text)
    if not value:
        raise argparse.ArgumentTypeError("0 is no time here")
    return value


def _span_or_none(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no time; seconds, at most {SECONDS_MAX:g}, are")
    return value


def _whole(most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 12 and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number from 1 to {most:,}")
        return int(text)

    return read


def _header(text: str) -> tuple[str, str]:
    found = _HEADER.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no header; NAME:VALUE is")
    return found[1], found[2]


def _callers(text: str) -> tuple[str, int]:
    found = _CALLERS.fullmatch(text)
    if found is None or not 1 <= int(found[2]) <= CALLERS_MAX:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not such as x-user-id=500, up to {CALLERS_MAX:,}")
    return found[1], int(found[2])
