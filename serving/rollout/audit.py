"""Does every verdict in a journal follow from the counts beside it?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from router.rollout import Reason, Word
from serving.cli_words import aligned, moment, plain
from serving.clock import utc
from serving.rollout.recompute import InvalidVerdict, recompute

DIFFERENCES_SHOWN_MAX = 5
BY_EVIDENCE = (Reason.FAILED, Reason.FROZEN)
"""Why a rollout stands as it does, where only evidence against the candidate can be the reason."""
Entry = Mapping[str, Any]


def recomputed(entries: Iterable[Entry]) -> dict[str, Any]:
    """Judge again by each verdict of a journal, as its entries are shown, and say where that differs."""
    told = [_again(entry) for entry in _judged(entries)]
    return {"ok": all(each["matches"] for each in told), "verdicts": told}


def _judged(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Return the entries with a verdict that the model's entry before had not: a rollout keeps its last."""
    last: dict[str, Any] = {}
    for entry in entries:
        change = entry["change"]
        if change["set"] != "rollout":
            continue
        verdict = change["rollout"]["verdict"]
        if verdict is not None and verdict != last.get(change["model"]):
            yield entry
        last[change["model"]] = verdict


def _again(entry: Entry) -> dict[str, Any]:
    change, rollout = entry["change"], entry["change"]["rollout"]
    verdict = rollout["verdict"]
    told: dict[str, Any] = {
        "revision": entry["revision"],
        "at": utc(entry["at_us"]),
        "model": change["model"],
        "candidate": rollout["plan"]["candidate"],
        "phase": rollout["phase"],
        "said": verdict.get("word"),
    }
    try:
        again = recompute(verdict)
    except InvalidVerdict as error:
        return told | {"word": None, "log10_e": {}, "matches": False, "differences": [str(error)]}
    differences = list(again.differences)
    if rollout["reason"] in BY_EVIDENCE and again.word is not Word.FAILED:
        differences.append(f"traffic was taken from it ({rollout['reason']}), and nothing here calls for it")
    return told | {
        "word": str(again.word),
        "log10_e": again.log10_e,
        "matches": not differences,
        "differences": differences,
    }


def words(said: Mapping[str, Any]) -> list[str]:
    """Write it for people."""
    verdicts = said["verdicts"]
    if not verdicts:
        return ["ok: there is no verdict in the journal"]
    rows = [("revision", "when", "version", "verdict", "again", "")]
    rows += [
        (
            str(each["revision"]),
            moment(each["at"]),
            f"{each['model']}@{each['candidate']}",
            str(each["said"]),
            each["word"] or "-",
            "matches" if each["matches"] else "DIFFERS",
        )
        for each in verdicts
    ]
    lines = aligned(rows)
    for each in verdicts:
        shown = each["differences"][:DIFFERENCES_SHOWN_MAX]
        lines += [plain(f"  revision {each['revision']}: {difference}") for difference in shown]
        more = len(each["differences"]) - len(shown)
        lines += [f"  revision {each['revision']}: and {more} more"] if more > 0 else []
    wrong = sum(not each["matches"] for each in verdicts)
    count = f"{len(verdicts)} verdict{'s' * (len(verdicts) > 1)}"
    verdict = (
        f"{wrong} of {count} DIFFER from what their counts say"
        if wrong
        else f"ok: {count}, each as its counts say"
    )
    return [*lines, verdict]
