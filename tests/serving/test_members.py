"""Who lives: told by locks that the kernel frees, with real processes that are stopped and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.control.members import Member, Membership, kill, living
from tests.talking import eventually

ROOT = Path(__file__).parents[2]
JOIN = "import sys,time; from pathlib import Path; from serving.control.members import Membership; "
JOIN += "m = Membership(Path(sys.argv[1]), sys.argv[2]); print('in', flush=True); time.sleep(60)"


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is the member `other`."""
    command = [sys.executable, "-c", JOIN, str(tmp_path), "other"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield process
        process.kill()


def test_a_member_lives_until_it_leaves(tmp_path: Path) -> None:
    mine = Membership(tmp_path, "mine")
    assert living(tmp_path) == {"mine": Member("mine", os.getpid())}
    mine.leave()
    assert living(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_killed_is_no_member(tmp_path: Path, joined: subprocess.Popen[str]) -> None:
    assert living(tmp_path) == {"other": Member("other", joined.pid)}
    joined.kill()
    joined.wait(10)
    assert living(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_is_no_member_even_before_its_parent_has_looked(
    tmp_path: Path, joined: subprocess.Popen[str]
) -> None:
    joined.kill()
    assert eventually(lambda: living(tmp_path) == {})


def test_a_process_that_was_stopped_is_one_still_and_can_be_ended(
    tmp_path: Path, joined: subprocess.Popen[str]
) -> None:
    joined.send_signal(signal.SIGSTOP)
    [member] = living(tmp_path).values()
    assert kill(tmp_path, member, 5.0)
    assert living(tmp_path) == {}
    assert joined.wait(10) == -signal.SIGKILL


def test_nobody_else_is_ended_for_a_member_that_is_dead(
    tmp_path: Path, joined: subprocess.Popen[str]
) -> None:
    """Its process id may belong to somebody else by now: here, to a process that is no member of that name."""
    (tmp_path / "dead.member").write_text(f'{{"pid": {joined.pid}}}')
    assert kill(tmp_path, Member("dead", joined.pid), 1.0)
    assert joined.poll() is None


def test_one_does_not_end_oneself(tmp_path: Path) -> None:
    mine = Membership(tmp_path, "mine")
    assert not kill(tmp_path, Member("mine", os.getpid()), 0.1)
    mine.leave()


def test_no_two_members_have_one_name(tmp_path: Path, joined: subprocess.Popen[str]) -> None:
    (tmp_path / "same.joining").touch()
    with pytest.raises(FileExistsError):
        Membership(tmp_path, "same")
