"""How does a benchmark change traffic, and what does it note of each change?"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any

from loadtests.bench.errors import BenchError
from loadtests.register import Switch

ANSWER_S_MAX = 60.0
IDLE_S_MAX = 1.0
"""How long a connection is kept between requests: a server that closes one is taken for one that failed."""
BACK_S_MAX = 120.0
"""How long a control that was killed may be away."""


class RefusedError(BenchError):
    """The gateway would not switch, and nothing has changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """What came of one change: the switch as the checker wants it, and the receipt, if there was one.

    `happened` says of one without an answer what was found later; the checker does not rely on it.
    """

    switch: Switch
    receipt: dict[str, Any] = field(default_factory=dict)
    happened: bool = True

    @property
    def receipt_ms(self) -> float:
        """Return how long it took, as the receipt says."""
        return float(self.receipt["ms"])

    @property
    def client_ms(self) -> float:
        """Return how long the client waited."""
        assert self.switch.acknowledged_ns is not None, "it was answered"
        return (self.switch.acknowledged_ns - self.switch.submitted_ns) / 1e6


class Admin:
    """The admin interface of a gateway, over a connection that is kept."""

    def __init__(self, url: str, token: str) -> None:
        self._where = url.removeprefix("http://").rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None
        self._used_s = 0.0

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Return the status and the document of the answer; 0 if none came: it may still have been done."""
        if time.monotonic() - self._used_s > IDLE_S_MAX:
            self.close()
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self._where, timeout=ANSWER_S_MAX)
            sent = None if body is None else json.dumps(body)
            self._connection.request(method, path, sent, self._headers)
            answer = self._connection.getresponse()
            text = answer.read()
            self._used_s = time.monotonic()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return 0, {"error": repr(error)}
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, {"error": text[:200].decode("latin-1")}

    def change(self, model: str, verb: str, **body: Any) -> dict[str, Any]:
        """Change traffic and return the receipt; anything else is a `BenchError`."""
        told = {"why": "benchmark", "by": "benchmark", **body}
        status, document = self.ask("POST", f"/v2/models/{model}/traffic/{verb}", told)
        if status != 200:
            raise BenchError(f"{verb} of {model} was answered with {status}: {document}")
        return dict(document)

    def switch(self, model: str, before: int, after: int, *, atomic: bool = False) -> Change:
        """Roll back from one version to another, and note what the checker has to know.

        Without an answer, or with one of 5xx, it may have happened.

        Raises
        ------
        RefusedError
            If it was refused, as things stand.
        BenchError
            If it was not understood.
        """
        body = {"to": str(after), "atomic": atomic, "why": "switch", "by": "checker"}
        path = f"/v2/models/{model}/traffic/rollback"
        submitted_ns = time.monotonic_ns()
        status, receipt = self.ask("POST", path, body)
        answered_ns = time.monotonic_ns()
        if status == 409:
            raise RefusedError(f"the switch to {after} was refused: {receipt}")
        if 400 <= status < 500:
            raise BenchError(f"the switch to {after} was answered with {status}: {receipt}")
        if status != 200:
            return Change(Switch(submitted_ns, None, before, after, confirmed=False, atomic=atomic))
        switch = Switch(
            submitted_ns,
            answered_ns,
            before,
            after,
            confirmed=bool(receipt["confirmed"]),
            atomic=atomic,
            killed=bool(receipt["killed"]),
        )
        return Change(switch, receipt)

    def traffic(self, model: str = "") -> dict[str, Any]:
        """Return the state of traffic, waiting for a control that is away."""
        path = f"/v2/models/{model}/traffic" if model else "/v2/traffic"
        end_s = time.monotonic() + BACK_S_MAX
        while True:
            status, document = self.ask("GET", path)
            if status == 200:
                return dict(document)
            if time.monotonic() > end_s:
                raise BenchError(f"{path} was answered with {status}: {document}")
            time.sleep(0.02)

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None
