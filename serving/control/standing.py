"""How does traffic stand: what is in force, since when and why, who has it, and is it dealt as configured?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import exp, log
from typing import Any

from router.deal import log_e_value
from router.history import History
from router.table import NoRoute, Route, known
from serving.clock import utc
from serving.control.roster import Replica

FALSE_ALARMS = 1e-4
"""The probability that a split that is dealt as configured is ever called otherwise, while it is in force."""
LOG_E_MAX = 700.0

Tallies = Mapping[str, Mapping[str, tuple[int, int]]]


class Bank:
    """The tallies of all replicas, those included that have gone since the route last changed."""

    def __init__(self) -> None:
        self._gone: dict[str, tuple[Mapping[str, int], Tallies]] = {}

    def deposit(self, replica: Replica, epochs: Mapping[str, int]) -> None:
        """Keep what a replica told last."""
        self._gone[replica.name] = (dict(replica.epochs), replica.tallies)
        for name, (of, tallies) in list(self._gone.items()):
            if not any(of.get(model) == epochs.get(model) for model in tallies):
                del self._gone[name]

    def drawn(
        self, model: str, epoch: int, replicas: Mapping[str, Replica]
    ) -> tuple[Counter[str], Counter[str]]:
        """Return how many requests were drawn at random and dealt by key, by version, in an epoch."""
        told = [(each.epochs, each.tallies) for each in replicas.values()]
        told += [each for name, each in self._gone.items() if name not in replicas]
        drawn: Counter[str] = Counter()
        held: Counter[str] = Counter()
        for epochs, tallies in told:
            if epochs.get(model) == epoch:
                for version, (by_chance, by_key) in tallies.get(model, {}).items():
                    drawn[version] += by_chance
                    held[version] += by_key
        return drawn, held


def standing(model: str, history: History, replicas: Mapping[str, Replica], bank: Bank) -> dict[str, Any]:
    """Return how a model's traffic stands, as plain values.

    Raises
    ------
    NoRoute
        If the model has no route.
    """
    table = history.table
    route = table.routes.get(model)
    if route is None:
        raise NoRoute(f"no route for {model!r}; {known('models', sorted(table.routes))}")
    drawn, held = bank.drawn(model, history.epochs[model], replicas)
    total = sum(drawn.values()) + sum(held.values())
    return {
        "route": str(route),
        "shares": [
            {
                "version": share.version,
                "weight_bp": share.weight_bp,
                "share": (drawn[share.version] + held[share.version]) / total if total else None,
            }
            for share in route.shares
        ],
        "shadows": [{"version": each.version, "share_bp": each.share_bp} for each in route.shadows],
        "pinned": route.pinned,
        "sticky": None
        if route.sticky is None
        else {"keys": list(route.sticky.keys), "salt": route.sticky.salt},
        "aliases": dict(table.aliases.get(model, {})),
        "last_good": history.last_good(model),
        "versions_ready": _ready(model, replicas.values()),
        "since": _since(model, history),
        "brakes": {each.name: each.brakes[model] for each in replicas.values() if model in each.brakes},
        "split": dealt(route, drawn, held),
    }


def dealt(route: Route, drawn: Mapping[str, int], held: Mapping[str, int]) -> dict[str, Any]:
    """Say whether requests are dealt as the route says.

    Only those drawn at random are tested: a caller who is known by a key counts as often as it asks.
    """
    log_e = log_e_value(drawn, {share.version: share.weight_bp for share in route.shares})
    verdict = "as configured" if log_e < -log(FALSE_ALARMS) else "not as configured"
    if not any(drawn.values()):
        verdict = "no draws yet"
    return {
        "e": exp(min(log_e, LOG_E_MAX)),
        "verdict": verdict,
        "counts": dict(drawn),
        "counts_by_key": dict(held),
    }


def _ready(model: str, replicas: Iterable[Replica]) -> dict[str, int]:
    ready: Counter[str] = Counter()
    for replica in replicas:
        ready.update(replica.ready.get(model, ()))
    return dict(sorted(ready.items(), key=lambda item: int(item[0])))


def _since(model: str, history: History) -> dict[str, Any]:
    entry = next(each for each in history if each.revision == history.epochs[model])
    return {
        "revision": entry.revision,
        "at": utc(entry.at_us),
        "by": entry.by,
        "why": entry.why,
        "verb": str(entry.change.verb),
    }
