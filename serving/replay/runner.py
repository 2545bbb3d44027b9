"""What does one version make of inputs? Its errors, its time, how sure it is, how often it is right."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.drift.profile_json import from_json
from serving.drift.view import Look
from serving.errors import Invalid
from serving.labels.decision import Classes
from serving.model import Device
from serving.replay import report
from serving.replay.bearing import Bearing
from serving.replay.verdicts import by_rows, decided, odd, parsed, right
from serving.session import Session, Stop, open_onnx
from serving.wire import DATATYPES, TensorSpec

REASONS_MAX = 3
REASON_CHARACTERS_MAX = 200

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Given:
    """A version as the parent describes it."""

    version: str
    digest: str
    path: str
    graph_level: int | None
    inputs: list[list[Any]]
    outputs: list[list[Any]]
    rows_max: int
    decision: dict[str, Any] | None = None
    profile: dict[str, Any] | None = None
    looks: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What a version decided about inputs, and whether it was right, where that is known."""

    classes: Classes | None
    right: list[bool | None]


def tensors(told: Sequence[Sequence[Any]]) -> list[TensorSpec]:
    """Read tensors as `Given` has them."""
    return [TensorSpec(name, DATATYPES[kind], tuple(shape), optional) for name, kind, shape, optional in told]


class Runner:
    """A version that runs here. Opening it may take long, and more than there is.

    Parameters
    ----------
    given : Given
    psi_min : float
        See `Bearing`.
    """

    def __init__(self, given: Given, psi_min: float) -> None:
        self.given = given
        self.inputs, self.outputs = tensors(given.inputs), tensors(given.outputs)
        session = open_onnx(given.path, Device.CPU, 1, given.graph_level)
        self._session, self._stop = Session(session, self.inputs, self.outputs), Stop()
        self._bearing: Bearing | None = None
        if given.profile is not None:
            looks = [Look.from_json(each) for each in given.looks]
            self._bearing = Bearing(from_json(given.profile), looks, psi_min)
        self.rows = self.errors = self._odd = 0
        self._reasons: dict[str, None] = {}
        self._durations_ns: list[int] = []
        self.decision = parsed(given.decision) if given.decision is not None else None
        self._confidence: list[NDArray[np.float32]] = []
        self._known = self._right = 0

    def run(self, arrays: Arrays) -> tuple[list[NDArray[Any]], int]:
        """Return the outputs, and the processor time that they took.

        Raises
        ------
        Invalid, Failed
            If it has no answer.
        """
        feeds = self._feeds(arrays)
        began_ns = time.process_time_ns()
        outputs = self._session.run(feeds, self._stop)
        return outputs, time.process_time_ns() - began_ns

    def _feeds(self, arrays: Arrays) -> Arrays:
        wanted = {each.name: each for each in self.inputs}
        for name, array in arrays.items():
            spec = wanted.get(name)
            if spec is None or spec.datatype.dtype != array.dtype or not spec.admits(array.shape):
                raise Invalid(f"it takes no input {name!r} of {array.dtype} {list(array.shape)}")
        missing = [each.name for each in self.inputs if not each.optional and each.name not in arrays]
        if missing:
            raise Invalid(f"it takes an input {missing[0]!r}, which these do not have")
        return arrays

    def fail(self, units: int, error: Exception) -> None:
        """Count inputs that it has no answer to."""
        self.rows += units
        self.errors += units
        if len(self._reasons) < REASONS_MAX:
            self._reasons[str(error)[:REASON_CHARACTERS_MAX]] = None

    def time(self, run_ns: int) -> None:
        """Count a run of the usual size."""
        self._durations_ns.append(run_ns)

    def take(
        self, arrays: Arrays, outputs: Sequence[NDArray[Any]], labels: Sequence[str | None], *, whole: bool
    ) -> Taken:
        """Count what it made of inputs, and return what it decided."""
        self.rows += len(labels)
        rows = [by_rows(spec, array, whole=whole) for spec, array in zip(self.outputs, outputs, strict=True)]
        strange = odd(rows)
        self._odd += int(strange.any()) if whole else int(strange.sum())
        if self._bearing is not None:
            made = {spec.name: array for spec, array in zip(self.outputs, outputs, strict=True)}
            self._bearing.add({**arrays, **made})
        classes = self._decide(outputs)
        judged = classes is not None and len(classes) == len(labels)
        return Taken(classes, self._judge(classes, labels) if judged else [None] * len(labels))

    def _decide(self, outputs: Sequence[NDArray[Any]]) -> Classes | None:
        if self.decision is None:
            return None
        try:
            classes, sure = decided(self.decision, outputs)
        except (ValueError, IndexError):  # Not of so many rows, in a model that does not batch.
            return None
        if sure is not None:
            self._confidence.append(sure)
        return classes

    def _judge(self, classes: Classes | None, labels: Sequence[str | None]) -> list[bool | None]:
        assert classes is not None
        assert self.decision is not None
        names = self.decision.names
        judged = [
            None if label is None else right(names, number, label)
            for number, label in zip(classes.tolist(), labels, strict=True)
        ]
        self._known += sum(each is not None for each in judged)
        self._right += sum(each is True for each in judged)
        return judged

    def document(self, rows_a_run: int) -> report.Version:
        """Say what it made of them."""
        known = self._known
        return {
            "version": self.given.version,
            "digest": self.given.digest,
            "fault": "",
            "rows": self.rows,
            "errors": self.errors,
            "reasons": list(self._reasons),
            "odd": self._odd,
            "latency": self._latency(rows_a_run),
            "confidence": self._sureness(),
            "drift": self._bearing.document() if self._bearing is not None else None,
            "labelled": {"known": known, "right": self._right} if known else None,
        }

    def _latency(self, rows_a_run: int) -> report.Latency | None:
        if not self._durations_ns:
            return None
        p50_ns, p99_ns = np.quantile(self._durations_ns, [0.5, 0.99])
        runs = len(self._durations_ns)
        return {"runs": runs, "rows_a_run": rows_a_run, "p50_s": p50_ns / 1e9, "p99_s": p99_ns / 1e9}

    def _sureness(self) -> report.Confidence | None:
        if not self._confidence:
            return None
        finite = np.concatenate(self._confidence)
        finite = finite[np.isfinite(finite)].astype(np.float64)
        if not finite.size:
            return None
        return {"mean": float(finite.mean()), "p10": float(np.quantile(finite, 0.1))}
