"""Which events does an entry of the journal stand for?

Told from plain values, so that an entry of whichever release is understood as far as it can be. An entry may
stand for two events: a rollout that is aborted, and the rollback that this was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.entry import Entry
from router.intent import undo
from router.rollout import rollout_document
from router.table import RoutingTable
from router.table_document import parse_route, route_document
from serving.alerts.event import Event, Kind, event_id
from serving.clock import utc

Document = Mapping[str, Any]
UNDER_WAY = ("Progressing", "Paused")
FROZEN = "Frozen"
VERBS = {"nothing": "remove"}
"""Of changes whose documents have none, and what they set is none either."""


@dataclass(frozen=True, slots=True)
class Before:
    """How a model stood before an entry, as plain values; None is that there was no such thing."""

    route: Document | None = None
    rollout: Document | None = None
    undo: str = ""


def told(entry: Entry, before: RoutingTable) -> list[Event]:
    """Return the events of an entry, given the table before it."""
    document, model = entry.document(), entry.change.model
    route, rollout = before.routes.get(model), before.rollouts.get(model)
    stood = Before(
        None if route is None else route_document(route),
        None if rollout is None else rollout_document(rollout),
        undo(before, entry.change),
    )
    return events(document, entry.hash, stood)


def events(document: Document, digest: str, before: Before) -> list[Event]:
    """Return the events of an entry, given its document and hash, and how its model stood before it."""
    change = document["change"]
    model = change["model"]
    data = _data(document, digest, before)
    return [
        Event(kind, event_id(digest, kind), model, int(document["at_us"]), data)
        for kind in _kinds(change, int(document["revision"]), before)
    ]


def _kinds(change: Document, revision: int, before: Before) -> list[Kind]:
    if change["set"] == "rollout":
        kind = _of_rollout(change, revision, before.rollout)
        back = kind is Kind.ROLLOUT_ABORTED and change.get("route") is not None
        return [kind, Kind.ROLLBACK_COMPLETED] if back else [kind]
    kind = Kind.ROLLBACK_COMPLETED if change.get("verb") == "rollback" else Kind.TRAFFIC_CHANGED
    return [kind, Kind.ROLLOUT_SUPERSEDED] if _supersedes(change, before) else [kind]


def _of_rollout(change: Document, revision: int, before: Document | None) -> Kind:
    rollout = change["rollout"]
    match rollout["phase"], rollout.get("reason", ""):
        case "Healthy", _:
            return Kind.ROLLOUT_PROMOTED
        case "Degraded", "Superseded":
            return Kind.ROLLOUT_SUPERSEDED
        case "Degraded", _:
            return Kind.ROLLOUT_ABORTED
    if before is None or rollout.get("first") in (revision, None) or before["first"] != rollout["first"]:
        return Kind.ROLLOUT_STARTED
    if rollout["phase"] == "Paused":
        return Kind.ROLLOUT_PAUSED
    went_on = before["phase"] == "Paused" and change.get("route") is None
    return Kind.ROLLOUT_RESUMED if went_on else Kind.ROLLOUT_STEP


def _supersedes(change: Document, before: Before) -> bool:
    """Say whether somebody's change of a route ends a rollout; see `router.change.apply`."""
    rollout = before.rollout
    if rollout is None or change["set"] not in ("route", "nothing"):
        return False
    stands = rollout["phase"] in UNDER_WAY or rollout.get("reason") == FROZEN
    return stands and change.get("route") != before.route


def _data(document: Document, digest: str, before: Before) -> dict[str, Any]:
    change = document["change"]
    after = change.get("route")
    if change["set"] in ("alias", "rollout") and after is None:
        after = before.route  # It stays as it is.
    data: dict[str, Any] = {
        "model": change["model"],
        "verb": str(change.get("verb") or VERBS.get(change["set"], change["set"])),
        "revision": document["revision"],
        "hash": digest,
        "at": utc(int(document["at_us"])),
        "by": document["by"],
        "why": document["why"],
        "route": {"before": _route(before.route), "after": _route(after)},
        "undo": before.undo,
    }
    if change["set"] == "alias":
        data["alias"] = {"name": change["alias"], "version": change["version"]}
    rollout = change.get("rollout") or before.rollout
    if rollout is not None and (change["set"] == "rollout" or _supersedes(change, before)):
        data["rollout"] = {name: value for name, value in rollout.items() if name != "verdict"}
        data["verdict"] = rollout.get("verdict")
    return data


def _route(document: Document | None) -> Document | None:
    """Return a route with the words that people know it by."""
    return None if document is None else {"words": str(parse_route(document)), **document}
