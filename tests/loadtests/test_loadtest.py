"""The parts of `make loadtest`: what is asked, what is booked, how many ask, and what is changed meanwhile."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import loadtest
from loadtests.bench.errors import BenchError
from loadtests.locusts.asking import (
    ASKER_PIXEL,
    LAP_PIXEL,
    Question,
    Told,
    as_json,
    questions,
    rows_of,
    told_by_http,
)
from loadtests.locusts.book import Book
from loadtests.locusts.curves import Curve, users_at
from loadtests.locusts.gateway import Gateway
from loadtests.locusts.scenario import STEPS, Confirmed, Step, chosen, play
from loadtests.slo.reading import Cell
from loadtests.switching.admin import Admin


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


class Kept(Book):
    """A book with a clock of its own."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(self.clock)

    def ask(self, told: Told, after_s: float = 0.1, ms: float = 5.0) -> None:
        """Send a request now, which is answered later."""
        sent_s = self.clock.s
        self.clock.s += after_s
        self.take("m", sent_s, ms, told)


# What is asked


def test_no_two_requests_are_alike(demo_folder):
    rows = rows_of(demo_folder)
    laps = 2 * len(rows) + 1
    asked = [*itertools.islice(questions(rows, 0), laps), *itertools.islice(questions(rows, 4095), laps)]
    assert len({each.id for each in asked}) == len({each.row.tobytes() for each in asked}) == 2 * laps


def test_the_pixels_that_tell_requests_apart_are_zero_in_all_rows(demo_folder):
    assert not rows_of(demo_folder)[:, [LAP_PIXEL, ASKER_PIXEL]].any()


def test_what_is_asked_in_json_has_the_values_of_the_row():
    question = Question("1-1", np.arange(4, dtype=np.float32)[np.newaxis])
    document = json.loads(as_json(question))
    assert document["id"] == "1-1"
    assert document["inputs"][0]["data"] == [0, 1, 2, 3] and document["inputs"][0]["shape"] == [1, 4]


# What is made of an answer

ASKED = Question("3-7", np.zeros((1, 64), np.float32))
ANSWER = {"id": "3-7", "model_version": "8"}


def told(route: str | None = "8;5;split", status: int = 200, tail: bytes = b"", **answer: Any) -> Told:
    head = json.dumps(ANSWER | answer).encode()
    return told_by_http(status, route, head + tail, str(len(head)) if tail else None, ASKED)


def test_an_answer_says_its_version_and_the_revision_of_its_route():
    assert told() == told(tail=b"\0\1") == Told("8", 5)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (told(status=500), "status 500"),
        (told(status=0), "no answer"),
        (told(id="3-8"), "asked '3-7' and was answered '3-8'"),
        (told(route="7;5;split"), "routed to '7' and answered by '8'"),
        (told(route=None), "got None"),
        (told(route="8;x;split"), "expected VERSION;REVISION;REASON"),
        (told_by_http(200, "8;5;split", b"{", None, ASKED), "not an answer in JSON"),
        (told_by_http(200, "8;5;split", b"[]", None, ASKED), "not an answer in JSON"),
    ],
)
def test_an_answer_that_is_not_right_is_an_error(answer, error):
    assert error in answer.error


# What is booked


def test_what_is_asked_before_the_first_phase_or_after_the_last_does_not_count():
    book = Kept()
    book.ask(Told("8", 1))
    book.begin("steady")
    book.ask(Told("8", 1))
    book.end()
    book.ask(Told("8", 1))
    assert {cell: each.count for cell, each in book.run("", "").readings.cells.items()} == {
        Cell("m", "8", "steady"): 1
    }


def test_a_request_belongs_to_the_phase_in_which_it_was_sent():
    book = Kept()
    book.begin("steady")
    sent_s = book.clock.s
    book.clock.s += 1
    book.begin("split")
    book.take("m", sent_s, 1000.0, Told("8", 1))
    assert list(book.run("", "").readings.cells) == [Cell("m", "8", "steady")]


def confirmed_at_3() -> Kept:
    book = Kept()
    book.begin("split")
    book.clock.s += 1
    book.confirm(book.clock.s, "split", 3, {})
    return book


@pytest.mark.parametrize(("revision", "stale"), [(2, 1), (3, 0), (4, 0), (None, 0)])
def test_only_an_answer_by_an_older_revision_to_a_request_after_the_receipt_is_stale(revision, stale):
    book = confirmed_at_3()
    book.clock.s += 0.001
    book.ask(Told("8", revision))
    assert book.run("", "").readings.cells[Cell("m", "8", "split")].stale == stale


