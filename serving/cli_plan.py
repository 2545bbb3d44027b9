"""How many requests does a rollout need? `turnout plan`, which asks no gateway."""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.cli_words import aligned
from serving.mistake import Mistake

if TYPE_CHECKING:
    from kernels.passage import Passage
    from serving.cli_verbs import AddVerb

NUMBER_MAX = 10**12
METRICS_MAX = 1000
SHARES = (0.5, 0.9)
"""Of rollouts, of which it is told how many requests they need."""
_PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?%", re.ASCII)


def add_plan(add: AddVerb) -> None:
    """Add the verb to the command line."""
    verb = add("plan", plan, "say how many requests a rollout needs to find a regression")
    verb.add_argument("--base", type=_share, metavar="RATE", help="how much goes wrong now, such as 0.1%%")
    worse = verb.add_mutually_exclusive_group()
    worse.add_argument(
        "--regressed", type=_share, metavar="RATE", help="how much would go wrong, such as 1%%"
    )
    worse.add_argument("--ratio", type=_times, metavar="N", help="how many times as much would")
    verb.add_argument(
        "--paired",
        type=_pair,
        metavar="A/B",
        help="of a shadow: in which part of pairs its answer alone is wrong, and the other alone: 3%%/1%%",
    )
    verb.add_argument("--weight", type=_share, metavar="W", help="of the canary; 10%% without this")
    verb.add_argument("--baseline-arm", action="store_true", help="compare it with an arm of its own weight")
    verb.add_argument("--alpha", type=_share, default=0.01, metavar="RATE", help="of wrong rollbacks; 1%%")
    verb.add_argument("--tolerance", type=_times, default=1.0, metavar="N", help="times as bad that may be")
    verb.add_argument("--metrics", type=_metrics, default=1, metavar="N", help="that are judged together; 1")
    verb.add_argument("--per-second", type=_rate, metavar="N", help="requests of the model, or labels")
    verb.add_argument("--requests", type=_count, metavar="N", help="say in how many rollouts these would do")
    verb.add_argument("--json", action="store_true", help="answer in JSON")


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked: in words, what of it would be found and cleared, and of what the numbers are."""

    words: str
    ratio: float
    least: float
    """The ratio below which no number of requests finds anything."""
    found: Passage
    cleared: Passage | None
    unit: str


def plan(arguments: argparse.Namespace) -> int:
    """Print how many requests are needed; 1 if no number of them is enough."""
    if not 0 < arguments.alpha < 1:
        raise Mistake("--alpha is the rate of wrong rollbacks to keep: more than 0% and less than 100%")
    question = _paired(arguments) if arguments.paired is not None else _canary(arguments)
    document = _document(question, arguments)
    if arguments.json:
        print(json.dumps(document))
    else:
        print(*_words(question, document, arguments), sep="\n")
    return 0 if document["found"]["feasible"] else 1


def _canary(arguments: argparse.Namespace) -> _Question:
    from kernels import passage

    base, bad = _rates(arguments)
    weight, rest = _arms(arguments)
    ratio, tolerance = bad / base if base else math.inf, arguments.tolerance
    cleared = None
    if base:
        # Each metric has to be cleared by itself, so alpha is not divided among them.
        cleared = passage.clearing(base, weight, rest=rest, ratio=ratio, alpha=arguments.alpha)
    beside = f" beside a baseline arm of {_percent(rest)}" if arguments.baseline_arm else ""
    return _Question(
        f"canary of {_percent(weight)}{beside}, of whose requests {_percent(bad)} go wrong "
        f"instead of {_percent(base)}",
        ratio,
        passage.least_ratio(weight / (weight + rest), tolerance=tolerance),
        passage.finding(base, bad, weight, rest=rest, alpha=_alpha(arguments), tolerance=tolerance),
        cleared,
        "requests",
    )


def _rates(arguments: argparse.Namespace) -> tuple[float, float]:
    """Return what goes wrong now, and what would."""
    base, regressed, ratio = arguments.base, arguments.regressed, arguments.ratio
    if base is None or (regressed is None and ratio is None):
        raise Mistake("say what goes wrong now and then: --base 0.1% --regressed 1%, or --paired 3%/1%")
    bad = base * ratio if regressed is None else regressed
    if bad > 1:
        raise Mistake(f"{ratio:g} times {_percent(base)} is more than 100%")
    if bad <= base * arguments.tolerance:
        allowed = f"{arguments.tolerance:g} times " if arguments.tolerance != 1 else ""
        raise Mistake(f"{_percent(bad)} is no regression: it is not more than {allowed}{_percent(base)}")
    return base, bad


def _arms(arguments: argparse.Namespace) -> tuple[float, float]:
    """Return the parts of all requests that canary and baseline get."""
    weight = 0.1 if arguments.weight is None else arguments.weight
    if not 0 < weight < 1:
        raise Mistake("a canary beside a baseline has more than 0% and less than 100%")
    rest = weight if arguments.baseline_arm else 1 - weight
    if weight + rest > 1:
        raise Mistake(f"a canary of {_percent(weight)} leaves no room for a baseline arm of as much")
    return weight, rest


def _paired(arguments: argparse.Namespace) -> _Question:
    from kernels import evalue, passage

    worse, better = _pairs(arguments)
    tolerance = arguments.tolerance
    cleared = None
    if better:
        share = worse / (worse + better)
        cleared = passage.clearing_paired(2 * better, share=share, alpha=arguments.alpha)
    ratios = [evalue.odds(share) for share in evalue.PAIRED_SHARES]
    return _Question(
        f"shadow whose answer alone is wrong in {_percent(worse)} of pairs, and the other's alone in "
        f"{_percent(better)}",
        worse / better if better else math.inf,
        passage.least_ratio(evalue.EVEN, tolerance=tolerance, ratios=ratios),
        passage.finding_paired(worse, better, alpha=_alpha(arguments), tolerance=tolerance / (1 + tolerance)),
        cleared,
        "pairs",
    )


def _pairs(arguments: argparse.Namespace) -> tuple[float, float]:
    """Return in what part of pairs only the shadow's answer would be wrong, and only the other."""
    if any(value is not None for value in (arguments.base, arguments.regressed, arguments.ratio)):
        raise Mistake("--paired says all about a shadow; --base, --regressed and --ratio are of a canary")
    if arguments.weight is not None or arguments.baseline_arm:
        raise Mistake("a shadow answers what the other answers: --weight and --baseline-arm are of a canary")
    worse, better = arguments.paired
    if worse + better > 1:
        raise Mistake(f"{_percent(worse)} and {_percent(better)} of pairs are more than all of them")
    if not worse > better * arguments.tolerance:
        allowed = f"{arguments.tolerance:g} times " if arguments.tolerance != 1 else ""
        raise Mistake(f"{_percent(worse)} is no regression: it is not more than {allowed}{_percent(better)}")
    return worse, better


