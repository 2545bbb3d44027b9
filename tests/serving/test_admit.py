"""A hostile file must be refused in its own words, in bounded time, and take nothing else with it."""

from __future__ import annotations

import os
import re
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from serving.admit import Verdict, admit, rules
from serving.config import Admission
from serving.model import Artifact
from serving.regular import Refusal
from serving.store import Store
from tests import hostile

SHORT = Admission(deadline_s=3.0, memory_bytes_max=256 << 20, file_bytes_max=64 << 20)
ROOMY = Admission(deadline_s=60.0)
WEIGHTS = b"\0\0\x80\x3f" * 4


def lie(folder: Path) -> Artifact:
    """Return the artifact of a folder as if it were in the store, to try what the store refuses."""
    return Artifact("m", 1, "0" * 64, folder / "model.onnx", 0)


def put(tmp_path: Path, **contents: bytes) -> list[Artifact]:
    store = Store(tmp_path / "store")
    return [
        store.put(name, 1, hostile.lay_out(tmp_path / "models" / name / "1", content))
        for name, content in contents.items()
    ]


def judge(tmp_path: Path, content: bytes, limits: Admission = SHORT) -> Verdict:
    (verdict,) = admit(put(tmp_path, m=content), limits)
    return verdict


def packaged(package: str, pattern: str) -> dict[str, bytes]:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    found = Path(spec.submodule_search_locations[0]).glob(pattern)
    return {path.stem.replace(".", "_"): path.read_bytes() for path in sorted(found)}


def admitted(tmp_path: Path, models: dict[str, bytes]) -> list[Verdict]:
    verdicts = admit(put(tmp_path, **models), ROOMY)
    assert {v.artifact.model: v.reason for v in verdicts} == dict.fromkeys(models)
    return verdicts


def test_silero_is_admitted_in_all_its_variants_and_was_really_run(tmp_path):
    verdicts = admitted(tmp_path, packaged("silero_vad", "data/*.onnx"))
    assert len(verdicts) >= 5
    assert [v.note for v in verdicts if v.note] == []


def test_magika_is_admitted_and_was_really_run(tmp_path):
    assert [v.note for v in admitted(tmp_path, packaged("magika", "models/*/*.onnx"))] == [None]


def test_the_light_models_of_the_onnx_package_are_admitted_and_were_really_run(tmp_path):
    models = packaged("onnx", "backend/test/data/light/*.onnx")
    for slow in ("light_bvlc_alexnet", "light_vgg19", "light_zfnet512"):
        del models[slow]  # They make up their weights at load, which takes seconds and shows no more.
    verdicts = admitted(tmp_path, models)
    assert len(verdicts) >= 6
    assert [v.note for v in verdicts if v.note] == []


def test_three_small_models_take_about_a_second(tmp_path):
    artifacts = put(tmp_path, a=hostile.identity(), b=hostile.identity(), c=hostile.identity())
    took_s = []
    for _ in range(3):
        began_s = time.perf_counter()
        assert all(verdict.reason is None for verdict in admit(artifacts, ROOMY))
        took_s.append(time.perf_counter() - began_s)
    assert min(took_s) < 2.0  # 0.2 s on an idle machine.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "model.onnx is empty"),
        (b"\x08\x09 this is not protobuf", "not an ONNX file, or only a part of one"),
        (bytes(range(256)) * 16, "not an ONNX file"),
        (hostile.identity()[:-7], "not an ONNX file, or only a part of one"),
        (hostile.unknown_operator(), "com.example.evil:Exfiltrate.* is not a registered function/op"),
        (hostile.future_opset(), "[Oo]pset.*999"),
        (
            hostile.sequence_output(),
            r"output 'y' is a seq\(tensor\(float\)\), which the protocol cannot carry",
        ),
        (hostile.rankless_input(), "input 'x' has no shape"),
        (hostile.fixed_shape_that_fails(), "its first run failed: .*Reshape"),
    ],
    ids=["empty", "garbage", "noise", "truncated", "domain", "opset", "sequence", "rankless", "failing"],
)
def test_a_broken_file_is_refused_for_what_is_wrong_with_it(tmp_path, content, reason):
    verdict = judge(tmp_path, content)
    assert verdict.reason is not None
    assert re.search(reason, verdict.reason), verdict.reason
    assert str(tmp_path) not in verdict.reason
    assert "onnxruntime_src" not in verdict.reason
    assert "Traceback" not in verdict.reason
    assert "ONNXRuntimeError" not in verdict.reason


