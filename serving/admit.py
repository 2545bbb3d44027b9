"""May these versions be served? Each is tried in another process, which it can only take down itself."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from serving import confine
from serving.config import Admission
from serving.model import Artifact

RULES = 1
"""Counts up whenever the same file might be judged differently."""
START_S_MAX = 60.0
LINE_BYTES_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out: admitted without a `reason`, refused with one.

    A `note` says what could not be tried about an admitted version.
    """

    artifact: Artifact
    reason: str | None = None
    note: str | None = None


def rules(limits: Admission) -> str:
    """Return what a verdict depends on beside the file, for `Store.verdict`."""
    import onnxruntime

    runtime = f"onnxruntime {onnxruntime.__version__}, onnx {version('onnx')}"
    bounds = f"{limits.deadline_s:g} s, {limits.memory_bytes_max} bytes, file {limits.file_bytes_max} bytes"
    return f"rules {RULES}, {runtime}, {bounds}"


def admit(artifacts: Sequence[Artifact], limits: Admission) -> list[Verdict]:
    """Try `artifacts` and return a verdict on each, in their order. Blocks; call it in a thread.

    One process tries them one after another. Whoever is refused takes that process with it, so that
    nothing it left there touches the next one.
    """
    verdicts: list[Verdict] = []
    child: _Child | None = None
    try:
        for artifact in artifacts:
            child = child or _Child()
            verdicts.append(child.judge(artifact, limits))
            if verdicts[-1].reason is not None:
                child.kill()
                child = None
    finally:
        if child is not None:
            child.kill()
    return verdicts


class _Gone(Exception):
    """The child closed its end, or wrote what it never would."""


class _Child:
    """The process, and the conversation with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", "serving.admit_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=confine.environment(),
            cwd="/",
            # To kill it whole. Not a new session: Linux gives each a scheduling group with a fair share of
            # its own, in which the child's niceness counts for nothing. While 100 MB were tried on its core,
            # the event loop waited for that core 5 % of the time; now it is 1 %.
            process_group=0,
            bufsize=0,
        )
        self._ready = False
        self._stage = "starting"
        self._pending = b""

    def judge(self, artifact: Artifact, limits: Admission) -> Verdict:
        """Have one version tried; never raises because of it."""
        try:
            if not self._ready:
                self._ready = bool(self._answer(START_S_MAX)["ready"])
            self._ask(artifact, limits)
            answer = self._answer(limits.deadline_s)
            return Verdict(artifact, answer["reason"], answer.get("note"))
        except TimeoutError:
            waited_s = limits.deadline_s if self._ready else START_S_MAX
            return Verdict(artifact, f"{self._stage} did not finish within {waited_s:g} s")
        except (_Gone, OSError, KeyError):
            return Verdict(artifact, self._death(limits))

    def kill(self) -> None:
        """End the process and all that it may have started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, artifact: Artifact, limits: Admission) -> None:
        question = {"path": str(artifact.path), **limits.model_dump()}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")

    def _answer(self, wait_s: float) -> dict[str, Any]:
        """Return the next line that is more than a change of stage."""
        until_s = time.monotonic() + wait_s
        while True:
            line = self._line(until_s)
            try:
                answer = json.loads(line)
            except ValueError:
                raise _Gone from None
            if not isinstance(answer, dict):
                raise _Gone
            if "stage" not in answer:
                return answer
            self._stage = str(answer["stage"])

    def _line(self, until_s: float) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, until_s - time.monotonic())):
                    raise TimeoutError
                chunk = os.read(self._process.stdout.fileno(), LINE_BYTES_MAX)
                if not chunk or len(self._pending) > LINE_BYTES_MAX:
                    raise _Gone
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _death(self, limits: Admission) -> str:
        """Say how the process ended that should have answered."""
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return f"{self._stage} ended without an answer"
        match -code:
            case signal.SIGKILL:
                return f"{self._stage} was killed by the system, most likely for lack of memory"
            case signal.SIGXCPU:
                return f"{self._stage} did not finish within {limits.deadline_s:g} s"
            case signal.SIGABRT:
                return f"{self._stage} was aborted; lack of memory does that, a broken file too"
            case number if number > 0:
                return f"{self._stage} crashed ({signal.strsignal(number) or number})"
        return f"{self._stage} ended without an answer (exit code {code})"
