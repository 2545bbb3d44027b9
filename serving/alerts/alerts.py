"""How is everybody told who is to be, without holding up whoever makes things happen?

A thread for each receiver, so that a slow one delays nobody else, and a clerk who writes down what is posted
and looks whether a model is to be trained anew. What happens to traffic is in the journal before anybody is
told, and each receiver's position is on the disk; so nothing is lost, whoever ends when.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from router.entry import Entry
from router.table import RoutingTable
from serving.alerts import aside, settings
from serving.alerts.address import Allowed, parse_url
from serving.alerts.answer import Answer
from serving.alerts.courier import Courier, Journalled, Patience
from serving.alerts.cursor import Cursor
from serving.alerts.event import CONTENT_TYPE, Event, Kind, kinds
from serving.alerts.outbox import Outbox
from serving.alerts.retraining import Cause, Retraining, Sign
from serving.alerts.secret import secret_of
from serving.alerts.signature import HEADER, sign
from serving.config import ConfigError
from serving.private import NotPrivate, private

if TYPE_CHECKING:
    from serving.control.roster import Replica
    from serving.control.telling import Line, Said

log = logging.getLogger("turnout.alerts")

FOLDER = "alerts"
LOCK = "lock"
POSTED_MAX = 256
"""Events that wait to be written down."""
LOOK_S = 1.0
"""How often it is looked whether a model is to be trained anew."""
AGAIN_S = 5.0
"""When it is tried again what failed for a reason of this machine's."""
CLOSE_S_MAX = 1.0
AGENT = "turnout"


class Controlled(Protocol):
    """What is needed of a control."""

    @property
    def history(self) -> Journalled:
        """The entries so far."""


