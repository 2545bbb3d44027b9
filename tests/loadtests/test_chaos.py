"""Does each checker of `make chaos` catch a gateway that is broken in just that way, and no other?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.chaos import client, models, report
from loadtests.chaos.changes import Changes
from loadtests.chaos.history import Asked, Fate, load, save
from loadtests.chaos.memory import held_bytes
from loadtests.chaos.promises import PROMISES, broken
from loadtests.chaos.shim.sitecustomize import SETTINGS
from loadtests.chaos.trial import Kept, Trial, Victim
from loadtests.register import Switch
from loadtests.switching.asking import Answer

MS = 1_000_000
S = 1000 * MS
BEGAN = 10 * S
PORT = 5000


def asked(
    at_ns: int, version: int = 1, fate: Fate = Fate.ANSWERED, took_ns: int = MS, port: int = PORT
) -> Asked:
    versions = [version] * 3 if fate in (Fate.ANSWERED, Fate.MIXED) else [0] * 3
    return Asked(at_ns, at_ns, at_ns + took_ns, fate, 200 if any(versions) else 0, *versions, port)


def change(version: int) -> dict[str, object]:
    return {"verb": "split", "to": str(version)}


def version_at(at_ns: int) -> int:
    """Version 2 from second 5 on, 1 from 12 on; between a submission and its answer nobody is asked."""
    return 2 if 5 * S <= at_ns < 12 * S else 1


SWITCHES = [Switch(5 * S - 9 * MS, 5 * S - 4 * MS, 1, 2), Switch(12 * S - 9 * MS, 12 * S - 4 * MS, 2, 1)]
RECEIPTS = [{"revision": n, "why": f"chaos {n}", "change": change(3 - n)} for n in (1, 2)]
ENTRIES = [Kept(n, f"chaos {n}", change(3 - n)) for n in (1, 2)]
GOOD = Trial(
    fault="a fault",
    how="in a test",
    requests=[asked(at, version_at(at)) for at in range(0, 20 * S, 10 * MS)],
    switches=SWITCHES,
    receipts=RECEIPTS,
    entries=ENTRIES,
    began_ns=BEGAN,
    healed_ns=BEGAN,
    whole_ns=BEGAN + 3 * S,
    gap_s_max=1.0,
    memory_bytes_max=300 << 20,
    memory_before=1 << 30,
    memory_high=(1 << 30) + (100 << 20),
)


def with_request(*more: Asked) -> Trial:
    return replace(GOOD, requests=sorted([*GOOD.requests, *more]))


def silent(from_ns: int, until_ns: int) -> Trial:
    return replace(GOOD, requests=[each for each in GOOD.requests if not from_ns <= each.start_ns < until_ns])


LOST_ON_IT = asked(BEGAN, fate=Fate.LOST, port=PORT + 1)
BROKEN = {
    "an entry is lost": (replace(GOOD, entries=ENTRIES[:1]), "nothing acknowledged is lost"),
    "an entry is another": (
        replace(GOOD, entries=[ENTRIES[0], Kept(2, "chaos 2", change(9))]),
        "nothing acknowledged is lost",
    ),
    "an entry is at another revision": (
        replace(GOOD, entries=[ENTRIES[0], Kept(3, "chaos 2", change(1))]),
        "nothing acknowledged is lost",
    ),
    "a change was made twice": (
        replace(GOOD, entries=[*ENTRIES, Kept(3, "chaos 2", change(1))]),
        "nothing acknowledged is lost",
    ),
    "the chain is broken": (
        replace(GOOD, chain="revision 2 does not follow"),
        "nothing acknowledged is lost",
    ),
    "an answer is stale": (
        with_request(asked(8 * S + MS, version=1)),
        "no stale version after a confirmed switch",
    ),
    "an answer is too early": (
        with_request(asked(3 * S + MS, version=2)),
        "no stale version after a confirmed switch",
    ),
    "nothing was asked that shows staleness": (
        replace(GOOD, requests=[each._replace(fate=Fate.MIXED) for each in GOOD.requests[:1]], gap_s_max=100),
        "no stale version after a confirmed switch",
    ),
    "an answer is another's": (
        with_request(asked(8 * S + MS, version=2, fate=Fate.MIXED)),
        "every answer is its own request's",
    ),
    "an answer is labelled as another version's": (
        with_request(asked(8 * S + MS, version=2)._replace(routed=1)),
        "every answer is its own request's",
    ),
    "a request is lost and nothing was killed": (
        with_request(LOST_ON_IT),
        "only requests in flight on what was killed fail",
    ),
    "a connection is refused": (
        with_request(asked(BEGAN, fate=Fate.REFUSED, port=0)),
        "only requests in flight on what was killed fail",
    ),
    "an answer is an error": (
        with_request(asked(BEGAN, fate=Fate.ERROR)),
        "only requests in flight on what was killed fail",
    ),
    "nobody is answered for more than a second": (silent(11 * S, 12 * S + 50 * MS), "answers go on"),
    "memory grows": (replace(GOOD, memory_high=2 << 30), "memory stays within its bounds"),
    "it takes eleven seconds": (
        replace(GOOD, whole_ns=BEGAN + 11 * S),
        "service is whole again within 10 s",
    ),
    "it never gets whole": (replace(GOOD, whole_ns=None), "service is whole again within 10 s"),
}


def test_a_gateway_that_keeps_its_promises_breaks_none() -> None:
    assert list(broken(GOOD)) == []


@pytest.mark.parametrize("what", BROKEN)
def test_a_gateway_broken_on_purpose_is_caught_by_the_promise_that_it_breaks(what: str) -> None:
    trial, promise = BROKEN[what]
    [line, *others] = [line for line in broken(trial) if promise in line]
    assert others == []
    assert line.startswith(f"a fault: {promise}: ")


def test_every_promise_has_a_gateway_that_breaks_it() -> None:
    assert {promise for _, promise in BROKEN.values()} >= set(PROMISES)


@pytest.mark.parametrize(
    "what",
    [
        "an entry is lost",
        "an answer is stale",
        "memory grows",
        "it takes eleven seconds",
        "a connection is refused",
    ],
)
def test_it_is_caught_for_nothing_else(what: str) -> None:
    trial, promise = BROKEN[what]
    assert [line.split(": ")[1] for line in broken(trial)] == [promise]


def test_silence_to_the_end_of_what_was_due_is_a_gap() -> None:
    late = [asked(at, fate=Fate.LATE) for at in range(18 * S, 20 * S, 10 * MS)]
    trial = silent(18 * S, 20 * S)
    assert replace(trial, requests=[*trial.requests, *late]).gap_s > 1.9


def test_a_gateway_that_never_answered_after_the_fault_has_a_gap_since_then() -> None:
    trial = silent(0, 20 * S)
    refused = [asked(at, fate=Fate.REFUSED, port=0) for at in range(0, 20 * S, S)]
    assert replace(trial, requests=refused).gap_s == 9.0


def test_a_receipt_for_a_change_that_was_not_confirmed_asks_nothing_of_answers() -> None:
    unconfirmed = [SWITCHES[0], replace(SWITCHES[1], confirmed=False)]
    stale = with_request(asked(13 * S + MS, version=2))
    assert stale.stale == 1
    assert replace(stale, switches=unconfirmed).stale == 0


# What is in flight.


KILLED = Victim(BEGAN, BEGAN + 5 * MS, frozenset({PORT + 1}))


def test_what_was_in_flight_on_what_was_killed_may_be_lost() -> None:
    trial = replace(with_request(LOST_ON_IT), victims=[KILLED])
    assert list(broken(trial)) == []
    assert (len(trial.failed), len(trial.unexcused)) == (1, 0)


@pytest.mark.parametrize(
    "lost",
    [
        LOST_ON_IT._replace(port=PORT),
        LOST_ON_IT._replace(start_ns=BEGAN + 100 * MS, end_ns=BEGAN + 101 * MS),
        LOST_ON_IT._replace(start_ns=BEGAN - 9 * MS, end_ns=BEGAN - MS),
        LOST_ON_IT._replace(fate=Fate.ERROR),
        LOST_ON_IT._replace(fate=Fate.REFUSED, port=0),
    ],
    ids=["on another connection", "sent later", "lost before", "answered with an error", "refused"],
)
def test_nothing_else_may(lost: Asked) -> None:
    [line] = broken(replace(with_request(lost), victims=[KILLED]))
    assert "only requests in flight on what was killed fail" in line


ALL_KILLED = replace(KILLED, ports=None)


@pytest.mark.parametrize("port", [PORT, PORT + 1])
def test_what_breaks_by_the_death_of_all_that_answer_was_in_flight_on_them(port: int) -> None:
    trial = replace(with_request(LOST_ON_IT._replace(port=port)), victims=[ALL_KILLED])
    assert list(broken(trial)) == []


@pytest.mark.parametrize(
    "failed",
    [
        LOST_ON_IT._replace(fate=Fate.LATE, end_ns=BEGAN + 10 * S),
        LOST_ON_IT._replace(end_ns=BEGAN + 2 * S),
        LOST_ON_IT._replace(start_ns=BEGAN + 100 * MS, end_ns=BEGAN + 101 * MS),
        LOST_ON_IT._replace(fate=Fate.REFUSED, port=0),
    ],
    ids=["taken by nobody", "lost later", "sent later", "refused"],
)
def test_nothing_else_was(failed: Asked) -> None:
    [line] = broken(replace(with_request(failed), victims=[ALL_KILLED]))
    assert "only requests in flight on what was killed fail" in line


# The client, its history, the shim, the report.


@given(st.lists(st.builds(asked, st.integers(0, 2**60), st.integers(0, 255), st.sampled_from(Fate))))
def test_a_history_is_read_as_it_was_written(history: list[Asked]) -> None:
    path = Path(f"/tmp/chaos-history-{os.getpid()}")
    save(path, history)
    read = list(load(path))
    path.unlink()
    assert read == history


def answer(number: int, version: int = 2, same: float | None = None) -> Answer:
    value = number % client.VALUES if same is None else same
    document = {
        "id": f"chaos-{number}",
        "model_version": str(version),
        "outputs": [{"name": "y", "data": [float(version)]}, {"name": "same", "data": [float(value)]}],
    }
    return Answer(200, f"{version};9;static", body=bytearray(json.dumps(document).encode()))


def test_the_client_reads_its_own_answer() -> None:
    assert client.read(123_456, answer(123_456)) == (Fate.ANSWERED, 2, 2, 2)


def test_the_client_knows_another_s_answer_by_its_id_and_by_its_values() -> None:
    assert client.read(7, answer(8))[0] is Fate.MIXED
    assert client.read(7, answer(7, same=8))[0] is Fate.MIXED


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"model_version": "x", "outputs": []}'])
def test_the_client_takes_what_it_cannot_read_for_an_error(body: bytes) -> None:
    assert client.read(7, Answer(200, "2;9;static", body=bytearray(body)))[0] is Fate.ERROR


def test_changes_without_an_answer_are_open_and_refused_ones_were_not_made() -> None:
    said = iter(
        [(200, receipt(1)), (0, {"error": "reset"}), (503, {"error": "no room"}), (412, {"error": "stale"})]
    )
    changes = Changes(lambda *_: next(said), "a fault")
    for number in range(4):
        changes._change(number, 7, 1)
    assert [each.certain for each in changes.switches] == [True, False, False]
    assert len(changes.receipts) == 1 and len(changes.errors) == 3


def receipt(revision: int) -> dict[str, object]:
    return {"revision": revision, "confirmed": True, "why": "a test", "change": {}}


def test_the_shim_moves_the_clock_and_slows_syncs_of_a_process_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "shim"
    file.write_bytes(SETTINGS.pack(0, 0))
    program = (
        "import os, time\n"
        "for line in iter(input, 'end'):\n"
        " b = time.monotonic(); f = os.open('f', os.O_CREAT | os.O_WRONLY); os.fsync(f); os.close(f)\n"
        " print(time.time(), time.monotonic() - b, flush=True)\n"
    )
    shim = Path(client.__file__).parent / "shim"
    environment = {**os.environ, "PYTHONPATH": str(shim), "TURNOUT_CHAOS_SHIM": str(file)}
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        seen = []
        for settings in ((0, 0), (86400, 0.3)):
            with file.open("r+b") as opened:
                opened.write(SETTINGS.pack(*settings))
            process.stdin.write("go\n")
            process.stdin.flush()
            seen.append([float(each) for each in process.stdout.readline().split()])
        process.stdin.write("end\n")
        process.stdin.flush()
    assert 86399 < seen[1][0] - seen[0][0] < 86410
    assert seen[0][1] < 0.3 <= seen[1][1]


def test_the_memory_of_a_process_is_counted_and_of_one_that_ended_is_none() -> None:
    assert held_bytes([os.getpid()]) > 10 << 20
    assert held_bytes([2**22 + 1]) == 0


def test_the_hungry_version_takes_what_it_is_asked_for_and_nothing_otherwise(tmp_path: Path) -> None:
    import numpy as np
    import onnxruntime as ort

    session = ort.InferenceSession(models.hungry().SerializeToString(), providers=["CPUExecutionProvider"])
    before = held_bytes([os.getpid()])
    assert [each.tolist() for each in session.run(None, {"x": np.full((1, 1), 99_999, np.float32)})] == [
        [[3.0]], [[99_999.0]]
    ]  # fmt: skip
    assert held_bytes([os.getpid()]) - before < 8 << 20
    session.run(None, {"x": np.full((1, 1), 2.5e7, np.float32)})
    assert held_bytes([os.getpid()]) - before > 90 << 20


def test_the_report_tells_each_broken_promise_and_the_document_says_so(tmp_path: Path) -> None:
    rows = [report.document(GOOD), report.document(BROKEN["an entry is lost"][0])]
    report.write(tmp_path / "chaos.json", "a machine", rows, {})
    made = json.loads((tmp_path / "chaos.json").read_text())
    assert not made["ok"] and len(made["broken"]) == 1
    assert report.table(rows).count("\n") == 2
    assert report.markdown(rows).splitlines()[2].startswith("| a fault | 2000 | 0 | 0 | 0.01 | 3.0 |")
