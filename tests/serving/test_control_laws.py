"""Laws of traffic over random lives of a control and its replicas: changes, deaths at any step, returns.

Real links over Unix sockets, a real journal, real routing; only the models are names, and a death is the
sudden end of a process's sockets and locks, as the kernel would end them.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.change import Refused, fold
from router.intent import Alias, Intent, Mirror, Pin, Promote, Rollback, Split, Stick, Unpin
from router.names import InvalidName
from router.pick import Wheel
from router.table import WHOLE_BP, InvalidTable, Route, Sticky
from serving.config import Traffic as Settings
from serving.control import link as link_module
from serving.control.control import Control
from serving.control.link import Link
from serving.journal.journal import Journal
from serving.keeping import Keeping
from serving.traffic import Traffic
from serving.ways import NOBODY
from serving.wire import Call, InferRequest

VERSIONS = tuple("123456")
REPLICAS_MAX = 3
DRAWS = 300
CALLERS = [b"caller %d" % number for number in range(60)]
SETTINGS = Settings(acknowledge_s_max=5.0, lease_s=5.0)


class Died(BaseException):
    """What ends a control in the middle of a step."""


def servable(version: str) -> Any:
    return SimpleNamespace(spec=SimpleNamespace(artifact=SimpleNamespace(digest=version)))


class Shelf:
    """A shelf that has every version at once."""

    def __init__(self, traffic: Traffic) -> None:
        self.keeping = Keeping()
        versions: Any = {"m": {version: servable(version) for version in VERSIONS}}
        self.loaded = SimpleNamespace(servables=versions)
        traffic.carry(versions)

    def keep(self, must: Mapping[str, frozenset[str]], good: Mapping[str, list[str]]) -> None:
        self.keeping = Keeping(must=must, good=good)

    async def tidy(self) -> None:
        """There is nothing to drop."""

    async def ensure(self, _model: str, versions: frozenset[str]) -> dict[str, str]:
        return dict.fromkeys(versions - set(VERSIONS), "it is not in the repository")


class World:
    """A control and replicas on one event loop, which runs while a rule does."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="laws-"))
        self.folder = self.root / "f"
        self.folder.mkdir(mode=0o700)
        (self.root / "j").mkdir(mode=0o700)
        self.loop = asyncio.new_event_loop()
        self.control: Control | None = None
        self.replicas: dict[str, Link] = {}
        self.born = 0
        self.die_at = ""

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    def start_control(self) -> None:
        journal = Journal.open(self.root / "j" / "journal.sqlite")
        self.control = Control(SETTINGS, self.folder, journal, step=self._step)
        self.do(self.control.start())

    def _step(self, name: str) -> None:
        if name == self.die_at:
            raise Died

    def kill_control(self) -> None:
        """End it as SIGKILL does: connections break, nothing is said or written any more."""
        assert self.control is not None
        self.do(self.control.close())
        self.control = None

    def start_replica(self) -> None:
        traffic = Traffic(1000)
        shadows = SimpleNamespace(readings=dict)
        watch = SimpleNamespace(enabled=False)
        gateway: Any = SimpleNamespace(
            traffic=traffic,
            shelf=Shelf(traffic),
            shadows=shadows,
            watch=watch,
            **dict.fromkeys(("evidence", "labels", "captures", "config")),
        )
        self.born += 1
        link = Link(gateway, self.folder, f"r{self.born}", SETTINGS)
        link.rooms.clear()  # Of traffic alone.
        self.do(link.start())
        self.do(link.settle())
        self.replicas[link.name] = link

    def kill_replica(self, name: str) -> None:
        self.do(self.replicas.pop(name).close())

    def close(self) -> None:
        for name in list(self.replicas):
            self.kill_replica(name)
        if self.control is not None:
            self.kill_control()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.root)


