"""What does a replay's process do? It opens versions, runs the same inputs through each, and says what came.

The versions take turns, run by run, so that whatever else the machine does happens to all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from numpy.typing import NDArray

from serving import confine
from serving.errors import Failed, Invalid
from serving.replay import report
from serving.replay.contrast import Contrast
from serving.replay.parcel import AT, SINCE_NS, USED_NS, Document, Group, opened
from serving.replay.runner import REASON_CHARACTERS_MAX, Given, Runner, Taken
from serving.session import reason

STEP_MAX = 32
"""Rows of a run, where all versions take so many: the same for all, since larger batches take less a row."""

Outputs = list[NDArray[Any]]


class Working:
    """A replay.

    Parameters
    ----------
    fd : int
        Of the parcel.
    """

    def __init__(self, fd: int) -> None:
        self._desk, document, self._groups = opened(fd)
        self._until_s = time.monotonic() + document["soft_s"]
        self._given = [Given(**each) for each in document["versions"]]
        batching = [each.rows_max for each in self._given]
        self._step = min(STEP_MAX, *batching) if all(batching) else 1
        self._psi_min = document["psi_min"]
        self._faults: dict[str, str] = {}
        self._runners: list[Runner] = []
        self._at: dict[str, int] = {each.version: at for at, each in enumerate(self._given, 1)}
        self._contrasts: list[Contrast] = []
        self._rows = self._whole_runs = 0
        confine.limit_memory(document["memory_bytes_max"])

    def do(self) -> Document:
        """Return what came of it."""
        for given in self._given:
            self._open(given)
        self._contrasts = [Contrast(one, other) for one, other in combinations(self._runners, 2)]
        cut = any([not self._replay(group) for group in self._groups]) if self._runners else False
        made = {each.given.version: each.document(self._step) for each in self._runners}
        return {
            "rows": self._rows,
            "whole_runs": self._whole_runs,
            "cut": cut,
            "versions": [
                made.get(each.version) or report.unrun(each.version, each.digest, self._faults[each.version])
                for each in self._given
            ],
            "pairs": [each.document() for each in self._contrasts],
        }

    def _open(self, given: Given) -> None:
        self._begin(given.version)
        try:
            self._runners.append(Runner(given, self._psi_min))
        except MemoryError:
            self._faults[given.version] = "it needs more memory than replay.memory_bytes_max"
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a class per status, with one base: this.
            self._faults[given.version] = f"it cannot be opened: {reason(error)[:REASON_CHARACTERS_MAX]}"
        finally:
            self._end()

    def _replay(self, group: Group) -> bool:
        """Run a group, and say whether there was time for all of it."""
        step = 1 if group.whole else self._step
        for start in range(0, group.units, step):
            if time.monotonic() > self._until_s:
                return False
            stop = min(start + step, group.units)
            if start == 0:
                self._warm(group, stop)
            self._run(group, start, stop, timed=stop - start == step or group.units < step)
            self._rows += stop - start
            self._whole_runs += group.whole
        return True

    def _warm(self, group: Group, stop: int) -> None:
        """Run once for nothing: the first run of a shape takes longer."""
        for runner in self._runners:
            self._made(runner, _cut(group, 0, stop))

    def _run(self, group: Group, start: int, stop: int, *, timed: bool) -> None:
        """Run inputs through all versions; one by one if one of them fails: only some may be at fault."""
        arrays, units = _cut(group, start, stop), stop - start
        made = {runner.given.version: self._made(runner, arrays) for runner in self._runners}
        if units > 1 and any(isinstance(each, Exception) for each in made.values()):
            for at in range(start, stop):
                self._run(group, at, at + 1, timed=False)
            return
        labels = group.labels[start:stop]
        answers: dict[str, Outputs] = {}
        taken: dict[str, Taken] = {}
        for runner in self._runners:
            version, outcome = runner.given.version, made[runner.given.version]
            if isinstance(outcome, Exception):
                runner.fail(units, outcome)
                continue
            answers[version], run_ns = outcome
            if timed:
                runner.time(run_ns)
            taken[version] = runner.take(arrays, answers[version], labels, whole=group.whole)
        self._compare(answers, taken, units)

    def _made(self, runner: Runner, arrays: Mapping[str, NDArray[Any]]) -> tuple[Outputs, int] | Exception:
        self._begin(runner.given.version)
        try:
            return runner.run(arrays)
        except (Invalid, Failed) as error:
            return error
        finally:
            self._end()

    def _compare(self, answers: Mapping[str, Outputs], taken: Mapping[str, Taken], units: int) -> None:
        for contrast in self._contrasts:
            one, other = contrast.one.given.version, contrast.other.given.version
            if one in answers and other in answers:
                contrast.add(answers[one], answers[other], units)
                contrast.judge(taken[one], taken[other])

    def _begin(self, version: str) -> None:
        self._desk[USED_NS] = time.process_time_ns()
        self._desk[AT] = self._at[version]
        self._desk[SINCE_NS] = time.monotonic_ns()

    def _end(self) -> None:
        self._desk[SINCE_NS] = self._desk[AT] = 0


def _cut(group: Group, start: int, stop: int) -> Mapping[str, NDArray[Any]]:
    """Return the tensors of a run: rows, or one unit as it was."""
    if group.whole:
        return {name: array[start] for name, array in group.arrays.items()}
    return {name: array[start:stop] for name, array in group.arrays.items()}
