"""How is traffic split back and forth while things break, so that staleness and losses can be seen?"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from loadtests.chaos.models import REGISTER
from loadtests.register import Switch

ANSWER_S_MAX = 15.0
"""Then it is open whether a change was made."""
PERIOD_S = 0.4
OTHER = {1: 2, 2: 1}
VERBS = "split", "rollback"

Ask = Callable[[str, str, Any, float], tuple[int, Any]]
"""Method, path, body and how long to wait, to status and document; status 0 is no answer."""


def asker(where: str, token: Callable[[], str]) -> Ask:
    """Return what asks an admin application, each time over a new connection."""

    def ask(method: str, path: str, body: Any, s_max: float) -> tuple[int, Any]:
        line = http.client.HTTPConnection(where, timeout=s_max)
        try:
            headers = {"Authorization": f"Bearer {token()}", "Content-Type": "application/json"}
            line.request(method, path, None if body is None else json.dumps(body), headers)
            answer = line.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            return 0, {"error": repr(error)}
        finally:
            line.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, {"error": text[:200].decode("latin-1")}

    return ask


class Changes:
    """A thread that gives all traffic to version 1, to 2, to 1, … with a receipt for each change.

    Every change names the revision that it is based on, so that one of which no answer came cannot be made
    after a later one. The verbs take turns.
    """

    def __init__(self, ask: Ask, name: str, verbs: Sequence[str] = VERBS) -> None:
        self._ask = ask
        self._verbs = verbs
        self._name = name
        self.switches: list[Switch] = []
        self.receipts: list[dict[str, Any]] = []
        self.errors: list[str] = []
        """What was said instead of a receipt."""
        self._over = threading.Event()
        self._free = threading.Lock()
        self._thread = threading.Thread(target=self._go_on, name="chaos-changes", daemon=True)

    def start(self) -> None:
        """Make the first change, and go on."""
        revision, before = self._standing()
        self._change(0, revision, before)
        self._thread.start()

    def stop(self) -> None:
        """Make no further change."""
        self._over.set()
        self._thread.join(2 * ANSWER_S_MAX)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make no change until the block ends; one that is under way is finished first."""
        with self._free:
            yield

    def confirmed_since(self, ns: int) -> int | None:
        """Return when the first change was confirmed of those that were submitted after a moment."""
        for switch in tuple(self.switches):
            if switch.submitted_ns > ns and switch.certain:
                return switch.acknowledged_ns
        return None

    def _go_on(self) -> None:
        number = 1
        while not self._over.wait(PERIOD_S):
            with self._free:
                revision, before = self._standing()
                if before:
                    self._change(number, revision, before)
                    number += 1

    def _standing(self) -> tuple[int, int]:
        """Return the revision, and the version that has the traffic; zeros if nobody says so."""
        status, document = self._ask("GET", "/v2/traffic", None, 2.0)
        if status != 200:
            return 0, 0
        shares = document["models"][REGISTER]["shares"]
        live = max(shares, key=lambda share: int(share["weight_bp"]))
        return int(document["revision"]), int(live["version"])

    def _change(self, number: int, revision: int, before: int) -> None:
        after = OTHER.get(before, 1)
        verb = self._verbs[number % len(self._verbs)]
        what = {"weights": {str(after): "100%"}} if verb == "split" else {"to": str(after)}
        body = {**what, "why": f"{self._name} {number}", "by": "chaos", "if_revision": revision}
        submitted_ns = time.monotonic_ns()
        status, said = self._ask("POST", f"/v2/models/{REGISTER}/traffic/{verb}", body, ANSWER_S_MAX)
        answered_ns = time.monotonic_ns()
        if status == 200:
            self.receipts.append(said)
            confirmed = bool(said["confirmed"])
            self.switches.append(Switch(submitted_ns, answered_ns, before, after, confirmed=confirmed))
            return
        self.errors.append(f"{status}: {str(said.get('error', said))[:160]}")
        if not 400 <= status < 500:  # Whether it was made is open; what is refused was not.
            self.switches.append(Switch(submitted_ns, None, before, after, confirmed=False))
