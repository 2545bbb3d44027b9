"""An order holds on every replica or on none, and what holds outlives the control: over real sockets."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.change import Refused
from serving import sockets
from serving.config import Traffic as Settings
from serving.control import telling
from serving.control.control import Control
from serving.control.ordering import Ordering
from serving.control.refusals import Lost, NoModel
from serving.control.telling import Line, Said
from serving.journal.journal import Journal
from serving.orders import NO_SUCH_MODEL, ORDERS, Order, Orders, documents, parsed, read, with_order

SETTINGS = Settings(lease_s=0.5)
MODELS = ("m", "n")


class Puppet:
    """A replica that has no models and says so as it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.orders: Orders = {}
        self.fault = ""
        self.mute = False
        self.answers: dict[int, Said] = {}
        self.line: Line | None = None

    async def connect(self, folder: Path) -> None:
        door = sockets._reachable(folder / telling.DOOR)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: Line(self._hear, self._end, self._begin), door)

    def _begin(self, line: Line) -> None:
        self.line = line
        state: dict[str, Any] = {"ready": {}, "brakes": {}, "tallies": {}, "epochs": {}}
        line.say("hello", name=self.name, pid=1, revision=0, term=0, answering=True, **state)

    def _end(self, _line: Line) -> None:
        self.line = None

    def _hear(self, line: Line, said: Said) -> None:
        match said:
            case {"say": "orders", "orders": told}:
                self.orders = {model: order for model, each in told.items() if (order := parsed(each))}
            case {"say": "carry_out", "task": task, "model": model, "order": order} if not self.mute:
                if not self.fault:
                    self.orders = with_order(self.orders, model, parsed(order))
                line.say("carried_out", task=task, fault=self.fault)
            case {"say": "ordered", "number": number}:
                self.answers[number] = said


class World:
    """A control and puppets on one event loop."""

    def __init__(self, root: Path, replicas: int) -> None:
        self.folder = root / "f"
        self.folder.mkdir(mode=0o700)
        self.path = root / ORDERS
        self.journal = root / "journal.sqlite"
        self.loop = asyncio.new_event_loop()
        self.puppets = [Puppet(f"r{number}") for number in range(replicas)]
        self.start_control()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def start_control(self) -> None:
        self.control = Control(
            SETTINGS, self.folder, Journal.open(self.journal), ordering=Ordering(self.path)
        )
        self.do(self.control.start())
        for puppet in self.puppets:
            self.do(puppet.connect(self.folder))
        self.until(lambda: len(self.control.roster.replicas) == len(self.puppets))

    def until(self, holds: Any) -> None:
        async def wait() -> None:
            while not holds():
                await asyncio.sleep(0.001)

        self.do(wait())

    def order(self, model: str, order: Order) -> Any:
        return self.do(self.control.order(model, order, "a test"))

    def everywhere(self) -> list[Orders]:
        """Return what holds in the file and, once they have heard all, in each puppet."""
        self.do(asyncio.sleep(0.005))
        return [read(self.path), *(puppet.orders for puppet in self.puppets)]

    def close(self) -> None:
        self.do(self.control.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@contextmanager
def world(replicas: int = 2) -> Iterator[World]:
    root = Path(tempfile.mkdtemp(prefix="orders-"))
    root.chmod(0o700)
    made = World(root, replicas)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(root)


some_order = st.builds(Order, st.booleans(), st.sampled_from(["", "{}", '{"max_batch_size": 4}']))
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(MODELS), some_order, st.sets(st.integers(0, 1))),
        st.just("kill the control"),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=15)
@given(steps)
def test_an_order_holds_everywhere_or_nowhere_and_outlives_its_control(said):
    """Over orders that fail in some replicas, or all, and controls that are killed."""
    with world() as here:
        holds: Orders = {}
        for step in said:
            if step == "kill the control":
                here.do(here.control.close())
                here.start_control()
            else:
                model, order, failing = step
                for number, puppet in enumerate(here.puppets):
                    puppet.fault = "it does not fit" if number in failing else ""
                if failing:
                    # As replicas do, those that fail do not fail to go back.
                    with pytest.raises(Refused, match="it does not fit"):
                        here.order(model, order)
                else:
                    here.order(model, order)
                    holds = with_order(holds, model, order)
            assert here.everywhere() == [holds] * 3