weights = st.lists(st.sampled_from(VERSIONS), min_size=1, max_size=4, unique=True).flatmap(
    lambda versions: st.lists(
        st.integers(0, WHOLE_BP), min_size=len(versions) - 1, max_size=len(versions) - 1
    ).map(
        lambda cuts: tuple(
            (version, b - a)
            for version, a, b in zip(versions, [0, *sorted(cuts)], [*sorted(cuts), WHOLE_BP], strict=True)
        )
    )
)
some_version = st.sampled_from(VERSIONS)
intents: st.SearchStrategy[Intent] = st.one_of(
    weights.map(lambda each: Split("m", each)),
    weights.map(lambda each: Split("m", each)),
    st.dictionaries(some_version, st.integers(1, WHOLE_BP), max_size=2).map(
        lambda each: Mirror("m", tuple(each.items()))
    ),
    some_version.map(lambda version: Promote("m", version)),
    st.just(Rollback("m")),
    some_version.map(lambda version: Rollback("m", version)),
    st.integers(0, 12).map(lambda revision: Rollback("m", to_revision=revision)),
    some_version.map(lambda version: Pin("m", version)),
    st.just(Unpin("m")),
    st.sampled_from([None, Sticky(("id",), "a"), Sticky(("id",), "b")]).map(lambda each: Stick("m", each)),
    st.tuples(st.sampled_from(["champion", "challenger"]), st.none() | some_version).map(
        lambda each: Alias("m", *each)
    ),
)