def test_an_old_answer_to_a_request_that_was_sent_before_the_receipt_is_not_stale():
    book = confirmed_at_3()
    book.take("m", book.clock.s, 5.0, Told("8", 2))
    book.take("m", book.clock.s - 0.5, 5.0, Told("8", 2))
    assert book.run("", "").readings.cells[Cell("m", "8", "split")].stale == 0


def test_what_changes_no_route_makes_no_answer_stale():
    book = confirmed_at_3()
    book.confirm(book.clock.s, "killed", 99, {}, route=False)
    book.clock.s += 0.001
    book.ask(Told("8", 3))
    assert book.run("", "").readings.cells[Cell("m", "8", "split")].stale == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40))
def test_an_answer_is_stale_exactly_if_a_receipt_before_it_named_a_later_revision(events):
    book, latest, stale = Kept(), -1, 0
    book.begin("p")
    for is_change, revision in events:
        book.clock.s += 0.01
        if is_change:
            book.confirm(book.clock.s, "", revision, {})
            latest = max(latest, revision)
        else:
            book.ask(Told("8", revision))
            stale += revision < latest
    assert sum(each.stale for each in book.run("", "").readings.cells.values()) == stale


def test_an_error_is_counted_and_its_time_is_not():
    book = Kept()
    book.begin("p")
    book.ask(Told(error="status 500"))
    book.ask(Told("8", 1))
    run = book.run("", "")
    assert run.readings.cells[Cell("m", "", "p")].errors == 1
    assert run.readings.cells[Cell("m", "", "p")].right == 0
    assert [(each.version, each.count, each.errors, each.p50_ms is None) for each in run.series] == [
        ("", 1, 1, True),
        ("8", 1, 0, False),
    ]


def test_phases_and_changes_are_in_seconds_from_the_beginning():
    run = confirmed_at_3().run("", "")
    assert [(each.name, each.began_s, each.ended_s) for each in run.phases] == [("split", 0, 1)]
    assert [(each.at_s, each.phase) for each in run.changes] == [(1, "split")]


# How many ask


@given(st.sampled_from(Curve), st.floats(-1, 2), st.integers(1, 500))
def test_there_is_always_somebody_and_never_more_than_the_most(curve, part, users_max):
    assert 1 <= users_at(curve, part, users_max) <= users_max


@pytest.mark.parametrize("curve", Curve)
def test_every_curve_comes_to_the_most(curve):
    assert max(users_at(curve, each / 1000, 100) for each in range(1001)) >= 99


def test_curves_are_what_they_are_called():
    def at(curve: Curve, *parts: float) -> list[int]:
        return [users_at(curve, each, 100) for each in parts]

    assert at(Curve.STEADY, 0, 0.5, 1) == [100, 100, 100]
    assert at(Curve.RAMP, 0, 0.25, 0.5, 1) == [1, 25, 50, 100]
    assert at(Curve.SPIKE, 0.39, 0.4, 0.59, 0.6) == [20, 100, 100, 20]
    night, noon, siesta, evening = at(Curve.DIURNAL, 0, 11 / 24, 0.65, 20 / 24)
    assert night < siesta < evening < noon