def _alpha(arguments: argparse.Namespace) -> float:
    """Return what one metric has to keep, if the others have no evidence at all."""
    alpha: float = arguments.alpha / arguments.metrics
    return alpha


def _document(question: _Question, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "ratio": question.ratio if math.isfinite(question.ratio) else None,
        "alpha": arguments.alpha,
        "unit": question.unit,
        "found": _needs(question.found, arguments),
        "cleared": None if question.cleared is None else _needs(question.cleared, arguments),
    }


def _needs(passage: Passage, arguments: argparse.Namespace) -> dict[str, Any]:
    needed = {f"p{round(100 * share)}": passage.requests(share) for share in SHARES}
    speed, enough = arguments.per_second, arguments.requests
    return {
        "feasible": needed["p50"] is not None,
        "needed": needed,
        "seconds": {name: None if speed is None or n is None else n / speed for name, n in needed.items()},
        "within": None if enough is None else {"needed": enough, "share": passage.within(enough)},
    }


def _words(question: _Question, document: dict[str, Any], arguments: argparse.Namespace) -> list[str]:
    rows = []
    for name in ("found", "cleared"):
        needs = document[name]
        if needs is None:
            continue
        never = _never(question) if name == "found" else "not in sight"
        rows.append((name, _numbers(needs, question.unit, arguments) if needs["feasible"] else never))
        if needs["within"] is not None:
            share, enough = needs["within"]["share"], needs["within"]["needed"]
            rows.append(("", f"in {_percent(share)} of rollouts within {enough:,}"))
    rows.append(("wrongly", f"{_percent(arguments.alpha)} of good ones at most, however often one looks"))
    lines = [question.words, *aligned(rows, "  ")]
    if document["cleared"] is not None:
        lines.append(
            "  Cleared is one that is as good as the other, by the evidence that it is not "
            f"{question.ratio:.3g} times as bad."
        )
    if question.unit == "requests":
        lines.append("  Requests are all that the model gets, whoever answers.")
    return lines


def _numbers(needs: dict[str, Any], unit: str, arguments: argparse.Namespace) -> str:
    half, most = needs["needed"]["p50"], needs["needed"]["p90"]
    words = (
        f"after {half:,} {unit} in half of rollouts, {'out of sight' if most is None else f'{most:,}'} in 90%"
    )
    if arguments.per_second is None:
        return words
    spans = [_span(each) for each in needs["seconds"].values() if each is not None]
    return f"{words}: {' and '.join(spans)} at {arguments.per_second:g} a second"


def _never(question: _Question) -> str:
    if question.found.growth > 0:
        return f"not in sight: more than {len(question.found.arrived) - 1:,} of them would have to go wrong"
    return (
        f"never: {question.ratio:.3g} times as bad is too little to bet on at this weight; "
        f"from {question.least:.3g} times on it is not"
    )


def _span(seconds: float) -> str:
    """Write a time with its two largest units."""
    whole = math.ceil(seconds)
    for name, size, next_name, next_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size:,} {name}" + (f" {rest} {next_name}" if rest else "")
    return f"{whole} s"


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


def _share(text: str) -> float:
    if not _PERCENT.fullmatch(text) or not 0 <= float(text[:-1]) <= 100:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no share; 0.1% and 10% are")
    return float(text[:-1]) / 100


def _pair(text: str) -> tuple[float, float]:
    first, slash, second = text.partition("/")
    if not slash:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no pair of shares; 3%/1% is")
    return _share(first), _share(second)


def _times(text: str) -> float:
    value = _number(text)
    if not 1 <= value <= NUMBER_MAX:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no ratio; 1 and more is, such as 2.5")
    return value


def _rate(text: str) -> float:
    value = _number(text)
    if not 0 < value <= NUMBER_MAX:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number a second; 50 is")
    return value


def _metrics(text: str) -> int:
    return _whole(text, METRICS_MAX)


def _count(text: str) -> int:
    return _whole(text, NUMBER_MAX)


def _whole(text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 13 and 1 <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from 1 to {most:,}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
