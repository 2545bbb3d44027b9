"""How is a rollout written for people? Its steps with marks, and then what is known of its candidate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from router.rollout import Phase, Rollout, parse_rollout
from serving.cli_words import aligned, moment, plain
from serving.rollout.metric import LABELLED, Kind, Metric, Threshold, parse_metric
from serving.rollout.units import step_words, written_s

Document = Mapping[str, Any]
"""As it came in JSON."""
MOVES_SHOWN_MAX = 5
WHY_SHOWN_MAX = 100
"""Characters; `turnout history` has all."""
DONE, NOW, ENDED, TO_COME = "x", ">", "!", " "
NEEDS = ("metric", "goes on after", "found bad after", "where it is, or would be")
HEAD = ("metric", "candidate", "stable", "against", "for", "")


def status(said: Document) -> list[str]:
    """Write how a rollout stands."""
    rollout = parse_rollout(said["rollout"])
    plan, reason = rollout.plan, f", {rollout.reason}" if rollout.reason else ""
    headline = f"{said['model']}  {plan.name}: version {plan.candidate} beside {rollout.stable}"
    rows = [("route", said["route"]), ("since", moment(said["since"]))]
    verdict = said["now"] or rollout.verdict
    if rollout.message and rollout.message != (verdict or {}).get("message"):
        rows.append(("because", rollout.message))
    if said.get("refused"):
        rows.append(("REFUSED", f"{said['refused']['times']} times: {said['refused']['why']}"))
    rows += [("next", each) for each in _next(rollout, watched=said["watched"])]
    lines = [plain(f"{headline}  {rollout.phase}{reason}"), *aligned(rows, "  "), ""]
    lines += _steps(rollout)
    lines += ["", *_verdict(verdict, now=said["now"] is not None)]
    moves = said["history"][-MOVES_SHOWN_MAX:]
    if moves:
        lines += ["", "latest moves", *aligned(map(_move, moves), "  ")]
    return lines


def _next(rollout: Rollout, *, watched: bool) -> Iterator[str]:
    """Say what a person may do about it, or what comes by itself."""
    model = rollout.plan.model
    match rollout.phase:
        case Phase.PAUSED:
            yield f"turnout rollout promote {model} takes the next step; resume, abort"
        case Phase.DEGRADED if rollout.frozen:
            yield f"turnout rollout abort {model} goes back; promote --full gives the candidate everything"
        case Phase.DEGRADED:
            yield f"turnout rollout retry {model} begins anew"
        case Phase.HEALTHY if watched:
            yield f"it is looked after for {written_s(rollout.plan.watch_s)} from its promotion on"
        case _:
            return


def _steps(rollout: Rollout) -> list[str]:
    here = NOW if rollout.under_way else ENDED
    marks = [
        DONE if at < rollout.step else here if at == rollout.step else TO_COME
        for at in range(len(rollout.plan.steps))
    ]
    return [
        plain(f"  {mark} {step_words(step)}".rstrip())
        for mark, step in zip(marks, rollout.plan.steps, strict=True)
    ]


def _move(each: Document) -> tuple[str, ...]:
    why = each["why"]
    cut = why if len(why) <= WHY_SHOWN_MAX else f"{why[: WHY_SHOWN_MAX - 4]} ..."
    return str(each["revision"]), moment(each["at"]), each["by"], cut


def _verdict(verdict: Document | None, *, now: bool) -> list[str]:
    if verdict is None:
        return ["  not judged yet"]
    lines = [plain(f"  {verdict['word']}: {verdict['message']}" + ("" if now else " (at its last move)"))]
    late_ns = verdict.get("late_ns")
    if late_ns:
        latencies = ", ".join(f"{each / 1e6:.3g}" for each in late_ns)
        lines.append(f"  p50, p90, p99 of version {plain(verdict['stable'])}, frozen: {latencies} ms")
    found = verdict["found"]
    told = {each["metric"]["name"]: each for each in verdict["metrics"]}
    rows = [
        row
        for each in found["metrics"]
        for row in _metric(parse_metric(told[each["name"]]["metric"]), each, told[each["name"]], verdict)
    ]
    if rows:
        lines += ["", *aligned([HEAD, *rows], "  ")]
        lines += [f"  {each}" for each in _bars(found)]
    return lines


def _bars(found: Document) -> Iterator[str]:
    yield (
        f"against it, all together: e = {number(found['e_log10'])}, and {number(found['bar_log10'])} is too "
        f"much; for it, each that is awaited: {number(found['good_bar_log10'])} is enough"
    )
    if found["after_log10"] > 0:
        yield (
            f"worse since its promotion: e = {number(found['after_log10'])}, "
            f"and {number(found['after_bar_log10'])} is too much"
        )


def _metric(metric: Metric, found: Document, told: Document, verdict: Document) -> Iterator[tuple[str, ...]]:
    says = _says(metric, found, verdict)
    if metric.threshold is not None:
        yield (metric.name, _tally(found["tally"], metric.threshold), "-", "-", "-", says)
        return
    evidence = number(found["e_log10"]), number(max(found["within_log10"], found["acceptable_log10"]))
    if "pairs" in told:
        yield (metric.name, *_pairs(metric, found, told["pairs"]), *evidence, says)
        return
    if metric.kind is Kind.DRIFT:
        sides = [verdict["drift"].get(side, {}).get("word", "-") for side in ("candidate", "stable")]
        yield (metric.name, *sides, "-", "-", says)
        return
    events = told.get("events", {})
    if len(events) != 1:
        yield (metric.name, "", "", *evidence, says)
    for event, counted in events.items():
        numbers = found["events"].get(event, {})
        sides = [
            _counts(counted[side], numbers.get(f"{side}_rate"), metric) for side in ("candidate", "stable")
        ]
        if len(events) == 1:
            yield (metric.name, *sides, *evidence, says)
        else:
            name = event.removeprefix("latency-")
            mine = number(numbers["e_log10"]), number(numbers["within_log10"])
            yield (f"  later than {name}", *sides, *mine, "")


def _pairs(metric: Metric, found: Document, pairs: list[int]) -> tuple[str, str]:
    if metric.kind is Kind.DISAGREEMENT:
        (numbers,) = found["events"].values()
        return _counts(pairs, numbers["candidate_rate"], metric), "-"
    worse, better = pairs
    return f"{worse:,}", f"{better:,}"


def _says(metric: Metric, found: Document, verdict: Document) -> str:
    if metric.dry_run:
        return "dry run"
    asked = metric.name in verdict["asked"]
    return ("speaks for it" if found["speaks"] else "awaited") if asked else "guard"


def _tally(tally: Document, threshold: Threshold) -> str:
    words = [f"{tally['good']} of {threshold.count} good"]
    words += [f"{tally['bad']} bad ({threshold.failure_limit} may be)"] if tally["bad"] else []
    words += [f"{tally['unsure']} without a value"] if tally["unsure"] else []
    return ", ".join(words)


def _counts(sum_: list[int], rate: list[float] | None, metric: Metric) -> str:
    events, trials = sum_
    of = " labels" if metric.kind in LABELLED else ""
    between = f" ({percent(rate[0])} to {percent(rate[1])})" if rate and trials else ""
    return f"{events:,} of {trials:,}{of}{between}"


def percent(share: float) -> str:
    """Write a share as people do, to two digits."""
    return f"{100 * share:.2g}%" if share < 0.995 else f"{100 * share:.3g}%"


def number(log10: float) -> str:
    """Write a number of which the decimal logarithm is known, however large."""
    if -2 < log10 < 3:
        return f"{10**log10:.3g}"
    if 3 <= log10 < 4:
        return f"{10**log10:,.0f}"
    if log10 <= -2:
        return "< 0.01"
    exponent = math.floor(log10)
    return f"{10 ** (log10 - exponent):.1f}e{exponent}"


def outlook(said: Document) -> list[str]:
    """Write what a rollout would do, and what it needs."""
    title = f"{said['name']}: version {said['candidate']} of {said['model']}"
    lines = [plain(title)]
    for step in said["steps"]:
        lines.append(plain(f"    {step['step']}"))
        rows = [_need(each) for each in step["needs"]]
        if rows:
            lines += aligned([NEEDS, *rows], "        ")
    worse = percent(said["alpha"])
    back = "is rolled back" if said["abort"] == "rollback" else "stays where it is, frozen,"
    lines += [
        f"  A good candidate {back} with a probability of {worse} at most, however often one looks.",
        f"  One that is as bad as `ruleOut` says is promoted with {percent(said['beta'])} at most.",
        "  Numbers are what half of rollouts need, of all that the model gets; labels, of those that come.",
        f"  They assume that {percent(said['base'])} of the stable version's go wrong: --base RATE",
    ]
    return lines


def _need(each: Document) -> tuple[str, ...]:
    if each["of"] == "intervals":
        many = each["clears"]
        return each["metric"], f"{many} good interval{'s' * (many > 1)}", "-", "-"
    clears = _many(each["clears"], each["of"]) if each["awaited"] else "(a guard)"
    rates = f"{percent(each['base'])}, {percent(each['bad'])}"
    return each["metric"], clears, _many(each["finds"], each["of"]), rates


def _many(count: int | None, of: str) -> str:
    return "not in sight" if count is None else f"{count:,} {of}"
