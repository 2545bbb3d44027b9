"""What does a version answer to rows of a file, without a gateway? Its profile follows from both.

The version is first tried in a process of its own, as the gateway does before it serves it; then it runs
here, on the CPU, in batches no larger than its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import pbtxt
from serving.admit import admit
from serving.config import Config
from serving.drift import features
from serving.drift.build import Gathering, TooMuch, Words
from serving.drift.profile import Profile
from serving.drift.rows import Arrays, BadRows, Table, Wanted, wanted
from serving.drift.view import Look, look
from serving.errors import Failed, Invalid
from serving.loader import find_sample, rows_are_independent
from serving.model import Device, ModelConfig, ModelSpec
from serving.repository import Candidate, scan
from serving.session import Session, Stop, open_onnx
from serving.signature import complete, could_batch, read_labels, signature
from serving.store import Store

LABELS_MAX = 1 << 16
"""Different texts of one tensor that are remembered, to show them instead of their codes."""
LABEL_CHARACTERS_MAX = 64


class Unusable(Exception):
    """The version cannot be run, or not on these rows. The message is for whoever asked."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A version that runs here."""

    spec: ModelSpec
    session: Session
    digest: str

    @property
    def inputs(self) -> tuple[Wanted, ...]:
        """What rows of its inputs look like."""
        return wanted(self.spec.inputs)


@contextmanager
def opened(config: Config, model: str, version: str) -> Iterator[Opened]:
    """Open a version of the configured repository while the context lasts.

    Raises
    ------
    Unusable
        If there is none, or it would not be served.
    """
    candidate = _candidate(config.repository.path, model, version)
    with tempfile.TemporaryDirectory(prefix="turnout-profile-") as scratch:
        store = Store(Path(scratch) / "store", config.admission.file_bytes_max)
        try:
            described = pbtxt.read(candidate.config, model) if candidate.config else ModelConfig(model)
            labels = read_labels(candidate.folder, described)
            artifact = store.put(model, int(version), candidate.versions[int(version)])
            (verdict,) = admit([artifact], config.admission)
            if verdict.reason is not None:
                raise Unusable(f"{model}@{version} is refused: {verdict.reason}")
            session = open_onnx(str(artifact.path), Device.CPU, config.engine.threads, described.graph_level)
            inputs, outputs = signature(session)
            rows_max = config.batching.rows_max if could_batch(inputs, outputs) else 0
            spec = complete(artifact, described, inputs, outputs, rows_max, labels)
        except ValueError as error:  # Refusals, and mistakes in its configuration.
            raise Unusable(f"{model}@{version}: {error}") from None
        runs = Session(session, spec.inputs, spec.outputs)
        yield Opened(_checked(spec, runs), runs, artifact.digest)


def _candidate(repository: Path, model: str, version: str) -> Candidate:
    try:
        models = scan(repository)
    except OSError as error:
        raise Unusable(
            f"{repository}: {error.strerror}; --repository DIR says where the models are"
        ) from None
    found = models.get(model)
    if found is None:
        near = get_close_matches(model, models, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(models)) or 'none'}"
        raise Unusable(f"no model {model!r} in {repository}; {hint}")
    if int(version) not in found.versions:
        fault = found.reason or found.faults.get(int(version))
        there = ", ".join(map(str, sorted(found.versions)))
        raise Unusable(f"{model}@{version}: {fault or f'no such version in {repository}; there are {there}'}")
    return found


def _checked(spec: ModelSpec, session: Session) -> ModelSpec:
    """Return the version, without batches if it does not ask for any and rows are not independent."""
    if spec.config.rows_max is not None or spec.rows_max <= 1:
        return spec
    stop = Stop()
    sample = find_sample(session, spec, stop)
    if sample is not None and rows_are_independent(session, sample, stop):
        return spec
    return complete(spec.artifact, spec.config, spec.inputs, spec.outputs, 0, spec.labels)


def profile(version: Opened, table: Table, config: Config, made_at: str) -> Profile:
    """Return the profile of a version: of the inputs in a file and of what it answers to them.

    Raises
    ------
    Unusable
        If it refuses some of the rows.
    BadRows
        If the file holds what is no row after all, or too much.
    """
    spec, rows = version.spec, bool(version.spec.rows_max)
    looks = {
        each.name: found
        for of, specs in (("output", spec.outputs), ("input", spec.inputs))
        for each in specs
        if (found := look(each, of, config.drift, rows)) is not None  # type: ignore[arg-type]
    }
    gathering, texts = Gathering(sorted(looks.values(), key=lambda each: each.of)), _Texts()
    for block in _answered(version, table):
        taken = {name: _taken(looks[name], parts) for name, parts in block.items() if name in looks}
        texts.note(block)
        try:
            gathering.add(taken)
        except TooMuch as error:
            raise BadRows(f"{table.path}: {error}") from None
    words = {name: Words(table.names.get(name, ()), texts.of(name, spec.labels)) for name in looks}
    references = gathering.references(config.drift.categories_max, words)
    artifact = spec.artifact
    return Profile(
        artifact.model, str(artifact.version), version.digest, references, made_at, table.path.name
    )


def _taken(found: Look, parts: Sequence[NDArray[Any]]) -> features.Rows:
    try:
        return np.concatenate([features.rows(found, each) for each in parts])
    except features.Misfit as error:
        raise Unusable(str(error)) from None


def _answered(version: Opened, table: Table) -> Iterator[Mapping[str, list[NDArray[Any]]]]:
    """Yield the inputs that the version is given and its outputs, block by block, as the runs' arrays."""
    first = 0
    for block in table.blocks():
        count = len(next(iter(block.values())))
        yield _run(version, block, count, f"{table.path}: row", first)
        first += count


def _run(
    version: Opened, block: Arrays, count: int, where: str, first: int
) -> Mapping[str, list[NDArray[Any]]]:
    spec, stop = version.spec, Stop()
    step = max(spec.rows_max, 1)
    by_rows = {each.name for each in spec.inputs if each.shape[:1] == (-1,)}
    runs: dict[str, list[NDArray[Any]]] = {}
    for start in range(0, count, step):
        feeds = {
            name: array[start : start + step] if name in by_rows else array[start]
            for name, array in block.items()
        }
        try:
            outputs = version.session.run(feeds, stop)
        except (Invalid, Failed) as error:
            last = min(start + step, count)
            rows = f"{first + start + 1}" + (f" to {first + last}" if last > start + 1 else "")
            raise Unusable(f"{where} {rows}: {error}") from None
        for each, array in zip(spec.outputs, outputs, strict=True):
            runs.setdefault(each.name, []).append(array)
        for name, array in feeds.items():
            runs.setdefault(name, []).append(array)
    return runs


class _Texts:
    """Which text each code stands for, of tensors that hold texts."""

    def __init__(self) -> None:
        self._of: dict[str, dict[int, str]] = {}

    def note(self, block: Mapping[str, list[NDArray[Any]]]) -> None:
        """Look at the texts of a block."""
        for name, parts in block.items():
            if parts[0].dtype == np.object_:
                known = self._of.setdefault(name, {})
                for part in parts:
                    if len(known) < LABELS_MAX:
                        known.update(
                            (features.code(text), text[:LABEL_CHARACTERS_MAX])
                            for text in set(part.reshape(-1).tolist())
                        )

    def of(self, name: str, labels: Mapping[str, tuple[str, ...]]) -> Mapping[int, str]:
        """Return what codes of a tensor mean: the labels of its classes, or the texts that it held."""
        return dict(enumerate(labels[name])) if name in labels else self._of.get(name, {})
