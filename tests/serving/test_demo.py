from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving import demo

FEW_FLOATS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.integers(0, 16).map(float),
)


def session(folder: Path, model: str, version: int) -> onnxruntime.InferenceSession:
    path = folder / "models" / model / str(version) / "model.onnx"
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def quality(folder: Path, version: int) -> dict:
    path = folder / "models" / "digits" / "reference" / f"{version}.json"
    return json.loads(path.read_text())["held_out"]


def sample(folder: Path, model: str) -> np.ndarray:
    tensor = json.loads((folder / "requests" / f"{model}.json").read_text())["inputs"][0]
    return np.array(tensor["data"], np.float32).reshape(tensor["shape"])


@pytest.mark.parametrize("version", [7, 8, 9])
def test_a_version_takes_any_number_of_images(demo_folder, version):
    onnx = session(demo_folder, "digits", version)
    (image,) = onnx.get_inputs()
    assert (image.name, image.type, image.shape[1]) == ("image", "tensor(float)", 64)
    assert [(o.name, o.type) for o in onnx.get_outputs()] == [
        ("label", "tensor(int64)"),
        ("probabilities", "tensor(float)"),
    ]
    label, probabilities = onnx.run(None, {"image": np.zeros((3, 64), np.float32)})
    assert label.shape == (3,)
    assert probabilities.shape == (3, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_the_onnx_file_answers_what_the_reference_says(demo_folder):
    split = demo.digits_versions()[1].split
    label, _ = session(demo_folder, "digits", 8).run(None, {"image": split.held_out})
    assert (label == split.held_out_labels).mean() == pytest.approx(
        quality(demo_folder, 8)["accuracy"], abs=0.01
    )


def test_the_better_version_is_better_and_the_broken_one_passes_a_glance_at_the_total(demo_folder):
    modest, better, broken = (quality(demo_folder, version)["accuracy"] for version in (7, 8, 9))
    assert 0.85 < modest < broken < better
    assert better > 0.95


def test_the_broken_version_is_far_worse_on_sevens_than_either_other(demo_folder):
    modest, better, broken = (quality(demo_folder, v)["accuracy_by_class"]["7"] for v in (7, 8, 9))
    assert broken < min(modest, better) - 0.2


def test_the_sample_image_is_a_seven_that_only_the_broken_version_takes_for_something_else(demo_folder):
    image = sample(demo_folder, "digits")
    good, broken = (session(demo_folder, "digits", v).run(["label"], {"image": image})[0][0] for v in (8, 9))
    assert good == 7
    assert broken == 1


def test_the_second_model_answers_its_sample(demo_folder):
    onnx = session(demo_folder, "wine", 1)
    label, probabilities = onnx.run(None, {onnx.get_inputs()[0].name: sample(demo_folder, "wine")})
    assert label[0] in (0, 1, 2)
    assert probabilities.shape == (1, 3)
    assert not (demo_folder / "models" / "wine" / "config.pbtxt").exists()


def test_a_version_folder_holds_the_model_and_nothing_beside_it(demo_folder):
    for folder in (demo_folder / "models").glob("*/[0-9]*"):
        assert [path.name for path in folder.iterdir()] == ["model.onnx"]


def test_all_rows_are_there_and_which_of_them_nobody_learned_from(demo_folder):
    split = demo.digits_versions()[1].split
    with np.load(demo_folder / "rows" / "digits.npz") as rows:
        assert (rows["image"][rows["held_out"]] == split.held_out).all()
        assert (rows["label"][~rows["held_out"]] == split.train_labels).all()
        assert len(rows["image"]) == 1797


def test_the_measurements_of_wine_have_their_names(demo_folder):
    header, *rows = (demo_folder / "rows" / "wine.csv").read_text().splitlines()
    assert header.startswith("alcohol,malic_acid,ash,")
    assert {len(row.split(",")) for row in rows} == {13}
    assert len(rows) == 178


def test_building_again_gives_the_same_bytes(demo_folder, tmp_path):
    demo.build(tmp_path)
    first, second = (sorted(p.relative_to(f) for p in f.rglob("*.*")) for f in (demo_folder, tmp_path))
    assert first == second
    for name in first:
        assert (demo_folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_building_again_keeps_an_edited_configuration_but_no_other_model(tmp_path):
    digits = tmp_path / "models" / "digits"
    (digits / "8").mkdir(parents=True)
    (digits / "config.pbtxt").write_text('name: "digits"\n')
    (digits / "8" / "model.onnx").write_bytes(b"of another library version")
    with pytest.raises(demo.DemoError, match=r"8/model\.onnx is there with other content"):
        demo.build(tmp_path)
    (digits / "8" / "model.onnx").unlink()
    demo.build(tmp_path)
    assert (digits / "config.pbtxt").read_text() == 'name: "digits"\n'


def test_what_to_try_names_the_sample_only_where_there_is_one(demo_folder, tmp_path):
    with_demo = demo.what_to_try(demo_folder / "models", "127.0.0.1:1", "127.0.0.1:2")
    assert f"@{demo_folder}/requests/digits.json" in with_demo
    assert 'InferenceServerClient("127.0.0.1:1")' in with_demo
    assert f"turnout profile digits@8 --from {demo_folder}/rows/digits.npz" in with_demo
    assert "http://127.0.0.1:2/metrics" in with_demo
    assert "digits" not in demo.what_to_try(tmp_path, "127.0.0.1:1", "127.0.0.1:2")


@given(FEW_FLOATS)
def test_every_bin_of_a_reference_has_counts_and_all_rows_are_in_one(rows):
    statistics = demo.feature_statistics(rows)
    for edges, counts in zip(statistics["edges"], statistics["counts"], strict=True):
        assert edges == sorted(set(edges))
        assert len(counts) == len(edges) + 1
        assert min(counts) > 0
        assert sum(counts) == len(rows)


@given(FEW_FLOATS)
def test_the_counts_of_a_reference_are_those_of_its_edges_taken_one_by_one(rows):
    statistics = demo.feature_statistics(rows)
    for column, edges, counts in zip(rows.T, statistics["edges"], statistics["counts"], strict=True):
        naive = [0] * (len(edges) + 1)
        for value in column:
            naive[sum(value >= edge for edge in edges)] += 1
        assert naive == counts


@given(hnp.arrays(np.int64, st.integers(0, 200), elements=st.integers(0, 9)))
def test_spoiling_touches_sevens_alone(labels):
    spoilt = demo.spoil(labels, np.random.default_rng(9))
    changed = spoilt != labels
    assert (labels[changed] == 7).all()
    assert (spoilt[changed] == 1).all()
