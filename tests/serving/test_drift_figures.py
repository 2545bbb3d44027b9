from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import loglinear
from serving.config import Drift as Settings
from serving.drift.case import Case
from serving.drift.drift import Drift
from serving.drift.reading import StreamReading
from serving.drift.report import Distances, Feature, Report, Stream, Version
from serving.drift.statement import statement
from serving.drift.store import Store
from serving.drift.stream import Stream as DriftStream
from serving.drift.tally import Tally
from serving.drift.view import Kind, Look, View
from tests.counted import Counted, codes_profile, normal, profile, tally
from tests.serving.test_drift_control import START_US, a_folder
from tests.slow import slow

KEY = ("m", "7", "live", "x")
PROFILE = profile()


def shown(drift: Drift) -> Any:
    """Return the report as it arrives: JSON, which has neither NaN nor Inf."""
    drift.evaluate(["r1"], START_US)
    return json.loads(json.dumps(statement(drift, "m", START_US), allow_nan=False))


def features(said: Any) -> dict[str, Any]:
    [version] = said["versions"]
    [stream] = version["streams"]
    return {each["feature"]: each for each in stream["features"]}


odd = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(arrays(np.float32, st.tuples(st.integers(1, 60), st.just(3)), elements=odd))
@slow
def test_figures_are_those_of_the_values_however_odd_these_are(matrix):
    with a_folder() as folder:
        drift, counted = Drift(Store(folder), Settings(), 1.0, START_US), Counted(1, PROFILE)
        drift.put(PROFILE, START_US)
        counted.count(matrix)
        drift.note(counted.told("r1"), START_US)
        for at, name in enumerate("abc"):
            feature, column = features(shown(drift))[name], matrix[:, at].astype(np.float64)
            window, finite = feature["windows"]["sliding"], column[np.isfinite(column)]
            assert feature["windows"]["start"] == window
            assert (window["n"], window["nan"], window["inf"]) == (
                len(column),
                np.isnan(column).sum(),
                np.isinf(column).sum(),
            )
            reference = feature["reference"]
            assert window["out"] == ((finite < reference["low"]) | (finite > reference["high"])).sum()
            assert (feature["seen"]["low"] is None) == (len(finite) == 0)
            if len(finite):
                assert (feature["seen"]["low"], feature["seen"]["high"]) == (finite.min(), finite.max())
                scale = np.abs(finite).max() + 1
                assert window["mean"] / scale == pytest.approx(finite.mean() / scale, abs=1e-9)


def test_a_panel_pays_for_all_features_that_are_judged_with_it():
    [reference] = PROFILE.tensors.values()
    [panel] = reference.panels.values()
    both = replace(reference, panels={"one": panel, "other": panel})
    rows = tally(panel, normal(500, shift=1.0))
    stream = DriftStream(KEY, "h", both, Settings(), START_US)
    case, alone = stream.cases["one"], Case(panel, reference.features, 3600.0, 3600.0)
    for each in (case, alone):
        for _ in range(3):
            each.take(rows, 0.0)
    assert (case.detector.log_e < alone.detector.log_e).all()
    assert (case.detector.log_e > 0).any()


def test_distances_are_zero_for_the_reference_itself(tmp_path):
    drift, counted = Drift(Store(tmp_path), Settings(), 1.0, START_US), Counted(1, PROFILE)
    drift.put(PROFILE, START_US)
    counted.count(normal(20_000, 1))
    drift.note(counted.told("r1"), START_US)
    for feature in features(shown(drift)).values():
        for window in feature["windows"].values():
            assert window["n"] == 20_000
            for name in ("psi", "psi_corrected", "js", "ks", "tv", "hellinger", "w1", "chi2"):
                assert window[name] == pytest.approx(0, abs=1e-6)
            assert window["p"] == pytest.approx(1)
            assert (window["nan"], window["inf"], window["out"]) == (0, 0, 0)


