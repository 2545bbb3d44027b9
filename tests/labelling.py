"""Versions, requests and batches for tests of labels, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.config import Deciding, Labels
from serving.labels.decision import Decision, decision
from serving.labels.intake import Intake
from serving.labels.joining import Joined, Sought, join
from serving.labels.label import ONLY_ROW, Label
from serving.labels.tables import Tables
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.track import Batch
from serving.wire import DATATYPES, Call, InferRequest, TensorSpec

CALL = Call(())
NAMES = ("zero", "one", "two")
NOW_US = 1_795_615_500_000_000


class Rows:
    """In the place of a layout: how many rows a request has."""

    def __init__(self, rows: int) -> None:
        self.rows = rows


def tensor(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, DATATYPES[datatype], shape)


def version(
    *outputs: TensorSpec,
    number: int = 7,
    rows_max: int = 64,
    labels: dict[str, tuple[str, ...]] | None = None,
    inputs: tuple[TensorSpec, ...] = (tensor("x", "FP32", -1, 4),),
) -> ModelSpec:
    """Return a version that batches, of these outputs."""
    artifact = Artifact("m", number, f"digest {number}", Path("model.onnx"), 1)
    return ModelSpec(artifact, ModelConfig("m"), inputs, outputs, rows_max, labels or {})


def deciding(spec: ModelSpec, **chosen: Any) -> Decision:
    return decision(spec, Deciding(**chosen))


def classifier(number: int = 7) -> ModelSpec:
    """Return a version with a class and three probabilities."""
    return version(
        tensor("label", "INT64", -1),
        tensor("probabilities", "FP32", -1, 3),
        number=number,
        labels={"probabilities": NAMES},
    )


def request(id_: bytes, rows: int = 1, stamp: bytes = b"7;3;split", page: Any = None) -> InferRequest:
    made = InferRequest(CALL, [], None, id_)  # type: ignore[arg-type]
    made.layout, made.stamp, made.page = Rows(rows), stamp, page
    return made


def batch(requests: Sequence[InferRequest], *outputs: Any, rows: int | None = None) -> Batch:
    """Return a batch of these requests that was answered with these arrays."""
    total = sum(each.layout.rows for each in requests) if rows is None else rows
    return Batch(list(requests), total, 1, 2, 3, 4, {}, [np.asarray(each) for each in outputs])


def sure(classes: Sequence[int], confidence: float = 0.8) -> Any:
    """Return three probabilities for each class, of which its own is so high."""
    rest = (1 - confidence) / 2
    table = np.full((len(classes), 3), rest, np.float32)
    table[np.arange(len(classes)), list(classes)] = confidence
    return table


class Memory:
    """Intakes, tables and labels of one model, step by step."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Labels(**settings)
        self.tables = Tables(self.settings)
        self.intakes: dict[int, Intake] = {}

    def answer(self, spec: ModelSpec, *batches: Batch, at_us: int = NOW_US) -> Intake:
        """Remember what a version answered."""
        self.now_us = at_us
        number = spec.artifact.version
        if number not in self.intakes:
            self.intakes[number] = Intake(spec, deciding(spec), lambda: self.now_us)
        intake = self.intakes[number]
        for each in batches:
            intake.tap(each)
        intake.fold()
        while intake.waiting:
            for rows in intake.take(at_us):
                self.tables.remember("m", rows)
        return intake

    def label(self, *labels: Label, at_us: int = NOW_US) -> Joined:
        """Join labels."""
        return join(Sought(labels), self.tables.live("m"), at_us, self.settings.classes_max)


def label(id_: str, truth: Any, row: int = ONLY_ROW, at_us: int = NOW_US) -> Label:
    return Label(id_, row, truth, at_us)
