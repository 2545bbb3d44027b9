"""The demo's profile tells rotated, noisy and darker digits from unchanged ones, by counts and evidence alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kernels.detect import verdict
from kernels.distance import bins
from serving.config import Config, Drift, Repository
from serving.drift import features, offline
from serving.drift.case import Case
from serving.drift.profile import Alphabet, Edges, Profile
from serving.drift.rows import open_rows
from serving.drift.view import look
from tests.drifting import CHANGES, held_out, plain, rotated, stream

BLOCK = 64
TENSORS = 3
"""They share the model's false alarms."""
EVALUATIONS = 86400
"""A second each, for a day."""


@pytest.fixture(scope="module")
def config(demo_folder) -> Config:
    return Config(repository=Repository(path=demo_folder / "models"))


@pytest.fixture(scope="module")
def opened(config):
    with offline.opened(config, "digits", "8") as version:
        yield version


@pytest.fixture(scope="module")
def profile(demo_folder, config, opened) -> Profile:
    table = open_rows(demo_folder / "rows" / "digits.npz", opened.inputs)
    return offline.profile(opened, table, config, "2026-11-24T14:05:00.000000Z")


def counted(panel: Edges | Alphabet, matrix: np.ndarray) -> np.ndarray:
    """Return the counts of a block as (F, bins), in the slowest way there is."""
    if isinstance(panel, Alphabet):
        known = [(matrix == code).sum(axis=0) for code in panel.codes]
        return np.array([*known, len(matrix) - sum(known)]).T
    at_least = [(matrix >= edge).sum(axis=0) for edge in panel.edges.astype(panel.dtype)]
    counts = np.array([np.isnan(matrix).sum(axis=0), np.isinf(matrix).sum(axis=0), *at_least])
    return bins(counts, len(matrix))


class Watch:
    """Evidence about one tensor."""

    def __init__(self, profile: Profile, tensor: str) -> None:
        reference = profile.tensors[tensor]
        together = reference.features
        self.cases = {name: Case(each, together, 3600.0, 3600.0) for name, each in reference.panels.items()}

    def drifted(self, matrices: dict[str, np.ndarray]) -> bool:
        for name, matrix in matrices.items():
            self.cases[name].detector.update(counted(self.cases[name].panel, matrix))
        with np.errstate(invalid="ignore"):
            psi = [case.psi_changed() for case in self.cases.values()]
        settings = Drift()
        return verdict(
            np.concatenate([case.detector.log_e for case in self.cases.values()]),
            np.nan_to_num(np.concatenate(psi)),
            blocks=EVALUATIONS,
            alpha=settings.false_alarms / TENSORS,
            distance_min=settings.psi_min,
        ).any


def found_after(demo: Path, opened, profile: Profile, change, rows: int, seed: int) -> dict[str, int]:
    """Return after how many rows each tensor is said to have drifted."""
    specs = {each.name: (each, "input") for each in opened.spec.inputs}
    specs |= {each.name: (each, "output") for each in opened.spec.outputs}
    looks = {name: look(spec, of, Drift(), True, profile) for name, (spec, of) in specs.items()}
    watches = {name: Watch(profile, name) for name in looks}
    found: dict[str, int] = {}
    for number, images in enumerate(stream(held_out(demo), change, rows, BLOCK, seed), 1):
        outputs = opened.session.run({"image": images}, offline.Stop())
        names = [each.name for each in opened.spec.outputs]
        for name, array in {"image": images, **dict(zip(names, outputs, strict=True))}.items():
            rows_taken = features.rows(looks[name], array)
            if watches[name].drifted(features.panels(looks[name], rows_taken)):
                found.setdefault(name, number * BLOCK)
    return found


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_changed_stream_is_found_within_a_few_hundred_images(demo_folder, opened, profile, name, seed):
    found = found_after(demo_folder, opened, profile, CHANGES[name], 1024, seed)
    assert found["image"] <= 256
    assert found["probabilities"] <= 768


@pytest.mark.parametrize("seed", [1, 2])
def test_the_unchanged_stream_is_not(demo_folder, opened, profile, seed):
    assert found_after(demo_folder, opened, profile, plain, 20_000, seed) == {}


def test_a_profile_of_learned_rows_alone_would_take_the_answers_to_new_ones_for_drift(
    demo_folder, config, opened, tmp_path
):
    with np.load(demo_folder / "rows" / "digits.npz") as rows:
        np.savez(tmp_path / "learned.npz", image=rows["image"][~rows["held_out"]])
    learned = offline.profile(opened, open_rows(tmp_path / "learned.npz", opened.inputs), config, "")
    assert "probabilities" in found_after(demo_folder, opened, learned, plain, 12_000, 0)


def test_nobody_turns_what_is_round():
    ring = np.zeros((1, 8, 8), np.float32)
    ring[0, 3:5, 3:5] = 16
    turned = rotated(ring.reshape(1, 64), np.random.default_rng(0)).reshape(8, 8)
    assert turned.sum() == pytest.approx(64, rel=0.15)
    assert turned[3:5, 3:5].min() > 10