class Alerts:
    """Everybody who is told of what happens. A room of the control; all of it may be called from any thread.

    Parameters
    ----------
    folder : Path
        The control's private folder.
    now_us : callable
        The time, in microseconds of Unix time.

    Raises
    ------
    ConfigError
        If a secret or a file cannot be used.
    """

    def __init__(
        self,
        configured: settings.Alerts,
        retraining: settings.Retraining,
        folder: Path,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        random: Random | None = None,
    ) -> None:
        self._settings = configured
        self._now_us = now_us
        self._random = random or Random()  # noqa: S311 - to spread retries.
        try:
            self._folder = private(folder / FOLDER)
            self._secrets = [secret_of(each, configured, self._folder) for each in configured.receivers]
        except (NotPrivate, OSError) as error:
            raise ConfigError(f"repository.state: {error}") from None
        self._retraining_settings = retraining
        self._retraining: Retraining | None = None
        self._lock = threading.Lock()
        self._posted: deque[bytes] = deque()
        self._lost = self._dropped = 0
        """Events that were dropped before they could be written down: not told of yet, and told."""
        self._signs: dict[Cause, Sequence[Sign]] = {}
        self._wake = threading.Event()
        self._changed = threading.Condition()
        self._changes = 0
        self._ending = False
        self._threads: list[threading.Thread] = []
        self._couriers: list[Courier] = []
        self._outbox: Outbox | None = None
        self._journal: Journalled | None = None
        self._held: int | None = None
        """The lock, until the last thread has ended."""

    def __repr__(self) -> str:
        return f"<Alerts to {', '.join(each.name for each in self._settings.receivers) or 'nobody'}>"

    def start(self, control: Controlled) -> None:
        """Tell everybody what happens from now on, and what they have missed. It returns at once."""
        self._journal = control.history
        end = self._journal.revision
        begun = self._open(end)
        self._begin(self._clerk, "turnout-alerts", end, begun)

    async def close(self) -> None:
        """Tell nobody anything any more; whoever is next goes on where this ends."""
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        """Do what `close` does, where there is no event loop."""
        self._ending = True
        self._wake.set()
        self._stir()
        until_s = time.monotonic() + CLOSE_S_MAX
        for thread in list(self._threads):
            thread.join(max(until_s - time.monotonic(), 0.0))

    def note(self, _entry: Entry | None = None) -> None:
        """Hear that the journal has another entry. From any thread; it does not wait."""
        self._stir()

    def greet(self, line: Line) -> None:
        """Tell a replica nothing: see `serving.control.room.Room`."""

    def hear(self, replica: Replica, said: Said) -> None:
        """Take nothing from a replica."""

    def post(self, event: Event) -> None:
        """Have others told of what is in no journal. From any thread; it neither waits nor raises."""
        try:
            if not self._settings.receivers:
                return
            line = event.line(self._settings.body_bytes_max)
            with self._lock:
                if len(self._posted) >= POSTED_MAX:
                    self._lost += 1
                    return
                self._posted.append(line)
            self._wake.set()
        except Exception:  # Whoever posts has more important things to do.
            log.exception("event=not_posted")

    def see(self, cause: Cause, signs: Iterable[Sign]) -> None:
        """Hear of all signs by this cause that are there now. From any thread; it does not wait."""
        with self._lock:
            self._signs = {**self._signs, cause: tuple(signs)}

    def status(self) -> dict[str, Any]:
        """Return how everybody stands, as plain values. From any thread."""
        there = {each.name: each for each in self._couriers}
        outbox = self._outbox
        return {
            "waiting": len(outbox) if outbox is not None else 0,
            "dropped": self._lost + self._dropped + (outbox.dropped if outbox is not None else 0),
            "receivers": [self._standing(each, there.get(each.name)) for each in self._settings.receivers],
        }

    def _standing(self, receiver: settings.Receiver, courier: Courier | None) -> dict[str, Any]:
        standing = {"name": receiver.name, "at": parse_url(receiver.url).place}
        if courier is None or self._journal is None:
            return {**standing, "trouble": "not begun; perhaps another control still tells it"}
        position = courier.position
        return {
            **standing,
            "behind": self._journal.revision - position.revision,
            "delivered": position.delivered,
            "set_aside": position.set_aside,
            "tries": courier.tries,
            "trouble": courier.trouble,
        }

    def _begin(self, work: Callable[..., None], name: str, *args: object) -> None:
        thread = threading.Thread(target=self._work, args=(work, *args), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, work: Callable[..., None], *args: object) -> None:
        """Work; whoever ends last lets somebody else go on, who must not do so before."""
        try:
            work(*args)
        finally:
            with self._lock:
                self._threads.remove(threading.current_thread())
                if not self._threads and self._held is not None:
                    os.close(self._held)
                    self._held = None

    def _stir(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def _open(self, end: int) -> bool:
        """Become the one who tells, and read what the last one left; False if somebody else still does."""
        assert self._journal is not None
        try:
            if self._held is None:
                self._held = _hold(self._folder / LOCK)
            if self._held is None:
                return False
            bounds = self._settings.queue_events_max, self._settings.queue_bytes_max
            self._outbox = Outbox(self._folder, *bounds)
            couriers = [
                self._courier(receiver, secret, self._outbox)
                for receiver, secret in zip(self._settings.receivers, self._secrets, strict=True)
            ]
            for each in couriers:
                each.begin(end)
        except OSError as error:
            log.error("event=alerts_not_begun reason=%r", str(error))
            return False
        self._retraining = Retraining(self._retraining_settings, self._folder)
        for event in self._outbox.events():
            if event.kind is Kind.RETRAIN_REQUESTED:
                self._retraining.made(event)  # Perhaps that was not written down any more.
        posted = [each.position.posted for each in couriers]
        self._outbox.begin(min(posted, default=0), max(posted, default=0))
        self._couriers = couriers
        for each in couriers:
            self._begin(self._deliver, f"turnout-alerts-{each.name}", each)
        log.info("event=alerts_begun receivers=%d revision=%d", len(couriers), end)
        return True

    def _courier(self, receiver: settings.Receiver, secret: str, outbox: Outbox) -> Courier:
        # It brings http.client and ssl along, which not every start is to wait for.
        from serving.alerts.sending import Sender

        sender = Sender(parse_url(receiver.url), allowed(self._settings), self._settings.timeout_s)
        assert self._journal is not None

        def send(event: Event) -> Answer:
            body = event.body(self._settings.source, self._settings.body_bytes_max)
            signed = sign(secret, body, self._now_us() / 1e6)
            return sender.send(body, {"Content-Type": CONTENT_TYPE, "User-Agent": AGENT, HEADER: signed})

        def keep(event: Event, why: str) -> None:
            aside.keep(self._folder, receiver.name, event, why, self._now_us())

        return Courier(
            receiver.name,
            kinds(receiver.events),
            self._journal,
            outbox,
            Cursor(self._folder / f"cursor-{receiver.name}.json"),
            send,
            keep,
            Patience(self._settings.retry_s_min, self._settings.retry_s_max, self._settings.refusals_max),
            Random(self._random.random()),  # noqa: S311 - as above; each thread has its own.
        )

    def _deliver(self, courier: Courier) -> None:
        """Tell one receiver everything, as long as we are there. In its own thread."""
        while not self._ending:
            changes = self._changes
            try:
                pause_s = courier.step()
            except Exception:  # Else it would be told nothing any more.
                log.exception("event=alert_failed receiver=%s", courier.name)
                pause_s = AGAIN_S
            if pause_s == 0.0:
                self._wake.set()  # Perhaps everybody has it.
            else:
                self._wait(changes, pause_s, stirred=pause_s is None)
        courier.save()

    def _wait(self, changes: int, s_max: float | None, *, stirred: bool) -> None:
        """Wait for so long, or until we end, or until something new is there if that is of interest."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ending or (stirred and self._changes != changes), timeout=s_max
            )

    def _clerk(self, end: int, begun: bool) -> None:
        """Write down what is posted, and see who is to be trained anew. In a thread of its own."""
        while not self._ending:
            if not begun:
                self._wake.wait(LOOK_S)
                self._wake.clear()
                begun = not self._ending and self._open(end)
                continue
            self._wake.wait(LOOK_S)
            self._wake.clear()
            try:
                self._write_down()
                self._look()
            except Exception:  # Else nothing would be written down any more.
                log.exception("event=alerts_clerk_failed")
                time.sleep(LOOK_S)
        self._write_down()

    def _write_down(self) -> None:
        if self._outbox is None:
            return
        with self._lock:
            lines = list(self._posted)
            self._posted.clear()
            lost, self._lost = self._lost, 0
            self._dropped += lost
        if lost:
            log.warning("event=alerts_dropped count=%d reason='too many at once'", lost)
        if lines:
            self._outbox.add(lines)
            self._stir()
        if self._couriers:
            self._outbox.forget(min(each.position.posted for each in self._couriers))

    def _look(self) -> None:
        """Ask for training where it is due: first it is in the outbox, and then that it was asked for."""
        if self._journal is None or self._outbox is None or self._retraining is None or not self._signs:
            return
        answering = _answering(self._journal.at(self._journal.revision))
        for request in self._retraining.look(self._signs, answering, self._now_us()):
            log.warning("event=retrain_requested model=%s why=%r", request.subject, request.data["why"])
            if self._couriers:
                self._outbox.add([request.line(self._settings.body_bytes_max)])
                self._stir()
            self._retraining.made(request)


def _answering(table: RoutingTable) -> dict[str, frozenset[str]]:
    """Return by model the versions that answer requests which name none."""
    return {
        model: frozenset(
            {route.pinned} if route.pinned else {each.version for each in route.shares if each.weight_bp}
        )
        for model, route in table.routes.items()
    }


def allowed(configured: settings.Alerts) -> Allowed:
    """Return what configuration allows."""
    return Allowed(*map(frozenset, (configured.allow, configured.allow_private, configured.allow_http)))


def _hold(path: Path) -> int | None:
    """Return a lock that its holder's end ends; None if somebody else has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock
