"""What was decided about traffic, when, by whom and why, in plain values?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from router.change import SetAlias
from router.entry import GENESIS, Entry
from router.history import History
from router.rollout import Rollout
from router.table import Route, RoutingTable
from serving.clock import utc


def chronicle(history: History, model: str, at_us: int | None = None) -> dict[str, Any]:
    """Return the decisions on a model, oldest first, and what was in force at a moment, if one is named."""
    return {
        "model": model,
        "entries": [decision(history, entry) for entry in history.of(model)],
        "at": None if at_us is None else _at(history, model, at_us),
    }


def decision(history: History, entry: Entry) -> dict[str, Any]:
    """Return an entry with what was before it and what came of it."""
    before, after = (history.at(revision) for revision in (entry.revision - 1, entry.revision))
    model = entry.change.model
    rollout = before.rollouts.get(model) is not after.rollouts.get(model)
    return {
        "revision": entry.revision,
        "at": utc(entry.at_us),
        "by": entry.by,
        "why": entry.why,
        "verb": str(entry.change.verb),
        "from": _concerned(before, entry, rollout=rollout),
        "to": _concerned(after, entry, rollout=rollout),
        "hash": entry.hash,
    }


def journal(stored: Iterable[tuple[Entry, str]]) -> dict[str, Any]:
    """Return entries, whole, with the hashes that are stored with them."""
    entries = [
        entry.document() | {"previous_hash": entry.previous_hash, "hash": digest} for entry, digest in stored
    ]
    last = entries[-1] if entries else {"revision": 0, "hash": GENESIS}
    return {"revision": last["revision"], "hash": last["hash"], "entries": entries}


def written(route: Route | None) -> str:
    """Write a route with everything that distinguishes it."""
    if route is None:
        return ""
    words = [str(route)]
    if route.sticky is not None:
        words.append(f"sticky:{','.join(route.sticky.keys)}")
        words += [f"salt:{route.sticky.salt}"] if route.sticky.salt else []
    return " ".join(words)


def _concerned(table: RoutingTable, entry: Entry, *, rollout: bool) -> str:
    """Write what an entry is about as it was in `table`; of a `rollout` too, if that is another one by it."""
    model = entry.change.model
    if isinstance(entry.change, SetAlias):
        version = table.aliases.get(model, {}).get(entry.change.alias)
        return f"{entry.change.alias}={version}" if version else ""
    words = [written(table.routes.get(model))]
    if rollout and model in table.rollouts:
        words.append(_stands(table.rollouts[model]))
    return "; ".join(filter(None, words))


def _stands(rollout: Rollout) -> str:
    reason = f" ({rollout.reason})" if rollout.reason else ""
    step = f", step {rollout.step + 1} of {len(rollout.plan.steps)}" if rollout.under_way else ""
    return f"rollout {rollout.plan.name} {rollout.phase}{reason}{step}"


def _at(history: History, model: str, at_us: int) -> dict[str, Any]:
    table = history.at_time(at_us)
    return {"time": utc(at_us), "revision": table.revision, "route": written(table.routes.get(model))}