class Lives(RuleBasedStateMachine):
    """Random lives."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.start_control()
        self.world.start_replica()
        self.acknowledged = 0
        self.at_least = 0
        """The journal may hold no less than what was acknowledged, and no more than what was begun since."""

    @precondition(lambda self: self.world.control is not None)
    @rule(intent=intents, atomic=st.booleans())
    def change(self, intent: Intent, atomic: bool) -> None:
        control = self.world.control
        assert control is not None
        before = control.history.table
        try:
            receipt = self.world.do(control.submit(intent, "a test", "a reason", atomic=atomic))
        except (Refused, InvalidName, InvalidTable):
            assert control.history.table is before
            return
        assert receipt.confirmed
        assert sorted(receipt.acknowledged) == sorted(self.world.replicas)
        assert receipt.revision == control.history.revision
        self.acknowledged = receipt.revision
        for each in self.world.replicas.values():
            assert each._traffic.table == control.history.table
            assert each._traffic.held == []
        route, then = control.history.table.routes["m"], before.routes["m"]
        check_callers(then, route)

    @precondition(lambda self: self.world.control is not None)
    @rule(
        intent=intents,
        step=st.sampled_from(["prepare", "hold", "journal", "publish", "receipt"]),
        atomic=st.booleans(),
    )
    def die_in_the_middle_of_a_change(self, intent: Intent, step: str, atomic: bool) -> None:
        world = self.world
        assert world.control is not None
        before = world.control.history.revision
        world.die_at = step
        died = False
        try:
            world.do(world.control.submit(intent, "a test", "a reason", atomic=atomic))
        except (Refused, InvalidName, InvalidTable):
            pass
        except Died:
            died = True
        world.die_at = ""
        world.kill_control()
        world.start_control()
        assert world.control is not None
        journalled = world.control.history.revision - before
        if died:
            assert journalled == (step in ("publish", "receipt"))
        self.acknowledged = world.control.history.revision

    @precondition(lambda self: self.world.control is not None)
    @rule()
    def the_control_dies(self) -> None:
        self.world.kill_control()

    @precondition(lambda self: self.world.control is None)
    @rule()
    def a_control_returns(self) -> None:
        self.world.start_control()

    @precondition(lambda self: self.world.control is not None and len(self.world.replicas) < REPLICAS_MAX)
    @rule()
    def a_replica_joins(self) -> None:
        self.world.start_replica()

    @precondition(lambda self: len(self.world.replicas) > 1)
    @rule(data=st.data())
    def a_replica_dies(self, data: st.DataObject) -> None:
        self.world.kill_replica(data.draw(st.sampled_from(sorted(self.world.replicas))))

    @rule()
    def requests_are_answered_by_the_route_and_nothing_else(self) -> None:
        """Also while there is no control."""
        for each in self.world.replicas.values():
            route = each._traffic.table.routes["m"]
            check_requests(each._traffic, route)

    @invariant()
    def the_table_is_the_fold_of_the_journal(self) -> None:
        control = self.world.control
        if control is None:
            return
        assert control._journal.verify()[0] == control.history.revision >= self.acknowledged
        assert fold(entry.change for entry in control.history) == control.history.table

    @invariant()
    def no_replica_is_behind_what_was_acknowledged(self) -> None:
        for each in self.world.replicas.values():
            if self.world.control is None:
                continue
            reached(self.world, each, self.acknowledged)

    def teardown(self) -> None:
        self.world.close()


def reached(world: World, link: Link, revision: int) -> None:
    """Replicas catch up by themselves after any loss."""

    async def catch_up() -> None:
        while link._traffic.table.revision < revision:
            await asyncio.sleep(0.002)

    world.do(catch_up())


def check_requests(traffic: Traffic, route: Route) -> None:
    way = traffic.ways["m"]

    def ask(id_: bytes = b"") -> str:
        request = InferRequest(Call(()), (), None, id_)  # type: ignore[arg-type]
        arm = way.static or way.choose(request, NOBODY)
        assert arm.stamp.startswith(f"{arm.version};{traffic.table.revision};".encode())
        return arm.version

    got = Counter(ask() for _ in range(DRAWS))
    if route.pinned:
        assert got == {route.pinned: DRAWS}
        return
    for share in route.shares:
        p = share.weight_bp / WHOLE_BP
        # Six standard deviations and a half: one false alarm in ten billion looks.
        assert abs(got[share.version] - DRAWS * p) <= 6.5 * (DRAWS * p * (1 - p)) ** 0.5 + 0.5, (
            got,
            str(route),
        )
        if not share.weight_bp:
            assert got[share.version] == 0
    if route.sticky is not None and not route.whole:
        for caller in CALLERS:
            slot = Wheel("m", route.sticky.salt).slot(caller)
            assert {ask(caller) for _ in range(2)} == {version_of(route, slot)}


def version_of(route: Route, slot: int) -> str:
    """Say whose share a slot is in, by walking them."""
    for share in route.shares:
        if slot < share.weight_bp:
            return share.version
        slot -= share.weight_bp
    raise AssertionError("the shares cover all slots")


def check_callers(before: Route, after: Route) -> None:
    """If one version alone grew no caller left it; if one alone shrank none joined it."""
    if before.sticky != after.sticky or after.sticky is None:
        return
    old = {share.version: share.weight_bp for share in before.shares}
    new = {share.version: share.weight_bp for share in after.shares}
    grown = [version for version in old | new if new.get(version, 0) > old.get(version, 0)]
    shrunk = [version for version in old | new if new.get(version, 0) < old.get(version, 0)]
    wheel = Wheel("m", after.sticky.salt)
    for caller in CALLERS:
        slot = wheel.slot(caller)
        was, now = version_of(before, slot), version_of(after, slot)
        if [was] == grown:
            assert now == was
        if [now] == shrunk:
            assert now == was


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RETRY_S", 0.003)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestLives.pytestmark = [pytest.mark.timeout(300)]  # type: ignore[attr-defined]


def test_a_rollback_does_not_wait_for_another_change_that_is_being_prepared() -> None:
    """Loading may take minutes; it was done while nobody else could make a change."""
    world = World()
    try:
        world.start_control()
        world.start_replica()
        control, [replica] = world.control, world.replicas.values()
        assert control is not None
        world.do(control.submit(Split("m", (("1", WHOLE_BP),)), "a test", "first"))

        async def race() -> tuple[int, int, str]:
            loading, loaded = asyncio.Event(), asyncio.Event()
            shelf: Any = replica._gateway.shelf

            async def load(_model: str, versions: frozenset[str]) -> dict[str, str]:
                loading.set()
                await loaded.wait()
                shelf.loaded.servables["m"].update({each: servable(each) for each in versions})
                return {}

            shelf.ensure = load
            slow = asyncio.ensure_future(control.submit(Split("m", (("9", WHOLE_BP),)), "a test", "slow"))
            await loading.wait()
            back = await control.submit(Rollback("m"), "a test", "at once")
            loaded.set()
            return back.revision, (await slow).revision, control.history.table.routes["m"].primary

        before = control.history.revision
        assert world.do(race()) == (before + 1, before + 2, "9")
    finally:
        world.close()


def test_a_replica_that_fails_in_an_unforeseen_way_refuses_a_change_and_holds_up_none() -> None:
    world = World()
    try:
        world.start_control()
        world.start_replica()
        control, [replica] = world.control, world.replicas.values()
        assert control is not None

        async def break_off(_model: str, _versions: frozenset[str]) -> dict[str, str]:
            raise RuntimeError("nobody foresaw this")

        replica._gateway.shelf.ensure = break_off  # type: ignore[method-assign]
        with pytest.raises(Refused, match="m@9: nobody foresaw this"):
            world.do(control.submit(Split("m", (("9", WHOLE_BP),)), "a test", "a reason"))
        assert world.do(control.submit(Split("m", (("1", WHOLE_BP),)), "a test", "a reason")).confirmed
    finally:
        world.close()
