"""What is changed while users ask, one thing after another, each certain before the next?"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.bench.errors import BenchError
from loadtests.locusts.asking import MODEL
from loadtests.locusts.book import Book
from loadtests.locusts.gateway import Gateway

CANARY, SHADOW = "7", "9"
KILLED = "r1"
LEAD_S = 0.3
"""How long a phase goes on before its change, so that what is in flight then was sent in it."""
WHOLE_S_MAX = 30.0
"""How long a replica that was started anew may take until the control says that it answers by the table."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What is certain now. `route`: that no answer comes by an older revision any more."""

    what: str
    revision: int
    route: bool = True


Action = Callable[[Gateway], Confirmed]


@dataclass(frozen=True, slots=True)
class Step:
    """A phase: something is done, and then users go on asking for a while."""

    name: str
    does: Action
    needs_replicas: bool = False


def steady(gateway: Gateway) -> Confirmed:
    """Leave everything as it is."""
    return Confirmed("as found", int(gateway.admin.traffic()["revision"]), route=False)


def split(gateway: Gateway) -> Confirmed:
    """Give a fifth of the traffic to another version."""
    live = _live(gateway)
    return _changed(gateway, "split", weights={live: "80%", CANARY: "20%"})


def shadow(gateway: Gateway) -> Confirmed:
    """Give copies of a fifth of the requests to a version, which is loaded for it."""
    return _changed(gateway, "shadow", shadows={SHADOW: "20%"})


def unshadow(gateway: Gateway) -> Confirmed:
    """End the shadow."""
    return _changed(gateway, "shadow", shadows={})


def rollback(gateway: Gateway) -> Confirmed:
    """Take the split back."""
    return _changed(gateway, "rollback")


def load(gateway: Gateway) -> Confirmed:
    """Load one more version than the repository says."""
    config = _data(gateway, f"/v2/models/{MODEL}/config")
    versions = sorted({*_ready(gateway), SHADOW}, key=int)
    config["version_policy"] = {"specific": {"versions": [int(each) for each in versions]}}
    confirmed = _ordered(gateway, {"parameters": {"config": json.dumps(config)}}, f"load {MODEL}@{SHADOW}")
    if SHADOW not in _ready(gateway):
        raise BenchError(f"{MODEL}@{SHADOW} was to be loaded, and is not ready")
    return confirmed


def unload(gateway: Gateway) -> Confirmed:
    """Serve what the repository says again, so that the other version is unloaded."""
    return _ordered(gateway, {}, f"unload {MODEL}@{SHADOW}")


def kill(gateway: Gateway) -> Confirmed:
    """Kill a replica, start it anew, and wait until it answers as the other does."""
    assert gateway.replicas is not None, "asked for only where there are some"
    before = gateway.replicas.kill(KILLED)
    after = gateway.replicas.start(KILLED)
    until_s = time.monotonic() + WHOLE_S_MAX
    while not _whole(gateway, after):
        if time.monotonic() > until_s:
            raise BenchError(f"{KILLED} was not whole again in {WHOLE_S_MAX:.0f} s")
        time.sleep(0.05)
    revision = int(gateway.admin.traffic()["revision"])
    return Confirmed(f"killed {KILLED} ({before}), whole again as {after}", revision, route=False)


STEPS = (
    Step("steady", steady),
    Step("split", split),
    Step("shadow", shadow),
    Step("unshadow", unshadow),
    Step("rollback", rollback),
    Step("load", load),
    Step("unload", unload),
    Step("kill", kill, needs_replicas=True),
)


def chosen(names: Sequence[str], *, replicas: bool) -> list[Step]:
    """Return the steps of these names in the order of the names, or all that are possible.

    Raises
    ------
    BenchError
        If there is no step of a name, or replicas are needed that are not ours to kill.
    """
    steps = {each.name: each for each in STEPS}
    if unknown := [name for name in names if name not in steps]:
        raise BenchError(f"no step {unknown[0]!r}; steps: {', '.join(steps)}")
    if not replicas and any(steps[name].needs_replicas for name in names):
        raise BenchError("a replica is killed only of a gateway that the load test started")
    if names:
        return [steps[name] for name in names]
    return [each for each in STEPS if replicas or not each.needs_replicas]


def play(
    steps: Sequence[Step], gateway: Gateway, book: Book, seconds: float, told: Callable[[str], None] = print
) -> list[str]:
    """Take the steps, `seconds` for each beyond what is done; return a line for each that did not come about.

    A change that was not confirmed is one of these, and nobody is held to it.
    """
    failures = []
    for step in steps:
        book.begin(step.name)
        time.sleep(min(LEAD_S, seconds))
        asked_s = time.monotonic()
        try:
            confirmed = step.does(gateway)
            book.confirm(asked_s, confirmed.what, confirmed.revision, shares(gateway), route=confirmed.route)
            told(f"  {step.name}: {confirmed.what}, after {(time.monotonic() - asked_s) * 1e3:.0f} ms")
        except (BenchError, OSError, LookupError, ValueError) as error:
            failures.append(f"scenario, {step.name}: {error}")
            told(f"  {failures[-1]}")
        time.sleep(seconds)
    book.end()
    return failures


def shares(gateway: Gateway) -> dict[str, float]:
    """Return how the traffic is to be divided, by version."""
    return {each["version"]: each["weight_bp"] / 1e4 for each in gateway.admin.traffic(MODEL)["shares"]}


def _live(gateway: Gateway) -> str:
    configured = shares(gateway)
    return max(configured, key=lambda version: configured[version])


def _changed(gateway: Gateway, verb: str, **body: Any) -> Confirmed:
    receipt = gateway.admin.change(MODEL, verb, **body, why="a load test", by="load test")
    if not receipt["confirmed"]:
        raise BenchError(f"{verb} was not confirmed; missing: {', '.join(receipt['missing'])}")
    told = ", ".join(f"{version} at {weight}" for version, weight in body.get("shadows", {}).items())
    what = (
        (f"shadow {told}" if told else "no shadow") if verb == "shadow" else f"{verb} to {receipt['route']}"
    )
    return Confirmed(what, int(receipt["revision"]))


def _ordered(gateway: Gateway, body: dict[str, Any], what: str) -> Confirmed:
    status, said = gateway.admin.ask(
        "POST", f"/v2/repository/models/{MODEL}/load", {**body, "by": "load test"}
    )
    if status != 200:
        raise BenchError(f"{what} was answered with {status}: {said}")
    if said["missing"]:
        raise BenchError(f"{what} was not confirmed; missing: {', '.join(said['missing'])}")
    return Confirmed(what, int(gateway.admin.traffic()["revision"]), route=False)


def _ready(gateway: Gateway) -> list[str]:
    """Return the versions that every replica has ready."""
    status = gateway.admin.traffic(MODEL)
    everyone = len(status["replicas"])
    return [version for version, count in status["versions_ready"].items() if count == everyone]


def _whole(gateway: Gateway, pid: int) -> bool:
    document = gateway.admin.traffic()
    return any(
        each["pid"] == pid and each["connected"] and each["revision"] == document["revision"]
        for each in document["replicas"]
    )


def _data(gateway: Gateway, path: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://{gateway.http}{path}", timeout=10) as answer:
            return dict(json.load(answer))
    except urllib.error.URLError as error:
        raise BenchError(f"{path}: {error}") from None