def test_a_replica_that_joins_is_told_what_holds():
    with world(1) as here:
        here.order("m", Order(loaded=False))
        late = Puppet("late")
        here.do(late.connect(here.folder))
        here.until(lambda: late.orders)
        assert late.orders == {"m": Order(loaded=False)}


def test_what_a_replica_passes_on_is_answered_with_what_came_of_it():
    with world() as here:
        first = here.puppets[0]
        assert first.line is not None
        first.line.say("order", number=1, model="m", order=Order(loaded=False).document())
        here.until(lambda: 1 in first.answers)
        assert (first.answers[1]["kind"], first.answers[1]["missing"]) == ("", [])
        assert here.everywhere() == [{"m": Order(loaded=False)}] * 3
        here.puppets[1].fault = "version 2: it is broken"
        first.line.say("order", number=2, model="m", order=Order().document())
        here.until(lambda: 2 in first.answers)
        assert (first.answers[2]["kind"], first.answers[2]["error"]) == (
            "refused",
            "m: version 2: it is broken",
        )


def test_what_nobody_foresaw_is_answered_too(monkeypatch, caplog):
    """The client who ordered once waited until it gave up."""

    def broken(_path: Path, _orders: Orders) -> None:
        raise RuntimeError("nobody foresaw this")

    with world(1) as here:
        monkeypatch.setattr("serving.orders.write", broken)
        (first,) = here.puppets
        assert first.line is not None
        first.line.say("order", number=1, model="m", order=Order(loaded=False).document())
        first.line.say("order", number=2, model="m", order={})
        here.until(lambda: {1, 2} <= first.answers.keys())
        assert {first.answers[number]["kind"] for number in (1, 2)} == {"broke"}
        assert first.answers[1]["error"].startswith("m: an internal error of the control")
        assert "nobody foresaw" not in first.answers[1]["error"]
        assert caplog.text.count("event=order_broke model=m") == 2
        monkeypatch.undo()
        here.order("m", Order(loaded=False))  # Nothing is held any more.


def test_faults_that_differ_are_told_with_who_has_them():
    with world() as here:
        here.puppets[0].fault, here.puppets[1].fault = "too large", "too slow"
        with pytest.raises(Refused, match="m in r0: too large; m in r1: too slow"):
            here.order("m", Order())


def test_a_model_that_nobody_has_is_unknown():
    with world() as here:
        for puppet in here.puppets:
            puppet.fault = NO_SUCH_MODEL
        with pytest.raises(NoModel, match="m: the repository has no model of this name"):
            here.order("m", Order())


def test_a_replica_that_is_silent_is_named_and_not_waited_for():
    with world() as here:
        here.puppets[1].mute = True
        carried = here.order("m", Order(loaded=False))
        assert (carried.done, carried.missing) == (("r0",), ("r1",))
        assert carried.document()["missing"] == ["r1"]
        assert here.everywhere() == [{"m": Order(loaded=False)}] * 3  # It heard what holds, in the end.


def test_without_replicas_nothing_is_ordered():
    with world(0) as here, pytest.raises(Refused, match="no replica is there"):
        here.order("m", Order())


def test_what_cannot_be_written_down_holds_nowhere(monkeypatch):
    def full(_path: Path, _orders: Orders) -> None:
        raise OSError(28, "No space left on device")

    with world() as here:
        monkeypatch.setattr("serving.orders.write", full)
        with pytest.raises(Lost, match="No space left on device"):
            here.order("m", Order(loaded=False))
        assert here.everywhere() == [{}] * 3


def test_a_message_says_all_there_is_of_an_order():
    orders = {"m": Order(loaded=False), "n": Order(config='{"name": "n"}')}
    assert {model: parsed(each) for model, each in documents(orders).items()} == orders
    assert parsed(None) is None