@pytest.mark.parametrize(
    ("content", "stage"),
    [
        (hostile.inlining_bomb(), "loading it"),
        (hostile.folding_bomb(), "loading it"),
        (hostile.endless_loop(), "its first run"),
    ],
    ids=["inlining", "folding", "loop"],
)
def test_what_hangs_is_killed_at_the_deadline(tmp_path, content, stage):
    limits = SHORT.model_copy(update={"deadline_s": 1.5})
    began_s = time.monotonic()
    verdict = judge(tmp_path, content, limits)
    assert verdict.reason == f"{stage} did not finish within 1.5 s"
    assert time.monotonic() - began_s < 60


@pytest.mark.parametrize(
    "content",
    [hostile.constant_of_shape_bomb(), hostile.expand_bomb(), hostile.range_bomb()],
    ids=["constant", "expand", "range"],
)
def test_what_takes_too_much_memory_is_refused_for_that(tmp_path, content):
    verdict = judge(tmp_path, content)
    assert verdict.reason is not None
    assert "memory" in verdict.reason


def test_it_is_the_limit_that_refuses_memory(tmp_path):
    assert judge(tmp_path, hostile.expand_bomb(), ROOMY).reason is None


def test_a_refused_file_takes_no_good_one_with_it(tmp_path):
    artifacts = put(
        tmp_path,
        a=hostile.identity(),
        b=hostile.endless_loop(),
        c=hostile.no_inputs(),
        d=b"broken",
        e=hostile.identity(),
    )
    verdicts = admit(artifacts, SHORT.model_copy(update={"deadline_s": 1.0}))
    assert [verdict.artifact.model for verdict in verdicts] == ["a", "b", "c", "d", "e"]
    assert [verdict.reason is None for verdict in verdicts] == [True, False, True, False, True]


def test_no_process_is_left_behind(tmp_path):
    before = set(psutil.Process().children(recursive=True))
    judge(tmp_path, hostile.endless_loop(), SHORT.model_copy(update={"deadline_s": 0.5}))
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_model_without_inputs_is_admitted_and_was_really_run(tmp_path):
    verdict = judge(tmp_path, hostile.no_inputs())
    assert (verdict.reason, verdict.note) == (None, None)


def test_a_model_that_takes_none_of_the_sizes_tried_is_admitted_with_a_note(tmp_path):
    """An open dimension that must be 13 cannot be guessed, and is nothing to refuse a model for."""
    made = hostile.model(
        [hostile.helper.make_node("Reshape", ["x", "s"], ["y"])],
        [hostile.value("x", shape=["N", "M"])],
        initializers=[hostile.numpy_helper.from_array(hostile.np.array([13], "int64"), "s")],
    )
    verdict = judge(tmp_path, hostile.dump(made))
    assert verdict.reason is None
    assert verdict.note is not None
    assert "none of the inputs tried" in verdict.note


@pytest.mark.parametrize("place", hostile.PLACES)
@pytest.mark.parametrize(
    "location", ["../weights", "/etc/hostname", "a\\..\\weights", "sub/../weights", "*/_ORT_MEM_ADDR_/*", ""]
)
def test_weights_outside_the_folder_are_refused_wherever_they_hide(tmp_path, place, location):
    from serving.external import check_external

    (tmp_path / "weights").write_bytes(WEIGHTS)
    made = hostile.onnx.ModelProto.FromString(hostile.PLACES[place](hostile.external(location)))
    folder = tmp_path / "v"
    folder.mkdir()
    with pytest.raises(Refusal, match=r"tensor 'w': external data in .* (leads out|is not a plain)"):
        check_external(made, folder)


