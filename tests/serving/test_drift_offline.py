"""A profile made from a file is of what the version itself takes and answers."""

from __future__ import annotations

import numpy as np
import pytest

from serving import demo
from serving.config import Config, Repository
from serving.drift import offline, rows
from serving.drift.offline import Unusable
from serving.drift.profile import Alphabet, Edges, Profile
from serving.drift.rows import BadRows, open_rows
from serving.drift.view import look, matches
from serving.wire import DATATYPES, TensorSpec
from tests import models

NOW = "2026-11-24T14:05:00.000000Z"


def made(repository, path, model: str = "m", version: str = "1", **settings: dict) -> Profile:
    config = Config(repository=Repository(path=repository), **settings)
    with offline.opened(config, model, version) as opened:
        return offline.profile(opened, open_rows(path, opened.inputs), config, NOW)


def saved(tmp_path, **arrays: np.ndarray):
    np.savez(tmp_path / "rows.npz", **arrays)
    return tmp_path / "rows.npz"


def test_the_demo_makes_a_profile_of_images_and_answers(demo_folder):
    profile = made(demo_folder / "models", demo_folder / "rows" / "digits.npz", "digits", "8")
    assert {name: each.of for name, each in profile.tensors.items()} == {
        "image": "input",
        "label": "output",
        "probabilities": "output",
    }
    assert (profile.n, profile.features, profile.source) == (1797, 78, "digits.npz")
    image = profile.tensors["image"].panels["values"]
    assert isinstance(image, Edges)
    assert image.high.max() == 16
    classes = profile.tensors["probabilities"].panels["class"]
    assert isinstance(classes, Alphabet)
    assert classes.labels == (demo.DIGIT_NAMES,)


def test_names_of_a_tables_columns_become_those_of_the_features(demo_folder):
    profile = made(demo_folder / "models", demo_folder / "rows" / "wine.csv", "wine", "1")
    assert profile.tensors["measurements"].panels["values"].features[:2] == ("alcohol", "malic_acid")


@pytest.mark.parametrize("elements", [16, 100_000])
def test_batches_and_blocks_make_no_difference(tmp_path, monkeypatch, elements):
    models.place(tmp_path, "m", 1, models.mlp(), "max_batch_size: 8")
    models.place(tmp_path, "alone", 1, models.mlp(), "max_batch_size: 0")
    path = saved(tmp_path, x=np.random.default_rng(5).normal(size=(100, 16)).astype(np.float32))
    whole = made(tmp_path, path)
    monkeypatch.setattr(rows, "BLOCK_ELEMENTS", elements)
    for model in ("m", "alone"):
        profile = made(tmp_path, path, model)
        mine, theirs = profile.tensors["x"].panels["values"], whole.tensors["x"].panels["values"]
        assert (mine.edges == theirs.edges).all()
        assert (mine.counts == theirs.counts).all()
        assert profile.tensors["y"].panels["class"].counts.tolist() == (
            whole.tensors["y"].panels["class"].counts.tolist()
        )


def test_rows_that_depend_on_each_other_are_run_one_by_one(tmp_path):
    models.place(tmp_path, "m", 1, models.centred())
    profile = made(tmp_path, saved(tmp_path, x=np.arange(40, dtype=np.float32).reshape(10, 4)))
    scores = profile.tensors["y"].panels["scores"]
    assert (scores.low == 0).all()
    assert (scores.high == 0).all()


def test_a_model_of_one_fixed_shape_takes_a_tensor_a_row(tmp_path):
    models.place(tmp_path, "m", 1, models.identity("FP32", (2, 3)))
    profile = made(tmp_path, saved(tmp_path, x=np.arange(30, dtype=np.float32).reshape(5, 2, 3)))
    assert profile.tensors["x"].panels["values"].n == 5
    assert profile.tensors["x"].panels["values"].features == ("0,0", "0,1", "0,2", "1,0", "1,1", "1,2")


def test_texts_are_shown_as_they_are(tmp_path):
    models.place(tmp_path, "m", 1, models.identity("BYTES", ("N", 1)))
    profile = made(tmp_path, saved(tmp_path, x=np.array([["red"], ["blue"], ["red"]])))
    alphabet = profile.tensors["x"].panels["codes"]
    (labels,) = alphabet.labels
    assert dict(zip(labels, alphabet.counts[:, 0].tolist(), strict=False)) == {"red": 2, "blue": 1}


