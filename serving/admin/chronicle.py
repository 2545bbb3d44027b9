"""What was decided about traffic, when, by whom and why, in plain values?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from router.change import Remove, SetAlias, SetRoute
from router.entry import GENESIS, Entry
from router.history import History
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
    return {
        "revision": entry.revision,
        "at": utc(entry.at_us),
        "by": entry.by,
        "why": entry.why,
        "verb": str(entry.change.verb),
        "from": _concerned(before, entry),
        "to": _concerned(after, entry),
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


def _concerned(table: RoutingTable, entry: Entry) -> str:
    """Write what an entry is about as it was in `table`."""
    match entry.change:
        case SetAlias(model=model, alias=alias):
            version = table.aliases.get(model, {}).get(alias)
            return f"{alias}={version}" if version else ""
        case SetRoute(model=model) | Remove(model=model):
            return written(table.routes.get(model))


def _at(history: History, model: str, at_us: int) -> dict[str, Any]:
    table = history.at_time(at_us)
    return {"time": utc(at_us), "revision": table.revision, "route": written(table.routes.get(model))}
