"""A receiver of alerts, in this process or in one that can be killed, and a journal that they are about.

python -m tests.alerting receive PORT FILE SECRET_FILE
python -m tests.alerting send FOLDER PORT COUNT
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from router.change import Change, SetRoute
from router.entry import Entry
from router.history import History
from router.table import Route, Share
from router.verb import Verb
from serving.alerts.settings import Alerts as Settings
from serving.alerts.signature import HEADER, verify

START_US = 1_795_615_500_000_000


def split(bp: int) -> Route:
    return Route((Share("8", bp), Share("7", 10_000 - bp)))


def added(
    history: History, change: Change, at_us: int = 0, by: str = "ann", why: str = "it is time"
) -> Entry:
    """Journal a change, in memory."""
    revision = history.revision + 1
    entry = Entry(revision, 1, at_us or START_US + revision, by, why, change, history.last_hash)
    history.add(entry)
    return entry


def moved(history: History, count: int, model: str = "digits") -> None:
    """Change traffic so many times."""
    for _ in range(count):
        bp = history.revision % 9_999
        added(history, SetRoute(Verb.SPLIT, model, split(bp + 1)))


def settings(port: int, **more: Any) -> Settings:
    """A receiver on loopback that wants everything, and patience that a test has."""
    place = f"127.0.0.1:{port}"
    receiver = {"name": "pager", "url": f"http://{place}/hook", "events": ["*"], **more.pop("receiver", {})}
    quick = {"timeout_s": 2, "retry_s_min": 0.02, "retry_s_max": 0.1, "allow": [place]}
    return Settings(receivers=[receiver], **{**quick, **more})


class Receiving:
    """What arrived at a receiver. `say` returns a status, and may take its time.

    Attributes
    ----------
    events : list of dict
        What was taken, those that came twice included.
    bodies : list of (headers, bytes)
        All that arrived.
    """

    def __init__(self, say: Callable[[dict[str, Any]], int] = lambda _event: 204) -> None:
        self.say = say
        self.secret = ""
        self.events: list[dict[str, Any]] = []
        self.bodies: list[tuple[dict[str, str], bytes]] = []
        self.port = 0

    @property
    def kinds(self) -> list[str]:
        return [each["type"].removeprefix("dev.turnout.") for each in self.events]

    def wait(self, count: int, s_max: float = 10.0) -> None:
        """Wait until so many events were taken."""
        until_s = time.monotonic() + s_max
        while len(self.events) < count:
            assert time.monotonic() < until_s, f"{len(self.events)} of {count} events came: {self.kinds}"
            time.sleep(0.005)

    def take(self, headers: dict[str, str], body: bytes) -> int:
        self.bodies.append((headers, body))
        if self.secret and not verify(self.secret, headers.get(HEADER, ""), body, time.time()):
            return 401
        event = json.loads(body)
        status = self.say(event)
        if status < 300:
            self.events.append(event)
        return status


@contextmanager
def receiving(
    say: Callable[[dict[str, Any]], int] = lambda _event: 204, port: int = 0
) -> Iterator[Receiving]:
    """Receive on loopback."""
    there = Receiving(say)
    server = ThreadingHTTPServer(("127.0.0.1", port), handler(there.take))
    there.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield there
    finally:
        server.shutdown()
        server.server_close()


def handler(take: Callable[[dict[str, str], bytes], int]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = take({name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    return Handler


def receive(port: int, file: Path, secret: str) -> None:
    """Be a receiver that keeps what it takes, each event once, and may be killed at any moment."""
    known = {json.loads(line)["id"] for line in file.read_text().splitlines()} if file.exists() else set()
    lock = threading.Lock()

    def take(headers: dict[str, str], body: bytes) -> int:
        if not verify(secret, headers.get(HEADER, ""), body, time.time()):
            return 401
        event = json.loads(body)
        with lock:
            if event["id"] not in known:
                known.add(event["id"])
                with file.open("a") as out:
                    told = {name: event[name] for name in ("id", "type", "data")}
                    out.write(json.dumps({**told, "revision": event["data"].get("revision")}) + "\n")
        time.sleep(0.004)  # It may well be killed between this and its answer.
        return 204

    server = ThreadingHTTPServer(("127.0.0.1", port), handler(take))
    print("ready", flush=True)
    server.serve_forever()


def send(folder: Path, port: int, count: int) -> None:
    """Be a control that journals so many changes, one after the other, and may be killed at any moment."""
    from types import SimpleNamespace

    from serving.alerts.alerts import Alerts
    from serving.alerts.settings import Retraining
    from serving.journal.journal import Journal

    journal = Journal.open(folder / "journal.sqlite")
    term = journal.take_term(f"here:{os.getpid()}", START_US)
    history = History(journal.entries)
    alerts = Alerts(settings(port), Retraining(), folder)
    alerts.start(SimpleNamespace(history=history))
    print("ready", flush=True)
    for _ in range(count):
        revision = history.revision + 1
        change = SetRoute(Verb.SPLIT, "digits", split(revision % 9_999))
        entry = Entry(revision, term, START_US + revision, "ann", "it is time", change, history.last_hash)
        journal.append(entry)
        history.add(entry)
        alerts.note(entry)
        print(revision, flush=True)
        time.sleep(0.003)
    sys.stdin.read()


if __name__ == "__main__":
    match sys.argv[1:]:
        case "receive", port, file, secret_file:
            receive(int(port), Path(file), Path(secret_file).read_text().strip())
        case "send", folder, port, count:
            send(Path(folder), int(port), int(count))