def test_categories_are_shown_by_how_much_their_shares_differ(tmp_path):
    reference = codes_profile(np.repeat([1, 2, 3], [50, 30, 20])[:, None].astype(np.int64))
    drift, counted = Drift(Store(tmp_path), Settings(), 1.0, START_US), Counted(1, reference)
    drift.put(reference, START_US)
    counted.count(np.repeat([1, 3, 9], [5, 2, 3])[:, None].astype(np.int64))
    drift.note(counted.told("r1"), START_US)
    feature = features(shown(drift))["a"]
    assert feature["categories"][:2] == [
        {"label": "2", "share": 0.0, "reference": 0.3},
        {"label": "other", "share": 0.3, "reference": 0.0},
    ]
    window = feature["windows"]["start"]
    assert (window["out"], window["tv"]) == (3, pytest.approx(0.3))
    assert (window["ks"], window["w1"], window["mean"]) == (None, None, None)


def unreferenced(tally: Tally, look: Look, rows: int) -> dict[Any, Any]:
    [panel] = look.panels
    reading = StreamReading(1, "", look, rows, {}, {panel.name: tally})
    return {("r1", 1): (KEY, reading.to_json())}


def test_without_a_profile_there_are_counts_moments_and_quantiles(tmp_path):
    matrix = normal(5_000, 3, 10.0)
    matrix[:3, 0] = (np.nan, np.inf, -np.inf)
    counts = np.zeros((loglinear.CELLS, 3), np.uint32)
    loglinear.count(matrix, counts)
    finite = np.where(np.isfinite(matrix), matrix, 0).astype(np.float64)
    sums = np.stack([finite.sum(axis=0), (finite**2).sum(axis=0)])
    extremes = np.stack([np.nanmin(finite, axis=0), np.nanmax(finite, axis=0)])
    tally = Tally(Kind.SPREAD, 5_000, counts.astype(np.int64), sums, extremes)
    drift = Drift(Store(tmp_path), Settings(), 1.0, START_US)
    drift.note(unreferenced(tally, Look("x", "input", View.FEATURES, "FP32", (3,)), 5_000), START_US)
    said = shown(drift)
    assert (said["versions"][0]["verdict"], said["drifted"]) == ("no profile", False)
    feature = features(said)["0"]
    window = feature["windows"]["start"]
    assert (window["n"], window["nan"], window["inf"], window["psi"]) == (5_000, 1, 2, None)
    assert (feature["kind"], feature["evidence"], feature["reference"]) == ("spread", None, None)
    assert window["mean"] == pytest.approx(10, abs=0.1)
    assert window["std"] == pytest.approx(1, abs=0.1)
    for q, value in feature["seen"]["quantiles"].items():
        assert value == pytest.approx(np.quantile(matrix[3:, 0], float(q)), rel=0.05)


@pytest.mark.parametrize(("datatype", "label"), [("INT64", "-1"), ("BYTES", "#ffffffffffffffff")])
def test_categories_without_a_profile_are_shown_by_how_many_there_are(tmp_path, datatype, label):
    alphabet = np.array([[-1], [5], [np.iinfo(np.int64).max]])
    counts = np.array([[6], [3], [0], [1]])
    tally = Tally(Kind.CATEGORIES, 10, counts, None, None, alphabet, np.array([2]))
    drift = Drift(Store(tmp_path), Settings(), 1.0, START_US)
    drift.note(unreferenced(tally, Look("x", "output", View.CODES, datatype, (1,)), 10), START_US)
    [feature] = features(shown(drift)).values()
    assert feature["kind"] == "categories"
    assert feature["categories"][0] == {"label": label, "share": 0.6, "reference": None}
    assert [each["share"] for each in feature["categories"]] == [0.6, 0.3, 0.1]


def test_a_report_has_all_the_fields_that_it_is_said_to_have(tmp_path):
    drift, counted = Drift(Store(tmp_path), Settings(), 1.0, START_US), Counted(1, PROFILE)
    drift.put(PROFILE, START_US)
    counted.count(normal(10, 1))
    drift.note(counted.told("r1"), START_US)
    said = shown(drift)
    [version] = said["versions"]
    [stream] = version["streams"]
    feature = stream["features"][0]
    for document, shape in (
        (said, Report),
        (version, Version),
        (stream, Stream),
        (feature, Feature),
        (feature["windows"]["start"], Distances),
    ):
        assert set(document) == set(shape.__annotations__)