def test_locust_has_a_shape_for_every_curve():
    check = (
        "from loadtests.locusts.shapes import SHAPES\n"
        "from loadtests.locusts.curves import Curve\n"
        "assert set(SHAPES) == set(Curve)\n"
        "for each in SHAPES.values():\n"
        "    shape = each(8, 10.0); assert 1 <= shape.tick()[0] <= 8, each\n"
        "    shape.start_time -= 11; assert shape.tick() is None, each\n"
        "    shape = each(8, 10.0, linger=True); shape.start_time -= 11; assert shape.tick(), each\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_a_process_that_is_started_while_grpc_asks_is_not_aborted_before_it_begins():
    """A replica that the scenario started anew ended so, with code -6, in one run of twenty."""
    check = (
        "from locust.env import Environment\n"
        "from loadtests.locusts import users\n"
        "import os; assert os.environ['GRPC_ENABLE_FORK_SUPPORT'] == '0'\n"
        "import gevent, grpc, subprocess\n"
        "channels = [grpc.insecure_channel('127.0.0.1:1', [('n', n)]) for n in range(8)]\n"
        "def ask(channel):\n"
        "    while True:\n"
        "        try: channel.unary_unary('/a/b')(b'', timeout=0.05)\n"
        "        except grpc.RpcError: gevent.sleep(0.001)\n"
        "asking = [gevent.spawn(ask, each) for each in channels]\n"
        "codes = {subprocess.Popen(['true']).wait() for _ in range(100)}\n"
        "assert codes == {0}, codes\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)


# What is changed


class Control:
    """A control that answers as it is told, and keeps what it was asked."""

    def __init__(self, status: int = 200, **receipt: Any) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self._answer = status, {"revision": 4, "route": "8=100%", "confirmed": True, "missing": [], **receipt}

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        self.asked.append((method, path, body))
        if method == "GET":
            shares = [{"version": "8", "weight_bp": 10000}]
            return 200, {"revision": 3, "shares": shares, "versions_ready": {"7": 0, "8": 0}, "replicas": []}
        return self._answer


def played(control: Control, *names: str) -> tuple[list[str], Kept]:
    admin = Admin("http://127.0.0.1:1", "")
    admin.ask = control.ask  # type: ignore[method-assign]
    book = Kept()
    steps = chosen(names, replicas=False)
    return play(steps, Gateway("127.0.0.1:1", "", admin), book, 0.0, lambda _line: None), book


def test_each_step_is_a_phase_with_a_confirmed_receipt():
    control = Control()
    failures, book = played(control, "steady", "split", "shadow", "unshadow", "rollback")
    run = book.run("", "")
    assert failures == []
    assert [each.name for each in run.phases] == ["steady", "split", "shadow", "unshadow", "rollback"]
    assert [each.revision for each in run.changes] == [3, 4, 4, 4, 4]
    bodies = [body for method, _, body in control.asked if method == "POST"]
    assert bodies[0]["weights"] == {"8": "80%", "7": "20%"}
    assert [each.get("shadows") for each in bodies[1:3]] == [{"9": "20%"}, {}]
    assert all(each["why"] and each["by"] == "load test" for each in bodies)


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (Control(confirmed=False, missing=["r1"]), "split was not confirmed; missing: r1"),
        (Control(409), "split of digits was answered with 409"),
        (Control(0), "answered with 0"),
    ],
)
def test_a_change_that_was_not_confirmed_is_a_failure_and_nobody_is_held_to_it(control, said):
    failures, book = played(control, "split")
    (line,) = failures
    assert line.startswith("scenario, split: ") and said in line
    assert book.run("", "").changes == ()


def test_an_order_that_a_replica_missed_is_a_failure():
    failures, _ = played(Control(missing=["r0"]), "unload")
    assert failures == ["scenario, unload: unload digits@9 was not confirmed; missing: r0"]


def test_a_replica_is_killed_only_of_a_gateway_that_was_started_for_it():
    assert "kill" not in [each.name for each in chosen([], replicas=False)]
    assert [each.name for each in chosen([], replicas=True)] == [each.name for each in STEPS]
    with pytest.raises(BenchError, match="only of a gateway that the load test started"):
        chosen(["kill"], replicas=False)


def test_a_step_that_there_is_not_is_told_with_those_that_there_are():
    with pytest.raises(BenchError, match="no step 'spilt'; steps: steady, split"):
        chosen(["spilt"], replicas=True)


def test_the_scenario_goes_on_when_a_step_fails():
    def fails(_gateway: Gateway) -> Confirmed:
        raise BenchError("no")

    def works(_gateway: Gateway) -> Confirmed:
        return Confirmed("done", 3)

    admin = Admin("http://127.0.0.1:1", "")
    admin.ask = Control().ask  # type: ignore[method-assign]
    book = Kept()
    steps = [Step("bad", fails), Step("good", works)]
    failures = play(steps, Gateway("", "", admin), book, 0.0, lambda _line: None)
    assert failures == ["scenario, bad: no"]
    assert [each.what for each in book.run("", "").changes] == ["done"]


# The command line


@pytest.mark.parametrize(
    "words",
    [
        ["--http", "127.0.0.1:1"],
        ["--seconds", "0"],
        ["--users", "0"],
        ["--warm", "-1"],
        ["--defect", "slow", "--way", "grpc"],
        ["--shape", "square"],
        ["--way", "post"],
    ],
)
def test_a_command_that_makes_no_sense_is_refused_before_anything_is_started(words, capsys):
    with pytest.raises(SystemExit) as ended:
        loadtest.main(words)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_promises_that_cannot_be_read_are_no_verdict(tmp_path, capsys):
    assert loadtest.main(["--slo", str(tmp_path / "none.toml")]) == 2
    assert "load test: could not be run:" in capsys.readouterr().err


def test_every_option_is_documented(root):
    page = (root / "docs" / "load-testing.md").read_text()
    for action in loadtest.options()._actions:
        for option in action.option_strings:
            assert option in ("-h", "--help") or f"`{option}" in page, option


def test_every_step_curve_and_defect_is_documented(root):
    page = (root / "docs" / "load-testing.md").read_text()
    from loadtests.locusts.broken import Defect

    for name in (*(each.name for each in STEPS), *Curve, *Defect):
        assert f"| `{name}` |" in page, name
