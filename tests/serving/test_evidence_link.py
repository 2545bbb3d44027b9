"""What a replica counted reaches the control once and whole, however often they lose each other."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from router.entry import Entry
from router.intent import Split
from serving.config import Traffic as Settings
from serving.control import link as link_module
from serving.control.control import Control
from serving.control.link import Link
from serving.control.roster import Replica
from serving.control.telling import Line, Said
from serving.errors import Failed
from serving.evidence import teller as teller_module
from serving.evidence.counts import Counts
from serving.evidence.evidence import Evidence
from serving.evidence.page import Arm
from serving.evidence.teller import Teller
from serving.evidence.terms import Terms
from serving.journal.journal import Journal
from serving.traffic import Traffic
from serving.ways import NOBODY
from serving.wire import Call, InferRequest

SETTINGS = Settings(lease_s=1.0)
TERMS = Terms("m", frozenset({"7", "8"}), (1, 2, 3), 0.5)


class Ear:
    """A room that says terms and hears evidence."""

    def __init__(self) -> None:
        self.terms = [TERMS]
        self.heard: dict[tuple[str, Arm], Counts] = {}
        self.measured: list[Said] = []

    def start(self, control: Control) -> None:
        """Begin."""

    async def close(self) -> None:
        """End."""

    def greet(self, line: Line) -> None:
        for each in self.terms:
            line.say("terms", **each.to_json())

    def hear(self, replica: Replica, said: Said) -> None:
        match said:
            case {"say": "evidence", "told": told}:
                for *of, counts in told:
                    self.heard[replica.name, Arm(*of)] = Counts.from_json(counts)
            case {"say": "measured"}:
                self.measured.append(said)

    def note(self, entry: Entry) -> None:
        """Take no notice."""

    @property
    def failed(self) -> int:
        return sum(each.failed for each in self.heard.values())


class Bare(SimpleNamespace):
    """A gateway with nothing in it but what is named: other rooms have nothing to do."""

    def __getattr__(self, name: str) -> None:
        return None


class World:
    """A control with an ear, and one replica whose requests all fail before they reach a lane."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "f"
        self.folder.mkdir(mode=0o700)
        self.journal = folder / "j"
        self.journal.mkdir(mode=0o700)
        self.ear = Ear()
        self.control: Control | None = None
        self.evidence = Evidence(self._renew)
        self.traffic = Traffic(1000, pages=self.evidence.page)
        self.link: Link

    def _renew(self) -> None:
        self.traffic.renew()

    async def start_control(self) -> None:
        journal = Journal.open(self.journal / "journal.sqlite")
        self.control = Control(SETTINGS, self.folder, journal, rooms=[self.ear])
        await self.control.start()

    async def end_control(self) -> None:
        assert self.control is not None
        await self.control.close()
        self.control = None

    async def start_replica(self) -> None:
        versions: Any = {"m": {each: f"servable {each}" for each in ("7", "8")}}
        digests = SimpleNamespace(artifact=SimpleNamespace(digest="d"))
        loaded = {"m": dict.fromkeys(versions["m"], SimpleNamespace(spec=digests))}

        async def nothing(*_: Any) -> dict[str, str]:
            return {}

        shelf = SimpleNamespace(
            loaded=SimpleNamespace(servables=loaded), ensure=nothing, tidy=nothing, orders={},
            keep=lambda *_: None, keeping=SimpleNamespace(must={}, good={}),
        )  # fmt: skip
        gateway: Any = Bare(
            traffic=self.traffic,
            shelf=shelf,
            shadows=SimpleNamespace(readings=dict),
            watch=SimpleNamespace(enabled=False),
            evidence=self.evidence,
        )
        self.traffic.carry(versions)
        self.link = Link(gateway, self.folder, "r1", SETTINGS)
        self.link.rooms = [each for each in self.link.rooms if isinstance(each, Teller)]
        await self.link.start()
        await self.link.settle()

    def fail(self, times: int) -> None:
        for _ in range(times):
            request = InferRequest(Call(()), (), None)  # type: ignore[arg-type]
            arm = self.traffic.ways["m"].choose(request, NOBODY)
            arm.fail(request, Failed("no"))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(link_module, "STATE_S", 0.1)
    folder = Path(tempfile.mkdtemp(prefix="told-"))  # Short, for the sockets in it.
    yield World(folder)
    shutil.rmtree(folder)


def test_counts_are_told_once_and_whole_though_the_control_dies_again_and_again(world: World) -> None:
    async def live() -> None:
        await world.start_control()
        await world.start_replica()
        assert world.control is not None
        await world.control.submit(Split("m", (("8", 2000), ("7", 8000))), "a", "test")
        await until(lambda: world.traffic.ways["m"].static is None)
        for times in range(1, 4):
            world.fail(100)
            await until(lambda expected=100 * times: world.ear.failed == expected)  # type: ignore[misc]
            await world.end_control()
            world.ear.heard.clear()  # This one was told nothing.
            await world.start_control()
            await until(lambda expected=100 * times: world.ear.failed == expected)  # type: ignore[misc]
        await world.control.submit(Split("m", (("8", 5000), ("7", 5000))), "a", "test")
        await until(lambda: world.traffic.table.revision == 3)
        world.fail(50)
        await until(lambda: world.ear.failed == 350)
        assert {of.epoch for _, of in world.ear.heard} == {2, 3}
        assert {of.version for _, of in world.ear.heard} == {"7", "8"}
        world.fail(7)
        await world.link.close()
        await until(lambda: world.ear.failed == 357)
        await world.end_control()

    asyncio.run(live())


def test_terms_go_on_and_off_and_those_that_a_new_control_does_not_say_are_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teller_module, "TERMS_NS", 300_000_000)

    async def live() -> None:
        await world.start_control()
        await world.start_replica()
        evidence = world.evidence
        await until(lambda: evidence._terms == {"m": TERMS})
        assert world.control is not None
        (replica,) = world.control.roster.replicas.values()
        replica.line.say("terms", **Terms("m", frozenset()).to_json())
        await until(lambda: not evidence._terms)
        replica.line.say("terms", **TERMS.to_json())
        await until(lambda: evidence._terms == {"m": TERMS})
        await world.end_control()
        assert evidence._terms == {"m": TERMS}
        world.ear.terms = []
        await world.start_control()
        await until(lambda: not evidence._terms)
        await world.link.close()
        await world.end_control()

    asyncio.run(live())


def test_what_is_not_loaded_is_measured_as_nothing(world: World) -> None:
    async def live() -> None:
        await world.start_control()
        await world.start_replica()
        assert world.control is not None
        (replica,) = world.control.roster.replicas.values()
        replica.line.say("measure", task=5, model="m", version="99")
        await until(lambda: bool(world.ear.measured))
        assert world.ear.measured == [
            {"say": "measured", "task": 5, "durations": {"total_ns": 0, "counts": []}, "confidences": []}
        ]
        await world.link.close()
        await world.end_control()

    asyncio.run(live())
