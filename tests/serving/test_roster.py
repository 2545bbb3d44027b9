"""Who counts as having done what was asked: nobody is overlooked, and nobody is believed dead who may live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from time import monotonic_ns
from typing import Any, TypeVar

import pytest

from serving.control import roster as module
from serving.control.members import Membership
from serving.control.roster import Outcome, Replica, Roster

T = TypeVar("T")
FENCE_S = 0.3


def do(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 20))


class Mute:
    """A connection on which nothing is said."""

    def hang_up(self) -> None:
        """It is over."""


def replica(name: str, revision: int = 0) -> Replica:
    line: Any = Mute()
    return Replica(line, name, 1, revision=revision)


def at_7(each: Replica) -> bool:
    return each.revision >= 7


@pytest.fixture
def member(tmp_path: Path) -> Iterator[str]:
    """A member that cannot be ended: it is this very process."""
    mine = Membership(tmp_path, "mine")
    yield "mine"
    mine.leave()


def test_one_that_did_it_is_done(tmp_path: Path, member: str) -> None:
    async def settle() -> Outcome:
        roster = Roster(tmp_path, 0, 0)
        roster.join(replica(member, 7))
        return await roster.settled(at_7, 1)

    assert do(settle()) == Outcome(done=(member,))


def test_one_that_lives_and_never_connected_is_not_overlooked(tmp_path: Path, member: str) -> None:
    outcome = do(Roster(tmp_path, 0, 0).settled(at_7, 0.05))
    assert outcome == Outcome(missing=(member,))


def test_one_that_is_connected_and_no_member_does_not_count(tmp_path: Path, member: str) -> None:
    async def settle() -> Outcome:
        roster = Roster(tmp_path, 0, 0)
        roster.join(replica(member, 7))
        roster.join(replica("dead", 7))
        return await roster.settled(at_7, 1)

    assert do(settle()) == Outcome(done=(member,))


def test_one_that_did_it_while_it_was_to_be_ended_is_done_all_the_same(
    tmp_path: Path, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def settle() -> Outcome:
        roster = Roster(tmp_path, 0, 0)
        late = replica(member)
        roster.join(late)

        def hesitate(*_: object) -> bool:
            late.revision = 7
            return False

        monkeypatch.setattr(module, "kill", hesitate)
        return await roster.settled(at_7, 0.05)

    assert do(settle()) == Outcome(done=(member,))


def test_a_lease_that_ran_out_fences_and_not_a_moment_before(tmp_path: Path, member: str) -> None:
    async def settle() -> tuple[Outcome, float]:
        roster = Roster(tmp_path, FENCE_S, 0)
        silent = replica(member)
        silent.lease_ns = monotonic_ns() + int(2 * FENCE_S * 1e9)
        roster.join(silent)
        began_s = time.monotonic()
        return await roster.settled(at_7, 0.05), time.monotonic() - began_s

    outcome, took_s = do(settle())
    assert outcome == Outcome(fenced=(member,))
    assert took_s >= 2 * FENCE_S


def test_what_an_earlier_control_granted_is_waited_for(tmp_path: Path, member: str) -> None:
    async def settle() -> tuple[Outcome, float]:
        began_s = time.monotonic()
        outcome = await Roster(tmp_path, FENCE_S, 0).settled(at_7, 0.05)
        return outcome, time.monotonic() - began_s

    outcome, took_s = do(settle())
    assert outcome == Outcome(fenced=(member,))
    assert took_s >= FENCE_S


def test_a_new_control_gives_members_time_to_connect_before_it_ends_them(tmp_path: Path, member: str) -> None:
    async def settle() -> Outcome:
        roster = Roster(tmp_path, 0, grace_s=5)
        asyncio.get_running_loop().call_later(0.2, roster.join, replica(member, 7))
        return await roster.settled(at_7, 0.05)

    assert do(settle()) == Outcome(done=(member,))


def test_a_replica_that_connects_anew_takes_the_place_of_its_earlier_self(tmp_path: Path) -> None:
    async def live() -> None:
        roster = Roster(tmp_path, 0, 0)
        first, second = replica("r"), replica("r")
        roster.join(first)
        roster.join(second)
        assert roster.leave(first.line) is None
        assert roster.replicas == {"r": second}
        assert roster.leave(second.line) is second
        assert roster.replicas == {}

    do(live())