@pytest.mark.parametrize("datatype", ["BOOL", "INT8", "UINT64", "FP16", "FP64", "BF16"])
def test_every_datatype_has_a_profile(tmp_path, datatype):
    models.place(tmp_path, "m", 1, models.identity(datatype, ("N", 3)))
    profile = made(tmp_path, saved(tmp_path, x=np.array([[0, 1, 1], [1, 0, 1]])))
    assert profile.n == 2
    assert set(profile.tensors) == {"x", "y"}


def test_rows_of_open_width_count_as_elements(tmp_path):
    models.place(tmp_path, "m", 1, models.identity("FP32", ("N", "M")), "max_batch_size: 4")
    profile = made(tmp_path, saved(tmp_path, x=np.ones((10, 7))))
    assert profile.tensors["x"].panels["values"].features == ("all",)
    assert profile.tensors["x"].n == 70


@pytest.mark.parametrize(
    ("datatype", "dims", "rows"),
    [
        ("FP32", ("N", 5), (3, 5)),
        ("FP32", ("N", 40), (3, 40)),
        ("FP32", ("N", 600), (3, 600)),
        ("FP64", ("N", 3, 2), (3, 3, 2)),
        ("INT64", ("N", 2), (3, 2)),
        ("FP32", ("N", "M", 2), (3, 4, 2)),
        ("FP32", ("N", 3, 20, 20), (3, 3, 20, 20)),
        ("UINT8", ("N", 20, 20, 3), (3, 20, 20, 3)),
        ("BYTES", ("N", 1), (3, 1)),
        ("BOOL", ("N",), (3,)),
    ],
)
def test_live_rows_are_looked_at_as_the_profile_was_made(tmp_path, datatype, dims, rows):
    models.place(tmp_path, "m", 1, models.identity(datatype, dims), "max_batch_size: 4")
    values = np.random.default_rng(5).integers(0, 2, rows)
    profile = made(tmp_path, saved(tmp_path, x=values.astype(str) if datatype == "BYTES" else values))
    for tensor, of in (("x", "input"), ("y", "output")):
        spec = TensorSpec(tensor, DATATYPES[datatype], tuple(d if isinstance(d, int) else -1 for d in dims))
        chosen = look(spec, of, Config().drift, rows=True, profile=profile)
        assert chosen is not None
        assert matches(chosen, profile.tensors[tensor])
        wider = Config(drift={"features_max": 1}).drift
        assert look(spec, of, wider, rows=True, profile=profile) == chosen


def test_a_version_that_is_not_there_is_said_with_those_that_are(tmp_path):
    models.place(tmp_path, "digits", 1, models.constant(1))
    path = saved(tmp_path, x=np.ones((2, 4)))
    with pytest.raises(Unusable, match="no model 'digit' in .*; did you mean 'digits'"):
        made(tmp_path, path, "digit")
    with pytest.raises(Unusable, match="digits@2: no such version in .*; there are 1"):
        made(tmp_path, path, "digits", "2")
    with pytest.raises(Unusable, match="No such file or directory; --repository DIR says"):
        made(tmp_path / "nowhere", path)


def test_a_version_that_would_not_be_served_is_not_run(tmp_path):
    models.place(tmp_path, "m", 1, models.constant(1))
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(Unusable, match="m@1 is refused: model.onnx is not an ONNX file"):
        made(tmp_path, saved(tmp_path, x=np.ones((2, 4))))
    models.place(tmp_path, "k", 1, models.constant(1), "max_bath_size: 8")
    with pytest.raises(Unusable, match="k@1: config.pbtxt"):
        made(tmp_path, saved(tmp_path, x=np.ones((2, 4))), "k")


def test_more_rows_than_are_held_are_refused_with_what_would_do(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.drift.build.GATHERED_BYTES_MAX", 1000)
    models.place(tmp_path, "m", 1, models.constant(1))
    with pytest.raises(BadRows, match="a random sample of fewer rows makes as good a profile"):
        made(tmp_path, saved(tmp_path, x=np.ones((200, 4))))
