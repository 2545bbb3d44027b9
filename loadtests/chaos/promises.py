"""Did a gateway keep its promises while something was broken? One line for each that it did not keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from loadtests.chaos.trial import Trial
from loadtests.register import Kind

WHOLE_S_MAX = 10.0
SHOWN_MAX = 3
DECISIVE_MIN = 100
"""Of fewer answers that only one version could have given nothing follows about staleness."""

Checker = Callable[[Trial], str]
"""Says how the promise was broken; nothing if it was kept."""


def nothing_acknowledged_is_lost(trial: Trial) -> str:
    """Hold the receipts against the journal."""
    if trial.chain:
        return trial.chain
    shown = "; ".join(trial.lost[:SHOWN_MAX])
    return f"{len(trial.lost)} of {len(trial.receipts)} receipts: {shown}" if trial.lost else ""


def no_stale_answer(trial: Trial) -> str:
    """Hold the answers against what was confirmed before they were asked for."""
    if trial.stale:
        return f"{trial.stale} answers, as {trial.verdict.shown[Kind.STALE][0]}"
    if trial.verdict.decisive < DECISIVE_MIN:
        return f"not shown: only {trial.verdict.decisive} answers could have been stale"
    return ""


def no_mixed_answer(trial: Trial) -> str:
    """Hold each answer against its own request."""
    return f"{trial.mixed} answers were another request's, or another version's" if trial.mixed else ""


def only_what_was_in_flight_fails(trial: Trial) -> str:
    """Hold the failures against the connections of what was killed."""
    if not trial.unexcused:
        return ""
    causes = Counter(f"{each.fate.name.lower()} {each.status or ''}".strip() for each in trial.unexcused)
    told = ", ".join(f"{count} {cause}" for cause, count in causes.most_common())
    first_s = (min(each.start_ns for each in trial.unexcused) - trial.began_ns) / 1e9
    last_s = (max(each.start_ns for each in trial.unexcused) - trial.began_ns) / 1e9
    return f"{told}, sent {first_s:.2f} to {last_s:.2f} s after the fault"


def answers_go_on(trial: Trial) -> str:
    """Hold the longest silence against what the fault may cost."""
    return f"{trial.gap_s:.2f} s without an answer" if trial.gap_s > trial.gap_s_max else ""


def memory_stays_within_bounds(trial: Trial) -> str:
    """Hold the high-water against what was there before."""
    grown, most = trial.memory_grown / 2**20, trial.memory_bytes_max / 2**20
    return f"it grew by {grown:.0f} MiB, of at most {most:.0f}" if grown > most else ""


def whole_again_in_time(trial: Trial) -> str:
    """Hold the time to full service against ten seconds."""
    if trial.whole_s is None:
        return "not within the time that it was waited for"
    return f"after {trial.whole_s:.1f} s" if trial.whole_s > WHOLE_S_MAX else ""


PROMISES: dict[str, Checker] = {
    "nothing acknowledged is lost": nothing_acknowledged_is_lost,
    "no stale version after a confirmed switch": no_stale_answer,
    "every answer is its own request's": no_mixed_answer,
    "only requests in flight on what was killed fail": only_what_was_in_flight_fails,
    "answers go on": answers_go_on,
    "memory stays within its bounds": memory_stays_within_bounds,
    "service is whole again within 10 s": whole_again_in_time,
}


def broken(trial: Trial) -> Iterator[str]:
    """Name the promises that were not kept, each in a line."""
    for promise, checker in PROMISES.items():
        if how := checker(trial):
            yield f"{trial.fault}: {promise}: {how}"
