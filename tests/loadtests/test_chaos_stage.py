"""What does `make chaos` make of a real gateway of which a replica is killed under load?"""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from loadtests.chaos import models
from loadtests.chaos.changes import asker
from loadtests.chaos.faults import FAULTS
from loadtests.chaos.promises import broken
from loadtests.chaos.strike import tried
from loadtests.chaos.trial import Kept
from router.entry import change_document, check_chain
from serving.access import JOURNAL
from serving.journal.journal import read
from tests.stage import Stage, staged

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]
NAMES = {each.name: each for each in FAULTS}


class OnStage:
    """A stage as something to strike; the test is who starts a dead replica anew, at once."""

    count = 2

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.port = int(stage.http.rpartition(":")[2])
        self.ask = asker(stage.admin, lambda: (stage.state / "token").read_text().strip())

    def replicas(self) -> list[psutil.Process]:
        return [psutil.Process(each.pid) for each in self._stage.replicas.values() if each.poll() is None]

    def control(self) -> psutil.Process:
        return psutil.Process(self._stage.control.pid)

    def family(self) -> list[psutil.Process]:
        return [*self.replicas(), self.control()]

    def journal(self) -> tuple[list[Kept], str]:
        found = read(self._stage.state / JOURNAL)
        check_chain(found)
        return [Kept(each.revision, each.why, change_document(each.change)) for each, _ in found], ""

    def disk(self) -> Path | None:
        return None

    def settle(self, clock_s: float = 0.0, sync_s: float = 0.0) -> None:
        raise NotImplementedError

    def mend(self) -> str:
        dead = [name for name, each in self._stage.replicas.items() if each.poll() is not None]
        for name in dead:
            self._stage.begin_replica(name)
        return ""


def test_a_replica_that_is_killed_under_load_breaks_no_promise(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    models.lay_out(repository)
    began_s = time.monotonic()
    with staged(tmp_path, repository, 2) as stage:
        trial = tried(OnStage(stage), NAMES["replica killed"], tmp_path, rate=300, calm_s=1.0)
    assert list(broken(trial)) == []
    [victim] = trial.victims
    assert victim.ports, "it had connections"
    assert len(trial.failed) == len([each for each in trial.failed if victim.takes(each)])
    assert len(trial.requests) > 500 and len(trial.receipts) >= 4
    assert trial.verdict.decisive > 400
    assert time.monotonic() - began_s < 30


def test_a_gateway_that_lies_about_its_journal_is_caught(tmp_path: Path) -> None:
    """The same, of a gateway whose journal lacks the entry of one receipt."""

    class Forgetful(OnStage):
        def journal(self) -> tuple[list[Kept], str]:
            entries, chain = super().journal()
            return entries[:-2], chain

    repository = tmp_path / "models"
    models.lay_out(repository)
    with staged(tmp_path, repository, 2) as stage:
        trial = tried(Forgetful(stage), NAMES["replica killed"], tmp_path, rate=200, calm_s=0.5)
    [line] = broken(trial)
    assert "nothing acknowledged is lost: 2 of " in line or "nothing acknowledged is lost: 1 of " in line
