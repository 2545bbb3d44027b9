"""A control for tests that decides for real and has nobody to tell; and its admin application on a real port."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

from router.change import Refused, is_idle
from router.entry import Entry
from router.history import History
from router.intent import Adopt, Intent, decide, undo
from serving import access
from serving.admin.application import application
from serving.control.ordering import Carried
from serving.control.receipt import Receipt
from serving.control.refusals import Lost, NoModel, Stale
from serving.control.roster import Replica
from serving.control.standing import Bank, standing
from serving.orders import Order
from serving.sockets import bound_at, listen

TOKEN = "a-token-of-forty-letters-that-is-no-secret"
BEGAN_US = 1_795_615_500_000_000  # 2026-11-25T14:05:00Z


class Deciding:
    """A control without replicas but those that it is told to have."""

    def __init__(self, **models: str) -> None:
        self.history = History()
        self.replica_names: tuple[str, ...] = ("r1", "r2")
        self.missing: tuple[str, ...] = ()
        self.lost = ""
        self.broken = False
        self.asked: list[tuple[Intent, dict[str, Any]]] = []
        self.ordered: list[tuple[str, Order, str]] = []
        for model, version in models.items():
            self._append(Adopt(model, version), "turnout", "the first version that was found")

    def _append(self, intent: Intent, by: str, why: str) -> None:
        self.history.add(self._entry(intent, by, why))

    def _entry(self, intent: Intent, by: str, why: str) -> Entry:
        revision = self.history.revision + 1
        at_us = BEGAN_US + 60_000_000 * revision
        return Entry(revision, 1, at_us, by, why, decide(self.history, intent), self.history.last_hash)

    async def submit(
        self,
        intent: Intent,
        by: str,
        why: str,
        *,
        if_revision: int | None = None,
        dry_run: bool = False,
        atomic: bool = False,
    ) -> Receipt:
        self.asked.append((intent, {"if_revision": if_revision, "dry_run": dry_run, "atomic": atomic}))
        if self.broken:
            raise RuntimeError("something in /private/place broke")
        if self.lost:
            raise Lost(self.lost)
        if if_revision is not None and if_revision != self.history.revision:
            raise Stale(f"revision {self.history.revision} is in force, not {if_revision}")
        entry = self._entry(intent, by, why)
        idle = is_idle(self.history.table, entry.change)
        back = "" if idle else undo(self.history.table, entry.change)
        if not (idle or dry_run):
            self.history.add(entry)
        return Receipt(
            self.history.revision if idle else entry.revision,
            entry.change,
            by,
            why,
            entry.at_us,
            unchanged=idle,
            dry_run=dry_run,
            acknowledged=tuple(name for name in self.replica_names if name not in self.missing),
            missing=self.missing,
            ms=1.25,
            steps_ms={"journal": 1.0},
            undo=back,
        )

    async def order(self, model: str, order: Order, by: str) -> Carried:
        self.ordered.append((model, order, by))
        if self.lost:
            raise Lost(self.lost)
        if model == "nobody":
            raise NoModel(f"{model}: the repository has no model of this name")
        if model == "broken":
            raise Refused(f"{model}: version 1: it is broken")
        done = tuple(name for name in self.replica_names if name not in self.missing)
        return Carried(model, order, done, self.missing, 1.25)

    def _replicas(self) -> dict[str, Replica]:
        return {
            name: Replica(None, name, 100 + number, self.history.revision, ready={"digits": ["7", "8", "9"]})  # type: ignore[arg-type]
            for number, name in enumerate(self.replica_names)
        }

    def status(self, model: str = "") -> dict[str, Any]:
        replicas = self._replicas()
        told = [each.document() for each in replicas.values()]
        if model:
            return standing(model, self.history, replicas, Bank()) | {"replicas": told}
        models = {each: standing(each, self.history, replicas, Bank()) for each in self.history.table.routes}
        return {
            "revision": self.history.revision,
            "term": 1,
            "lost_control": "serve",
            "models": models,
            "replicas": told,
        }


class Administered:
    """The admin application of a control on a free port of loopback, until the `with` ends."""

    def __init__(self, control: Deciding, token: str = TOKEN, **options: Any) -> None:
        self.control = control
        self.token = token
        self._socket = listen("127.0.0.1:0")
        self.at = bound_at(self._socket)
        self.url = f"http://{self.at}"
        self.app = application(control, token, options.pop("shadows", None), **options)
        settings = uvicorn.Config(self.app, log_level="critical", access_log=False, lifespan="off")
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, document (or bytes, where it is no JSON) and headers in lower case."""
        host, port = self.at.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        said = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            **(headers or {}),
        }
        try:
            connection.request(method, path, sent, {name: value for name, value in said.items() if value})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        heads = {name.lower(): value for name, value in answer.getheaders()}
        if content and heads.get("content-type") == "application/json":
            return answer.status, json.loads(content), heads
        return answer.status, content, heads

    def change(self, model: str, verb: str, **body: Any) -> tuple[int, Any]:
        """Return what came of a change."""
        return self.call("POST", f"/v2/models/{model}/traffic/{verb}", body)[:2]


@contextmanager
def announced(
    folder: Path, control: Deciding, repository: str = "", **options: Any
) -> Iterator[Administered]:
    """Run the admin application of `control` so that the command line finds it; `folder` is its private one."""
    with Administered(control, access.token(access.private(folder)), **options) as served:
        access.announce(folder, served.url, repository)
        try:
            yield served
        finally:
            access.withdraw(folder, served.url)
