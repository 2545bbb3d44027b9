"""When a lane may take its next batch: asked again and again, it hears what it would hear anew."""

from __future__ import annotations

from pathlib import Path
from time import monotonic_ns
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.gpubench.simulated import SimulatedAccelerator
from serving.gpu import session as module
from serving.gpu.owner import Owner
from serving.gpu.pace import Ticket
from serving.gpu.session import DeviceSession
from serving.gpu.times import Times
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.waiting import Waiting
from serving.wire import DATATYPES, Call, InferRequest, TensorSpec

MS = 1_000_000
ROWS_MAX = 8
FP32 = DATATYPES["FP32"]


def made(run_ns: int) -> DeviceSession:
    inputs, outputs = TensorSpec("x", FP32, (-1, 2)), TensorSpec("y", FP32, (-1, 2))
    artifact, config = Artifact("m", 1, "d", Path("m"), 1), ModelConfig("m", rows_max=ROWS_MAX)
    spec = ModelSpec(artifact, config, (inputs,), (outputs,), ROWS_MAX)
    device = SimulatedAccelerator(lambda _rows: run_ns, 1e12, lambda inputs: [inputs["x"]], spec)
    plain: Any = None
    session = DeviceSession(device, plain, Owner("test-device"))
    session.tune(Times({1: run_ns, ROWS_MAX: 2 * run_ns}, {}))
    return session


def request() -> InferRequest:
    came = InferRequest(Call(()), [], None)  # type: ignore[arg-type]
    came.layout = SimpleNamespace(rows=1, key="k")  # type: ignore[assignment]
    return came


@given(st.data(), st.integers(1, 20 * MS))
def test_what_a_lane_was_told_is_what_it_would_be_told_again(data: st.DataObject, run_ns: int) -> None:
    session, waiting = made(run_ns), Waiting(None, ROWS_MAX, 1000)
    with pytest.MonkeyPatch.context() as patched:
        steps(data, session, waiting, run_ns, patched)
    session.close()


def steps(
    data: st.DataObject, session: DeviceSession, waiting: Waiting, run_ns: int, patched: pytest.MonkeyPatch
) -> None:
    turns = session.turns(waiting)
    queued: list[Ticket] = []
    launched: list[Ticket] = []
    now_ns = 1
    for _ in range(data.draw(st.integers(1, 30))):
        now_ns += data.draw(st.integers(0, 2 * run_ns))
        patched.setattr(module, "monotonic_ns", lambda now_ns=now_ns: now_ns)
        match data.draw(st.sampled_from(["come", "launch", "end"])):
            case "launch" if queued:
                session._launched(queued[0])
                launched.append(queued.pop(0))
            case "end" if launched:
                session._ended(launched.pop(0), learn=True)
            case _:
                for _ in range(data.draw(st.integers(1, ROWS_MAX))):
                    waiting.offer(request())
        if turns.waits(now_ns):
            assert session.pace.when_ns(now_ns, full=waiting.fills(ROWS_MAX)) > now_ns
        elif requests := turns.take(now_ns):
            queued.append(session._tickets.pop(id(requests)))


def test_a_lane_is_told_anew_when_a_batch_has_ended() -> None:
    session, waiting = made(100_000 * MS), Waiting(None, ROWS_MAX, 1000)
    turns, now_ns = session.turns(waiting), monotonic_ns()
    waiting.offer(request())
    ticket = session._tickets.pop(id(turns.take(now_ns)))
    session._launched(ticket)
    waiting.offer(request())
    assert not turns.take(now_ns)
    assert turns.waits(now_ns) and turns.wake_ns(now_ns, free=True) > now_ns + 90_000 * MS
    session._ended(ticket, learn=True)
    assert not turns.waits(now_ns)
    assert len(turns.take(monotonic_ns())) == 1
    session.close()
