"""Which shadows run, and what they see: as the routing table has it, and as the shelf can."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from router.table import Route, RoutingTable, Shadow, Share, everything_to
from serving.config import Shadow as Settings
from serving.shadow import shadow as shadow_module
from serving.shadow.comparison import ShadowReading
from serving.shadow.shadows import Shadows


class Recorded:
    """In the place of a shadow's process: notes what becomes of it."""

    made: list[Recorded]

    def __init__(
        self, spec: Any, share_bp: int, _settings: Settings, *, noise: bool, outlets: None, echo: None
    ) -> None:
        self.spec, self.share_bp, self.noise, self.outlets, self.echo = spec, share_bp, noise, outlets, echo
        self.life: list[str] = []
        self.introduced: set[str] = set()
        Recorded.made.append(self)

    async def start(self) -> None:
        self.life.append("started")

    async def close(self) -> None:
        self.life.append("closed")

    def tap(self, batch: Any, primary_version: str) -> None:
        self.life.append(f"{batch} of {primary_version}")

    def introduce(self, spec: Any) -> None:
        self.introduced.add(spec)

    def reading(self) -> ShadowReading:
        return ShadowReading(restarts={"crashed": 1})


@pytest.fixture(autouse=True)
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorded.made = []
    monkeypatch.setattr(shadow_module, "Shadow", Recorded)


def loaded(*versions: str) -> Any:
    return {"m": {v: SimpleNamespace(spec=f"spec {v}", lane=SimpleNamespace(taps=[])) for v in versions}}


def table(*shadows: Shadow, live: str = "7") -> RoutingTable:
    return RoutingTable(1, {"m": Route(everything_to(live).shares, shadows)})


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_shadow_sees_the_batches_of_every_version_and_is_told_whose() -> None:
    async def live() -> None:
        shadows, servables = Shadows(Settings()), loaded("7", "8", "9")
        shadows.follow(table(Shadow("9", 2000)), servables)
        await settled()
        [made] = Recorded.made
        assert (made.spec, made.share_bp, made.noise) == ("spec 9", 2000, False)
        for version in servables["m"]:
            for tap in shadows.taps("m", version):
                tap(f"batch {version}")
        assert made.life == ["started", "batch 7 of 7", "batch 8 of 8", "batch 9 of 9"]
        assert made.introduced == {"spec 7", "spec 8", "spec 9"}

    asyncio.run(live())


def test_a_change_that_leaves_a_shadow_as_it_is_does_not_touch_it() -> None:
    async def live() -> None:
        shadows, servables = Shadows(Settings()), loaded("7", "8", "9")
        for live_version in ("7", "8", "7"):
            shadows.follow(table(Shadow("9", 2000), live=live_version), servables)
        await settled()
        assert [made.life for made in Recorded.made] == [["started"]]
        shadows.follow(table(), servables)
        await settled()
        assert Recorded.made[0].life == ["started", "closed"]
        assert all(shadows.taps("m", version) == [] for version in servables["m"])
        assert shadows.readings() == {("m", "9"): ShadowReading(restarts={"crashed": 1})}

    asyncio.run(live())


def test_a_shadow_waits_until_its_version_is_loaded_and_noise_is_the_live_version_s_own() -> None:
    async def live() -> None:
        shadows = Shadows(Settings())
        wanted = table(Shadow("9", 2000), Shadow("7", 500))
        shadows.follow(wanted, loaded("7"))
        assert [(made.spec, made.noise) for made in Recorded.made] == [("spec 7", True)]
        shadows.follow(wanted, loaded("7", "9"))
        assert [made.spec for made in Recorded.made] == ["spec 7", "spec 9"]
        await shadows.close()
        assert all(made.life[-1] == "closed" for made in Recorded.made)

    asyncio.run(live())


def test_a_weight_of_zero_is_not_live() -> None:
    async def live() -> None:
        shadows = Shadows(Settings())
        route = Route((Share("7", 10_000), Share("9", 0)), (Shadow("9", 100),))
        shadows.follow(RoutingTable(1, {"m": route}), loaded("7", "9"))
        assert [made.noise for made in Recorded.made] == [False]

    asyncio.run(live())
