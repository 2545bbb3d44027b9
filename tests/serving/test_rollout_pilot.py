"""What a pilot does with what replicas tell it, second by second, without replicas: it is told what they would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from router.change import Refused
from router.intent import Adopt, Intent, Rollback, Split
from router.plan import Plan, SetWeight
from router.rollout import Phase, Reason
from router.rollout_intent import Observe
from serving.control.receipt import Receipt
from serving.control.roster import Replica
from serving.evidence.counts import Counts
from serving.ledger import Durations
from serving.rollout import pilot as pilot_module
from serving.rollout.pilot import Rollouts
from serving.shadow.report import Gatherer
from tests.controlling import Deciding
from tests.judging import FAILURE, plan_of

MODEL, CANDIDATE, STABLE = "fraud", "9", "7"
S = 1_000_000


class Roster:
    """Replicas that were told to answer so, and note what is said to them."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.tasks = count(1)
        self.replicas = {"r1": Replica(None, "r1", 100, ready={MODEL: [STABLE, CANDIDATE]})}  # type: ignore[arg-type]
        self.measured = {"durations": Durations().to_json(), "confidences": []}

    def send(self, message: bytes) -> None:
        said = orjson.loads(message)
        self.said.append(said)
        if said["say"] == "measure":
            self.replicas["r1"].tasks[said["task"]] = self.measured

    async def answered(self, *_of: Any) -> None:
        """Nobody is waited for."""

    def terms(self) -> Any:
        """The terms that were told last."""
        return next(each for each in reversed(self.said) if each["say"] == "terms")


class World(Deciding):
    """A control that decides for real, a clock, and a pilot that is called by hand."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(fraud=STABLE)
        self.roster = Roster()
        self.shadowed = Gatherer()
        self.now_us = 1_000 * S
        self.refusal = ""
        self.loading: asyncio.Event | None = None
        """What another model's steps wait for."""
        self.folder, self.loop = folder, loop
        self.pilot = self.board()

    def board(self) -> Rollouts:
        """Put a new pilot at it, as a control that starts does."""
        self.pilot = Rollouts(self.folder, now_us=lambda: self.now_us)
        self.do(lambda: self.pilot.start(self))  # type: ignore[arg-type]
        return self.pilot

    def do(self, work: Callable[[], Any]) -> Any:
        async def doing() -> Any:
            made = work()
            return await made if asyncio.iscoroutine(made) else made

        return self.loop.run_until_complete(doing())

    async def submit(self, intent: Intent, by: str, why: str, **rest: Any) -> Receipt:
        if self.refusal and isinstance(intent, Observe):
            raise Refused(self.refusal)
        if self.loading is not None and isinstance(intent, Observe) and intent.model != MODEL:
            await self.loading.wait()
        receipt = await super().submit(intent, by, why, **rest)
        self.pilot.note(list(self.history)[-1])
        return receipt

    def begin(self, plan: Plan) -> None:
        self.do(lambda: self.pilot.begin(plan, "ann", "a test"))

    def look(self, times: int = 1, s: float = 1.0) -> None:
        """Let time pass, and have the pilot look after everything."""
        for _ in range(times):
            self.now_us += int(s * S)
            self.do(self.pilot.look)

    def count(self, version: str, **counts: Any) -> None:
        """Tell what a replica counted in the epoch that is."""
        epoch = self.history.epochs[MODEL]
        told = [[MODEL, epoch, version, "split", Counts(**counts).to_json()]]
        self.pilot.hear(self.roster.replicas["r1"], {"say": "evidence", "source": "p1", "told": told})

    @property
    def rollout(self) -> Any:
        return self.history.rollouts[MODEL]

    @property
    def route(self) -> str:
        return str(self.history.table.routes[MODEL])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(pilot_module, "JUDGE_S", 3600.0)  # It is called by hand.
    tmp_path.chmod(0o700)
    loop = asyncio.new_event_loop()
    made = World(tmp_path, loop)
    yield made
    made.do(made.pilot.close)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


PLAN = plan_of(FAILURE, weights_bp=(1000,), watch_s=60)


def test_a_bad_candidate_is_taken_back_with_its_counts_in_the_journal(world: World) -> None:
    world.begin(PLAN)
    world.look()
    assert world.route == "9=10% 7=90%"
    world.count(CANDIDATE, requests=1_000, failed=200)
    world.count(STABLE, requests=9_000, failed=20)
    world.look()
    assert (world.rollout.phase, world.rollout.reason) == (Phase.DEGRADED, Reason.FAILED)
    assert world.route == "7=100%"
    entry = list(world.history)[-1]
    assert entry.by == "turnout"
    assert "200 of 1,000" in entry.why
    assert world.rollout.verdict["metrics"][0]["events"]["failure"]["candidate"] == [200, 1_000]


