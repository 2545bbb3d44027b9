"""How each kind of tensor is looked at, and that the rows taken are the tensor's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import Drift as Settings
from serving.drift import features
from serving.drift.build import build
from serving.drift.features import Misfit
from serving.drift.view import ELEMENTS_MAX, RUN, Kind, Look, View, look
from serving.wire import DATATYPES, TensorSpec

SETTINGS = Settings()


def seen(datatype, shape, of="input", rows=True, profile=None):
    return look(TensorSpec("x", DATATYPES[datatype], tuple(shape)), of, SETTINGS, rows, profile)


@pytest.mark.parametrize(
    ("datatype", "shape", "of", "view", "elements"),
    [
        ("FP32", [-1, 16], "input", View.FEATURES, 16),
        ("INT64", [-1, 4], "input", View.FEATURES, 4),
        ("FP64", [-1], "input", View.FEATURES, 1),
        ("FP32", [-1, 3, 8, 8], "input", View.FEATURES, 192),
        ("FP32", [-1, 3, 32, 32], "input", View.CHANNELS, 3072),
        ("UINT8", [-1, 32, 32, 3], "input", View.CHANNELS, 3072),
        ("FP32", [-1, 768], "input", View.PROJECTION, 768),
        ("FP32", [-1, 64, 64, 64], "input", View.PROJECTION, ELEMENTS_MAX),
        ("FP32", [-1, 12345], "input", View.PROJECTION, 6144),
        ("BOOL", [-1, 5], "input", View.CODES, 5),
        ("BYTES", [-1, 2], "input", View.CODES, 2),
        ("FP32", [-1, 10], "output", View.SCORES, 10),
        ("BF16", [-1, -1, 10], "output", View.SCORES, 10),
        ("FP32", [-1, 1], "output", View.FEATURES, 1),
        ("INT64", [-1], "output", View.CODES, 1),
    ],
)
def test_what_a_tensor_is_decides_how_it_is_looked_at(datatype, shape, of, view, elements):
    chosen = seen(datatype, shape, of)
    assert (chosen.view, chosen.elements) == (view, elements)
    assert not chosen.loose


def test_rows_of_any_size_are_counted_element_by_element():
    for shape in ([-1, -1], [-1, 3, -1, -1]):
        chosen = seen("FP32", shape)
        assert (chosen.loose, chosen.panels[0].features) == (True, ("all",))
    assert seen("BYTES", [-1, 1000]).loose


def test_a_tensor_without_rows_is_one_row():
    assert seen("FP32", [2, 3], rows=False).shape == (2, 3)
    assert seen("FP32", [-1, 3], rows=False).shape == (3,)
    assert seen("FP32", [], rows=False).panels[0].features == ("value",)


def test_a_row_of_nothing_is_not_looked_at():
    assert seen("FP32", [-1, 0]) is None


def test_each_score_is_a_feature_only_of_few_classes():
    assert [panel.name for panel in seen("FP32", [-1, 32], "output").panels] == [
        "class", "confidence", "scores",
    ]  # fmt: skip
    assert [panel.name for panel in seen("FP32", [-1, 33], "output").panels] == ["class", "confidence"]


def rows_of(chosen, array):
    return features.rows(chosen, array)


shapes = st.sampled_from([[-1, 4], [-1, 2, 3], [-1], [-1, 3, 40, 50], [-1, 40, 50, 3], [-1, 600]])


@given(shapes, st.sampled_from(["FP32", "FP64", "FP16", "BF16", "INT8", "UINT64", "BOOL"]), st.integers(0, 5))
def test_the_rows_taken_are_the_tensor_s_own_whatever_its_datatype(shape, datatype, count):
    array = np.random.default_rng(0).integers(0, 2, [count, *shape[1:]]).astype(DATATYPES[datatype].dtype)
    chosen = seen(datatype, shape)
    taken = rows_of(chosen, array)
    assert taken.dtype == chosen.dtype
    assert np.array_equal(taken.reshape(-1), array.reshape(-1))
    for panel in chosen.panels:
        matrix = features.panels(chosen, taken)[panel.name]
        assert matrix.dtype == chosen.panel_dtype(panel)
        assert matrix.shape == (taken.size // chosen.elements, len(panel.features))
        assert len(set(panel.features)) == len(panel.features)


@pytest.mark.parametrize("shape", [[-1, 3, 224, 224], [-1, 224, 224, 3]])
def test_of_a_large_image_every_so_manieth_pixel_is_taken_with_all_of_its_channels(shape):
    chosen = seen("FP32", shape)
    assert ELEMENTS_MAX // 2 < chosen.elements <= ELEMENTS_MAX + 3 * RUN
    image = np.zeros([2, *shape[1:]], np.float32)
    for channel in range(3):
        image[(slice(None), channel) if shape[1] == 3 else (..., channel)] = channel + 1
    statistics = features.panels(chosen, rows_of(chosen, image))["channels"]
    assert statistics[0].tolist() == [1, 0, 1, 1, 2, 0, 2, 2, 3, 0, 3, 3]


@given(st.integers(1, 3), st.sampled_from([(3, 101, 97), (101, 97, 3), (20_011,), (7, 90, 90)]))
def test_what_is_taken_of_a_long_row_are_whole_runs_of_it_in_order(count, shape):
    chosen = seen("FP32", [-1, *shape])
    array = np.arange(count * np.prod(shape), dtype=np.float32).reshape(count, *shape)
    taken = rows_of(chosen, array)
    channels = shape[chosen.channel_axis] if chosen.channel_axis >= 0 else 1
    run = RUN * (channels if chosen.channel_axis == 2 else 1)
    runs = taken.reshape(count, -1, run)
    assert (np.diff(runs, axis=2) == 1).all()
    assert (
        np.diff(runs[..., 0].reshape(count, channels if run == RUN else 1, -1), axis=2) == chosen.step * run
    ).all()
    assert (taken[:, 0] == array.reshape(count, -1)[:, 0]).all()


def test_a_tensor_of_another_size_is_a_misfit():
    chosen = seen("FP32", [-1, 4])
    for shape in ([2, 5], [8], [2, 2, 4], [4, 2]):
        with pytest.raises(Misfit, match=r"expected rows of \[4\]"):
            rows_of(chosen, np.zeros(shape, np.float32))


def test_scores_may_stand_in_rows():
    chosen = seen("FP32", [-1, -1, 3], "output")
    assert rows_of(chosen, np.zeros((2, 5, 3), np.float32)).shape == (10, 3)


def test_strings_become_codes_that_are_the_same_everywhere():
    assert features.code("digits") == 4788644807680992016
    assert features.code("x" * 256) == features.code("x" * 300)
    taken = rows_of(seen("BYTES", [-1, 2]), np.array([["a", "b"], ["b", "\ud800"]], object))
    assert taken.tolist()[0][1] == taken.tolist()[1][0] == features.code("b")


def test_scores_tell_class_confidence_and_entropy():
    rows = np.array([[0.2, 0.8], [3, 1], [1, 0], [0.5, 0.5], [np.nan, 1], [0, 0]], np.float32)
    classes, confidence, entropy = features.scores(rows)
    assert classes.tolist() == [1, 0, 0, 0, -1, 0]
    assert confidence[[0, 2, 3, 5]].tolist() == pytest.approx([0.8, 1, 0.5, 0.5])
    assert confidence[1] == pytest.approx(np.e**2 / (1 + np.e**2))
    assert entropy[[2, 3, 5]].tolist() == pytest.approx([0, 1, 1])
    assert np.isnan([confidence[4], entropy[4]]).all()


def test_a_look_travels_as_json():
    for chosen in (
        seen("FP32", [-1, 3, 224, 224]),
        seen("BF16", [-1, -1, 3], "output"),
        seen("BYTES", [-1, -1]),
    ):
        assert Look.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


def profiled(chosen, array):
    return build(
        "m", "1", "d", [chosen], [{"x": rows_of(chosen, array)}],
        categories_max=64, made_at="2026-11-24T14:05:00Z", source="a test",
    )  # fmt: skip


def test_a_profile_decides_where_the_model_does_not_say():
    known = seen("INT64", [-1, 4])
    profile = profiled(known, np.arange(40).reshape(10, 4))
    assert seen("INT64", [-1, -1]).loose
    assert seen("INT64", [-1, -1], profile=profile).shape == (4,)
    codes = Look("x", "input", View.CODES, "INT64", (4,))
    chosen = seen("INT64", [-1, 4], profile=profiled(codes, np.arange(40).reshape(10, 4)))
    assert (chosen.view, chosen.panels[0].kind) == (View.CODES, Kind.CATEGORIES)


@pytest.mark.parametrize(
    ("datatype", "shape", "of"),
    [
        ("FP32", [-1, 5], "input"),
        ("FP32", [-1, 4], "output"),
        ("BYTES", [-1, 4], "input"),
        ("FP32", [-1, 3000], "input"),
    ],
)
def test_a_profile_that_cannot_be_of_this_tensor_decides_nothing(datatype, shape, of):
    profile = profiled(seen("FP32", [-1, 4]), np.ones((10, 4), np.float32))
    assert seen(datatype, shape, of, profile=profile) == seen(datatype, shape, of)


@pytest.mark.parametrize(
    ("datatype", "shape", "of"),
    [
        ("FP32", [-1, 4], "input"), ("FP32", [-1, -1], "input"), ("BYTES", [-1, 600], "input"),
        ("FP32", [-1, 3, 40, 50], "input"), ("FP32", [-1, 700], "input"), ("FP32", [-1, 5], "output"),
        ("BOOL", [3], "input"), ("FP64", [], "input"), ("FP16", [-1, 6, 40], "output"),
    ],
)  # fmt: skip
def test_a_profile_made_with_a_look_is_found_to_be_made_with_it(datatype, shape, of):
    rows = shape[:1] == [-1]
    chosen = seen(datatype, shape, of, rows)
    sizes = [4 if size == -1 else size for size in shape]
    array = np.random.default_rng(0).integers(0, 2, sizes).astype(np.float32)
    array = (
        array.astype(str).astype(object) if datatype == "BYTES" else array.astype(DATATYPES[datatype].dtype)
    )
    profile = build(
        "m", "1", "d", [chosen], [{"x": rows_of(chosen, array)}],
        categories_max=64, made_at="", source="",
    )  # fmt: skip
    if profile.tensors["x"].of == of:
        assert seen(datatype, shape, of, rows, profile) == chosen