def test_the_child_refuses_weights_outside_the_folder_of_its_own_accord(tmp_path):
    (tmp_path / "weights").write_bytes(WEIGHTS)
    places = {
        str(index): lie(hostile.lay_out(tmp_path / str(index), build(hostile.external("../weights"))))
        for index, build in enumerate(hostile.PLACES.values())
    }
    verdicts = admit(list(places.values()), SHORT)
    assert all("leads out of the version's folder" in (verdict.reason or "") for verdict in verdicts)


def test_weights_behind_a_link_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(WEIGHTS)
    soft = hostile.lay_out(tmp_path / "soft", hostile.in_initializer(hostile.external("w.bin")))
    (soft / "w.bin").symlink_to(tmp_path / "secret")
    hard = hostile.lay_out(tmp_path / "hard", hostile.in_initializer(hostile.external("w.bin")))
    (hard / "w.bin").hardlink_to(tmp_path / "secret")
    above = hostile.lay_out(tmp_path / "above", hostile.in_initializer(hostile.external("sub/secret")))
    (above / "sub").symlink_to(tmp_path)
    reasons = [verdict.reason or "" for verdict in admit([lie(soft), lie(hard), lie(above)], SHORT)]
    assert "symbolic link" in reasons[0]
    assert "2 hard links" in reasons[1]
    assert "symbolic link" in reasons[2]


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ({"offset": "4"}, "ends after the file does"),
        ({"offset": "9" * 18}, "ends after the file does"),
        ({"offset": "-4"}, "must be numbers of bytes"),
        ({"length": "1e3"}, "must be numbers of bytes"),
        ({"length": "12"}, "its shape needs 16 bytes, its external data has 12"),
        ({"prepacked_0": "x"}, "expected .* once each"),
    ],
)
def test_weights_that_their_file_does_not_hold_are_refused(tmp_path, described, reason):
    from serving.external import check_external

    (tmp_path / "w.bin").write_bytes(WEIGHTS)
    made = hostile.add_weights(hostile.external("w.bin", **described))
    with pytest.raises(Refusal, match=reason):
        check_external(made, tmp_path)


def test_weights_described_twice_are_refused(tmp_path):
    from serving.external import check_external

    (tmp_path / "w.bin").write_bytes(WEIGHTS)
    tensor = hostile.external("w.bin")
    tensor.external_data.add(key="location", value="../other")
    with pytest.raises(Refusal, match="once each"):
        check_external(hostile.add_weights(tensor), tmp_path)


def test_weights_beside_the_model_are_admitted(tmp_path):
    content = hostile.in_initializer(hostile.external("w.bin", (1,), offset="4", length="4"))
    folder = hostile.lay_out(tmp_path / "models" / "m" / "1", content, **{"w.bin": WEIGHTS})
    (verdict,) = admit([Store(tmp_path / "store").put("m", 1, folder)], SHORT)
    assert (verdict.reason, verdict.note) == (None, None)


def test_what_is_no_file_is_refused_by_the_child_without_being_opened(tmp_path):
    pipe, folder, link = tmp_path / "pipe", tmp_path / "folder", tmp_path / "link"
    for each in (pipe, link):
        each.mkdir()
    os.mkfifo(pipe / "model.onnx")
    (folder / "model.onnx").mkdir(parents=True)
    (link / "model.onnx").symlink_to("/dev/zero")
    reasons = [verdict.reason or "" for verdict in admit([lie(pipe), lie(folder), lie(link)], SHORT)]
    assert "is a pipe" in reasons[0]
    assert "is a folder" in reasons[1]
    assert "is a symbolic link" in reasons[2]


def test_a_file_over_the_limit_is_refused(tmp_path):
    verdict = judge(tmp_path, hostile.identity(), SHORT.model_copy(update={"file_bytes_max": 10}))
    assert verdict.reason is not None
    assert "admission.file_bytes_max is 10" in verdict.reason


def test_nothing_to_try_starts_no_process(monkeypatch):
    monkeypatch.delattr("subprocess.Popen")
    assert admit([], SHORT) == []


def test_other_limits_are_other_rules():
    assert rules(SHORT) != rules(ROOMY)
    assert rules(SHORT) == rules(SHORT.model_copy())


def test_the_child_gets_none_of_the_servers_secrets(tmp_path, monkeypatch):
    from serving.confine import environment

    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert "secret" not in environment().values()