def test_a_good_candidate_is_promoted_and_watched_for_a_while(world: World) -> None:
    world.begin(PLAN)
    world.look()
    world.count(CANDIDATE, requests=5_000, failed=50)
    world.count(STABLE, requests=45_000, failed=900)
    world.look(3)
    assert (world.rollout.phase, world.route) == (Phase.HEALTHY, "9=100%")
    assert world.roster.terms()["versions"] == [STABLE, CANDIDATE]
    world.look(1, 61)
    assert world.roster.terms()["versions"] == []
    assert world.rollout.phase is Phase.HEALTHY


def test_a_pilot_goes_on_where_the_one_before_it_died(world: World) -> None:
    world.begin(PLAN)
    world.look()
    world.count(CANDIDATE, requests=500, failed=3)
    world.count(STABLE, requests=4_500, failed=20)
    world.look()
    before = world.do(lambda: world.pilot.status(MODEL))
    world.do(world.pilot.close)
    world.board()
    world.look()
    after = world.do(lambda: world.pilot.status(MODEL))
    assert after["now"]["metrics"] == before["now"]["metrics"]
    assert world.route == "9=10% 7=90%"
    world.count(CANDIDATE, requests=500, failed=3)  # Told again, by the same process.
    world.look()
    assert world.do(lambda: world.pilot.status(MODEL))["now"]["metrics"] == before["now"]["metrics"]


def test_a_step_that_is_refused_again_and_again_waits_for_a_person(world: World) -> None:
    world.begin(PLAN)
    world.refusal = "it cannot be loaded: fraud@9: broken"
    world.look(pilot_module.STALLED_MAX - 1)
    assert world.rollout.phase is Phase.PROGRESSING
    assert world.do(lambda: world.pilot.status(MODEL))["refused"]["why"] == world.refusal
    world.look()
    assert (world.rollout.phase, world.rollout.reason) == (Phase.PAUSED, Reason.ERROR)
    assert world.rollout.message == world.refusal


def test_what_is_normal_is_frozen_once_and_told(world: World) -> None:
    world.begin(PLAN)
    world.look()
    assert world.rollout.terms is None
    bins = [0] * len(Durations().counts)
    bins[100] = 1_000
    world.roster.measured = {
        "durations": Durations(1, tuple(bins)).to_json(),
        "confidences": [0] * 99 + [300],
    }
    world.look(1, 2)
    frozen = world.rollout.terms
    assert frozen["confidence"] == 0.99
    assert world.roster.terms()["late_ns"] == frozen["late_ns"]
    bins[500] = 1_000
    world.roster.measured = {"durations": Durations(1, tuple(bins)).to_json(), "confidences": [900]}
    world.look(2, 2)
    assert world.rollout.terms == frozen


def test_a_replica_that_connects_is_told_what_to_count(world: World) -> None:
    world.begin(PLAN)
    line = SimpleNamespace(sent=[])
    line.send = line.sent.append
    world.pilot.greet(line)  # type: ignore[arg-type]
    assert [orjson.loads(each)["versions"] for each in line.sent] == [[STABLE, CANDIDATE]]


def test_a_route_that_somebody_changes_ends_the_counting(world: World) -> None:
    world.begin(PLAN)
    world.look()
    world.do(lambda: world.submit(Split(MODEL, ((CANDIDATE, 500), (STABLE, 9_500))), "ann", "enough"))
    assert world.rollout.reason is Reason.SUPERSEDED
    world.look()
    assert world.roster.terms()["versions"] == []
    world.do(lambda: world.submit(Rollback(MODEL, STABLE), "ann", "enough"))
    assert world.route == "7=100%"


def test_a_model_that_is_being_loaded_holds_up_no_rollback_of_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot_module, "JUDGE_S", 0.05)
    world._append(Adopt("other", "7"), "turnout", "the first version that was found")
    world.begin(Plan("other", "other", "8", PLAN.steps, metrics=PLAN.metrics))
    world.begin(PLAN)
    world.loading = asyncio.Event()
    world.look(3)
    world.count(CANDIDATE, requests=1_000, failed=200)
    world.count(STABLE, requests=9_000, failed=20)
    world.look(3)
    assert world.rollout.reason is Reason.FAILED
    assert str(world.history.table.routes["other"]) == "7=100%"
    world.loading.set()
    world.look(2)
    assert str(world.history.table.routes["other"]) == "8=10% 7=90%"


def test_a_broken_judge_of_one_rollout_holds_up_no_other(world: World, monkeypatch: Any) -> None:
    world._append(Adopt("other", "7"), "turnout", "the first version that was found")
    world.begin(PLAN)
    world.begin(Plan("other", "other", "8", (SetWeight(1000), *PLAN.steps[1:]), metrics=PLAN.metrics))
    real = pilot_module.judge

    def judge(rollout: Any, *rest: Any) -> Any:
        if rollout.plan.model == MODEL:
            raise RuntimeError("broken")
        return real(rollout, *rest)

    monkeypatch.setattr(pilot_module, "judge", judge)
    world.look()
    assert world.route == "7=100%"
    assert str(world.history.table.routes["other"]) == "8=10% 7=90%"
