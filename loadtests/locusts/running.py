"""How does a load test come about: the gateway, the users, the scenario and the verdict?

Importing this makes the standard library cooperative, as locust needs it.
"""

# ruff: noqa: I001 - locust comes first: it patches what all others import.
from __future__ import annotations

from locust.env import Environment

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

from loadtests.bench.errors import BenchError
from loadtests.bench.machine import describe
from loadtests.locusts.asking import rows_of
from loadtests.locusts.book import Book
from loadtests.locusts.gateway import ROOT, Gateway, started
from loadtests.locusts.scenario import Step, chosen, play
from loadtests.locusts.shapes import SHAPES
from loadtests.locusts.target import Target
from loadtests.locusts.users import ANSWER_S_MAX, USERS
from loadtests.slo.promise import Slo
from loadtests.slo.reports import write
from loadtests.slo.results import Judged, judge
from loadtests.switching.admin import Admin

ERRORS_SAID_MAX = 10


def run(asked: argparse.Namespace, slo: Slo) -> int:
    """Run the scenario under load; return 0 for yes and 1 for no."""
    with gateway(asked) as found:
        steps = chosen(asked.step, replicas=found.replicas is not None)
        say(f"load test: {what(asked, steps)}")
        environment = environment_of(asked, found, steps)
        runner = environment.create_local_runner()
        runner.start_shape()
        try:
            time.sleep(asked.warm)  # So that connections are open and code is warm.
            failures = play(steps, found, environment.turnout.book, asked.seconds, say)
        finally:
            runner.quit()  # Waits for what is in flight.
        judged = judgement(asked, slo, environment, steps, failures)
    return conclude(judged, asked)


def environment_of(asked: argparse.Namespace, found: Gateway, steps: list[Step]) -> Environment:
    """Return locust's environment: who asks, how many, and whom."""
    target = Target(found.http, found.grpc, rows_of(asked.demo), Book(time.monotonic))
    ways = asked.way or [way for way in USERS if way != "grpc" or found.grpc]
    if "grpc" in ways and not found.grpc:
        raise BenchError("the gateway has no gRPC to ask; give --grpc, or leave out --way grpc")
    planned_s = asked.warm + len(steps) * (asked.seconds + 1.0)
    shape = SHAPES[asked.shape](asked.users, planned_s, linger=True)
    environment = Environment(
        user_classes=[USERS[way] for way in ways],
        shape_class=shape,
        host=f"http://{found.http}",
        stop_timeout=ANSWER_S_MAX,
    )
    environment.turnout = target
    return environment


def judgement(
    asked: argparse.Namespace, slo: Slo, environment: Environment, steps: list[Step], failures: list[str]
) -> Judged:
    """Hold what came of it against the promises; an error of a user's own is no yes either."""
    runner = environment.runner
    assert runner is not None, "it has run"
    own = [f"load, {each['count']} times: {each['msg']}" for each in runner.exceptions.values()]
    full = "; the load's core was full, and times are partly its own" if runner.cpu_warning_emitted else ""
    told = what(asked, steps) + full
    return judge(slo, environment.turnout.book.run(describe(), told, (*failures, *own)))


def conclude(judged: Judged, asked: argparse.Namespace) -> int:
    """Write the reports, and say the verdict last."""
    files = write(judged, asked.into)
    say(f"reports: {', '.join(str(each) for each in files)}")
    for each in judged.run.mistakes[:ERRORS_SAID_MAX]:
        say(f"error, {each.count} times in {each.phase}: {each.error}")
    for line in judged.broken:
        say(f"broken: {line}")
    say(judged.line)
    return 0 if judged.ok else 1


def what(asked: argparse.Namespace, steps: list[Step]) -> str:
    """Say what is done, in one line."""
    names = ", ".join(each.name for each in steps)
    broken = f", behind a proxy that is {asked.defect}" if asked.defect else ""
    return f"{asked.shape}, up to {asked.users} users, {asked.seconds:g} s a phase{broken}: {names}"


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


@contextlib.contextmanager
def gateway(asked: argparse.Namespace) -> Iterator[Gateway]:
    """Return the gateway that was named, or start one, and what is to stand in front of it."""
    with contextlib.ExitStack() as stack:
        if asked.http:
            admin = Admin(f"http://{asked.admin}", asked.token_file.read_text().strip())
            found = Gateway(asked.http, asked.grpc, admin)
        else:
            found = stack.enter_context(started(asked.demo / "models", asked.into))
        if asked.defect is not None:
            found = replace(found, http=stack.enter_context(_proxied(found.http, asked.defect)), grpc="")
        yield found


@contextlib.contextmanager
def _proxied(upstream: str, defect: str) -> Iterator[str]:
    command = [sys.executable, "-m", "loadtests.locusts.broken", upstream, str(defect)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None, "it is a pipe"
            yield proxy.stdout.readline().strip()
        finally:
            proxy.kill()
