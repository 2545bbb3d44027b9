"""Does everybody hear of everything, whoever is slow, ends or is killed, and does nobody wait for it?

With real receivers on loopback, and with processes that are killed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from router.change import SetRoute
from router.history import History
from router.table import everything_to
from router.verb import Verb
from serving.alerts import aside
from serving.alerts.alerts import FOLDER, POSTED_MAX, Alerts
from serving.alerts.event import USUAL
from serving.alerts.posted import of_drift, of_quality
from serving.alerts.retraining import Cause, Sign
from serving.alerts.secret import FILE as SECRET
from serving.alerts.settings import Alerts as Settings
from serving.alerts.settings import Retraining
from serving.alerts.signature import HEADER, verify
from serving.config import ConfigError, parse
from tests.alerting import START_US, Receiving, added, moved, receiving, settings

NO_RETRAINING = Retraining(enabled=False)
ROOT = Path(__file__).parents[2]


@contextmanager
def telling(
    folder: Path, history: History, configured: Settings, retraining: Retraining = NO_RETRAINING
) -> Iterator[Alerts]:
    alerts = Alerts(configured, retraining, folder, random=Random(1))
    alerts.start(SimpleNamespace(history=history))
    try:
        yield alerts
    finally:
        alerts.end()


def until(true: Callable[[], Any], s_max: float = 10.0) -> None:
    ends_s = time.monotonic() + s_max
    while not true():
        assert time.monotonic() < ends_s
        time.sleep(0.005)


def revisions(there: Receiving) -> list[int]:
    return [each["data"]["revision"] for each in there.events]


def test_what_happens_is_told_signed_and_in_order(tmp_path: Path):
    history = History()
    moved(history, 3)
    with receiving() as there, telling(tmp_path, history, settings(there.port)) as alerts:
        there.secret = (tmp_path / FOLDER / SECRET).read_text().strip()
        for _ in range(5):
            moved(history, 1)
            alerts.note()
        there.wait(5)
        assert revisions(there) == [4, 5, 6, 7, 8]
        headers, body = there.bodies[0]
        assert headers["content-type"] == "application/cloudevents+json; charset=utf-8"
        assert verify(there.secret, headers[HEADER], body, time.time())
        assert not verify(there.secret, headers[HEADER], body, time.time() + 400)


def test_whoever_wants_some_events_gets_those_alone(tmp_path: Path):
    history = History()
    moved(history, 1)
    with receiving() as there:
        configured = settings(there.port, receiver={"events": USUAL})
        with telling(tmp_path, history, configured) as alerts:
            moved(history, 2)
            added(history, SetRoute(Verb.ROLLBACK, "digits", everything_to("7")))
            moved(history, 1)
            alerts.note()
            there.wait(1)
            until(lambda: alerts.status()["receivers"][0]["behind"] == 0)
        assert there.kinds == ["rollback.completed"]


def test_what_is_posted_is_told_though_no_journal_has_it(tmp_path: Path):
    drift = {
        "at": "2026-11-25T14:05:00.000000Z",
        "event": "detected",
        "model": "m",
        "version": "7",
        "tensor": "x",
    }
    with receiving() as there, telling(tmp_path, History(), settings(there.port)) as alerts:
        alerts.post(of_drift(drift))
        alerts.post(of_quality("m", "7", START_US, {"wrong": 0.2}))
        there.wait(2)
        assert there.kinds == ["drift.detected", "quality.degraded"]
        assert there.events[0]["data"] == drift
        until(lambda: alerts.status()["waiting"] == 0)


def test_a_control_that_starts_again_goes_on_where_the_last_one_was(tmp_path: Path):
    history = History()
    moved(history, 2)
    with receiving(lambda _event: 503) as there, telling(tmp_path, history, settings(there.port)) as alerts:
        moved(history, 3)
        alerts.note()
        alerts.post(of_quality("m", "7", START_US, {}))
        until(lambda: there.bodies and alerts.status()["waiting"] == 1)
        port = there.port
    moved(history, 2)  # While nobody tells.
    with receiving(port=port) as there, telling(tmp_path, history, settings(port)):
        there.wait(6)
        assert [each["data"].get("revision") for each in there.events] == [None, 3, 4, 5, 6, 7]


def test_two_controls_do_not_tell_at_once(tmp_path: Path):
    """While a control is replaced the old one may still be there for a moment."""
    history = History()
    with receiving() as there:
        with telling(tmp_path, history, settings(there.port)):
            second = Alerts(settings(there.port), NO_RETRAINING, tmp_path)
            second.start(SimpleNamespace(history=history))
            assert "another control" in second.status()["receivers"][0]["trouble"]
            moved(history, 1)
            time.sleep(0.05)
            assert there.events == []
        there.wait(1)
        second.end()


def test_a_receiver_that_hangs_takes_bounded_memory_and_holds_up_nobody_else(tmp_path: Path, caplog):
    caplog.set_level(logging.WARNING)
    hangs = socket.create_server(("127.0.0.1", 0))  # Accepts in the kernel, and never answers.
    with hangs, receiving() as there:
        port = hangs.getsockname()[1]
        places = [f"127.0.0.1:{each}" for each in (port, there.port)]
        configured = Settings(
            receivers=[
                {"name": name, "url": f"http://{place}/x"} for name, place in zip("ab", places, strict=True)
            ],
            allow=places,
            timeout_s=0.5,
            queue_events_max=20,
        )
        with telling(tmp_path, History(), configured) as alerts:
            began_s = time.monotonic()
            for number in range(100):
                alerts.post(of_quality("m", "7", START_US + number, {"words": "x" * 10_000}))
            assert time.monotonic() - began_s < 20  # Each would wait for half a second.
            there.wait(20)
            until(lambda: alerts.status()["dropped"] >= 80)
            status = alerts.status()
            assert status["waiting"] <= 20
            until(lambda: alerts.status()["receivers"][0]["trouble"] == "no answer within 0.5 s")
            assert (tmp_path / FOLDER / "outbox.jsonl").stat().st_size < 20 << 20
            assert "event=alerts_dropped" in caplog.text
            alerts.post(of_quality("m", "7", START_US + 999, {"n": 999}))
            until(lambda: there.events[-1]["data"]["evidence"].get("n") == 999)
            assert there.events[-1]["data"]["dropped_so_far"] >= 79


def test_what_is_posted_faster_than_it_is_written_down_is_dropped_and_counted(tmp_path: Path):
    alerts = Alerts(settings(1), NO_RETRAINING, tmp_path)  # Nobody writes: it has not started.
    for number in range(POSTED_MAX + 7):
        alerts.post(of_quality("m", "7", START_US + number, {}))
    assert alerts.status()["dropped"] == 7


def test_whoever_makes_things_happen_neither_waits_nor_fails(tmp_path: Path):
    history = History()
    slow = receiving(lambda _event: time.sleep(0.2) or 204)
    with slow as there, telling(tmp_path, history, settings(there.port)) as alerts:
        took = []
        for _ in range(50):
            moved(history, 1)
            began_s = time.perf_counter()
            alerts.note()
            alerts.post(of_quality("m", "7", START_US, {"not": object(), "x": {1: float("inf")}}))
            took.append(time.perf_counter() - began_s)
        assert sorted(took)[40] < 0.005
        alerts.post(None)


def test_an_event_that_is_not_wanted_is_kept_to_look_at(tmp_path: Path):
    history = History()
    with receiving(lambda event: 422 if event["data"]["revision"] == 2 else 204) as there:
        with telling(tmp_path, history, settings(there.port, refusals_max=3)) as alerts:
            moved(history, 3)
            alerts.note()
            there.wait(2)
        assert revisions(there) == [1, 3]
        assert [json.loads(body)["data"]["revision"] for _, body in there.bodies] == [1, 2, 2, 2, 3]
    (line,) = (tmp_path / FOLDER / aside.FILE).read_text().splitlines()
    assert json.loads(line)["receiver"] == "pager"
    assert json.loads(line)["event"]["data"]["revision"] == 2


def test_training_is_asked_for_once_and_again_only_after_a_while(tmp_path: Path):
    history = History()
    added(history, SetRoute(Verb.ADOPT, "m", everything_to("7")))
    configured = Retraining(after_s=0, cool_down_s=3600)
    for _ in range(2):
        with receiving() as there, telling(tmp_path, history, settings(there.port), configured) as alerts:
            alerts.see(Cause.DRIFT, [Sign(Cause.DRIFT, "m", "7", "x", {"psi_max": 0.4})])
            until(lambda: not alerts._wake.is_set())
            time.sleep(1.3)
            kinds = there.kinds
        assert kinds == (["retrain.requested"] if _ == 0 else [])


def test_the_control_s_loop_is_not_held_up_when_it_ends(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        history = History()
        alerts = Alerts(settings(hangs.getsockname()[1]), NO_RETRAINING, tmp_path)
        alerts.start(SimpleNamespace(history=history))
        moved(history, 1)
        alerts.note()
        time.sleep(0.1)
        began_s = time.monotonic()
        asyncio.run(alerts.close())
        assert time.monotonic() - began_s < 4  # Of the 5 s that the receiver may take.


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.alerting", *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes) as it:
        try:
            assert it.stdout.readline() == "ready\n"
            yield it
        finally:
            it.kill()


def a_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


def taken(file: Path) -> list[int]:
    return [json.loads(line)["revision"] for line in file.read_text().splitlines()] if file.exists() else []


def test_a_receiver_that_is_killed_again_and_again_has_each_event_once_and_in_order(tmp_path: Path):
    history, port, file = History(), a_port(), tmp_path / "taken"
    secret = tmp_path / FOLDER / SECRET
    with telling(tmp_path, history, settings(port)) as alerts:
        moved(history, 120)
        alerts.note()
        for goal in (1, 30, 60):
            with process("receive", port, file, secret) as it:
                until(lambda goal=goal: len(taken(file)) >= goal)
                it.send_signal(signal.SIGKILL)
                it.wait()
        with process("receive", port, file, secret):
            until(lambda: len(taken(file)) == 120)
    assert taken(file) == list(range(1, 121))


def test_a_control_that_is_killed_again_and_again_loses_nothing_that_it_journalled(tmp_path: Path):
    from serving.journal.journal import Journal

    with receiving() as there:
        # The first start begins at the end: of nothing.
        for kill_at in (25, 50, 75):
            with process("send", tmp_path, there.port, 60) as it:
                until(lambda it=it, kill_at=kill_at: int(it.stdout.readline() or 0) >= kill_at)
                it.send_signal(signal.SIGKILL)
                it.wait()
        journal = Journal.open(tmp_path / "journal.sqlite")
        history = History(journal.entries)
        journal.close()
        with telling(tmp_path, history, settings(there.port)) as alerts:
            until(lambda: alerts.status()["receivers"][0].get("behind") == 0)
            until(lambda: there.events and there.events[-1]["data"]["revision"] == history.revision)
    ids = {each["id"] for each in there.events}
    assert len(ids) == history.revision >= 75
    once = [
        revision
        for place, revision in enumerate(revisions(there))
        if revision not in revisions(there)[:place]
    ]
    assert once == list(range(1, history.revision + 1))


def mistakes(**alerts: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse({"alerts": alerts}, "turnout.toml")
    return str(caught.value)


PAGER = {"name": "pager", "url": "https://hooks.example.com/x"}


@pytest.mark.parametrize(
    ("alerts", "words"),
    [
        ({"receivers": [PAGER]}, 'alerts: receivers pager: hooks.example.com:443 is not allowed.*allow = \\["hooks.example.com:443"\\]'),
        ({"receivers": [{**PAGER, "url": "http://hooks.example.com/"}], "allow": ["hooks.example.com:80"]}, "alerts: receivers pager: http to .* is not encrypted"),
        ({"receivers": [{**PAGER, "url": "http://169.254.169.254/"}], "allow": ["169.254.169.254:80"]}, "alerts: receivers pager: .*link-local"),
        ({"receivers": [{**PAGER, "url": "ftp://x/"}]}, "alerts.receivers.0.url = .*expected https://"),
        ({"receivers": [{**PAGER, "events": ["rollouts.*"]}]}, "alerts.receivers.0.events = .*did you mean 'rollout.*'"),
        ({"receivers": [{**PAGER, "name": "The Pager"}]}, "alerts.receivers.0.name = 'The Pager'"),
        ({"receivers": [{**PAGER, "uri": "x"}]}, "alerts.receivers.0.uri: unknown setting; did you mean 'url'"),
        ({"receivers": [{"name": "pager"}]}, "alerts.receivers.0.url: Field required"),
        ({"receivers": [PAGER, PAGER], "allow": ["hooks.example.com:443"]}, "alerts: receivers: two have the same name"),
        ({"allow": ["hooks.example.com"]}, "alerts.allow = .*no HOST:PORT"),
        ({"source": "a b"}, "alerts.source = 'a b'"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(alerts, words):
    assert re.search(words, mistakes(**alerts))


def test_a_secret_that_is_not_there_open_to_others_or_too_short_is_refused(tmp_path: Path):
    file = tmp_path / "secret-file"
    for make, words in [
        (lambda: None, "alerts.secret_file = .*there is no such file; make it"),
        (lambda: file.write_text("x" * 40) and file.chmod(0o644), "alerts.secret_file: others may read"),
        (lambda: file.write_text("short") and file.chmod(0o600), "alerts.secret_file = .*32 or more visible"),
    ]:
        make()
        with pytest.raises(ConfigError, match=words):
            Alerts(settings(1, secret_file=file), NO_RETRAINING, tmp_path)
    file.write_text("y" * 40 + "\n")
    Alerts(settings(1, secret_file=file), NO_RETRAINING, tmp_path)
    with pytest.raises(ConfigError, match="alerts.receivers pager: secret_file = .*no such file"):
        Alerts(settings(1, receiver={"secret_file": tmp_path / "none"}), NO_RETRAINING, tmp_path)


def test_the_secret_that_is_made_is_private_and_stays(tmp_path: Path):
    Alerts(settings(1), NO_RETRAINING, tmp_path)
    path = tmp_path / FOLDER / SECRET
    made = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(made.strip()) >= 32
    Alerts(settings(1), NO_RETRAINING, tmp_path)
    assert path.read_text() == made


def test_a_gateway_that_tells_nobody_makes_no_secret(tmp_path: Path):
    with telling(tmp_path, History(), Settings()) as alerts:
        alerts.post(of_quality("m", "7", START_US, {}))
        assert alerts.status() == {"waiting": 0, "dropped": 0, "receivers": []}
    assert not (tmp_path / FOLDER / SECRET).exists()


def test_what_is_said_of_a_receiver_does_not_show_its_path(tmp_path: Path, caplog):
    caplog.set_level(logging.DEBUG)
    configured = settings(
        a_port(), receiver={"url": "http://127.0.0.1:9/services/T0/HIDDEN"}, allow=["127.0.0.1:9"]
    )
    history = History()
    with telling(tmp_path, history, configured) as alerts:
        moved(history, 1)
        alerts.note()
        until(lambda: alerts.status()["receivers"][0]["tries"] >= 2)
        assert "HIDDEN" not in json.dumps(alerts.status()) + caplog.text + repr(alerts)
