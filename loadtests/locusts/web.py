"""How does a person run the scenario from locust's web interface?

The interface starts and stops; each start plays the scenario once, and its verdict and report are at
/turnout of the same port.
"""

# ruff: noqa: I001 - locust comes first: it patches what all others import.
from __future__ import annotations

from locust.env import Environment
from locust.stats import stats_history

import argparse
import signal
import sys
import time
from dataclasses import replace
from typing import Any

import gevent
from gevent.event import Event
from gevent.greenlet import Greenlet

from loadtests.locusts.book import Book
from loadtests.locusts.curves import Curve
from loadtests.locusts.gateway import Gateway
from loadtests.locusts.running import conclude, environment_of, gateway, judgement, say
from loadtests.locusts.scenario import Step, chosen, play
from loadtests.slo.promise import Slo

LOOPBACK = "127.0.0.1"
EARLY = "scenario: ended before its last step"


class Session:
    """What happens between a start and a stop in the web interface."""

    def __init__(self, asked: argparse.Namespace, slo: Slo, found: Gateway, steps: list[Step]) -> None:
        self._asked, self._slo, self._found, self._steps = asked, slo, found, steps
        self.environment: Environment = environment_of(asked, found, steps)
        if asked.shape is Curve.STEADY:
            self.environment.shape_class = None  # Whoever starts it says how many.
        self._scenario: Greenlet | None = None
        self._failures: list[str] = []
        events = self.environment.events
        events.test_start.add_listener(self._start)
        events.test_stop.add_listener(self._stop)

    def _start(self, **_more: Any) -> None:
        self.environment.turnout = replace(self.environment.turnout, book=Book(time.monotonic))
        self._failures = [EARLY]
        self._scenario = gevent.spawn(self._play)

    def _play(self) -> None:
        time.sleep(self._asked.warm)
        book: Book = self.environment.turnout.book
        self._failures = play(self._steps, self._found, book, self._asked.seconds, say)
        self._scenario = None
        assert self.environment.runner is not None, "it has started"
        self.environment.runner.stop()

    def _stop(self, **_more: Any) -> None:
        if self._scenario is not None:
            self._scenario.kill()
        self.environment.turnout.book.end()
        conclude(
            judgement(self._asked, self._slo, self.environment, self._steps, self._failures), self._asked
        )

    def report(self) -> tuple[str, int]:
        """Return the latest report."""
        file = self._asked.into / "report.html"
        if not file.exists():
            return "no load test has ended yet; start one", 404
        return file.read_text(), 200


def serve(asked: argparse.Namespace, slo: Slo) -> int:
    """Serve locust's web interface until SIGINT or SIGTERM."""
    (asked.into / "report.html").unlink(missing_ok=True)
    del sys.argv[1:]  # Its pages read the command line, and take it for locust's.
    with gateway(asked) as found:
        session = Session(asked, slo, found, chosen(asked.step, replicas=found.replicas is not None))
        environment = session.environment
        runner = environment.create_local_runner()
        web = environment.create_web_ui(LOOPBACK, asked.ui_port, delayed_start=True)
        assert web.app is not None, "it is made with it"
        web.app.add_url_rule("/turnout", "turnout", session.report)
        web.start()
        history = gevent.spawn(stats_history, runner)
        over = Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            gevent.signal_handler(number, over.set)
        say(f"load test: http://{LOOPBACK}:{asked.ui_port}/, its verdict at /turnout; Ctrl-C ends it")
        over.wait()
        history.kill()
        runner.quit()
        web.stop()
    return 0
