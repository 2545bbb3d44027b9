"""A repository holds what can be tried, and says of everything else why not."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.regular import Refusal, open_regular
from serving.repository import MODEL_NAME, VERSION_NAME, scan
from tests.hostile import lay_out


def test_a_model_has_its_versions_and_its_configuration(tmp_path):
    for version in ("1", "7", "10"):
        lay_out(tmp_path / "fraud" / version, b"onnx")
    (tmp_path / "fraud" / "config.pbtxt").write_text("")
    candidate = scan(tmp_path)["fraud"]
    assert sorted(candidate.versions) == [1, 7, 10]
    assert candidate.versions[7] == (tmp_path / "fraud" / "7").resolve()
    assert candidate.config == tmp_path.resolve() / "fraud" / "config.pbtxt"
    assert (candidate.reason, candidate.faults) == (None, {})


def test_a_model_without_configuration_is_usable(tmp_path):
    lay_out(tmp_path / "fraud" / "1", b"onnx")
    assert scan(tmp_path)["fraud"].config is None


def test_what_is_no_version_is_passed_over(tmp_path):
    lay_out(tmp_path / "m" / "1", b"onnx")
    for name in ("01", "0", "-1", "1.5", "v2", "warmup", ".2", "\u0663"):
        lay_out(tmp_path / "m" / name, b"onnx")
    (tmp_path / "m" / "3").write_text("a file")
    candidate = scan(tmp_path)["m"]
    assert (sorted(candidate.versions), candidate.faults) == ([1], {})


def test_hidden_folders_and_plain_files_are_no_models(tmp_path):
    lay_out(tmp_path / ".git" / "1", b"onnx")
    (tmp_path / "README.md").write_text("models")
    assert scan(tmp_path) == {}


@given(st.text(max_size=140))
def test_a_model_name_is_one_plain_path_segment(name):
    if MODEL_NAME.fullmatch(name):
        assert name.isascii()
        assert len(name) <= 128
        assert not name.startswith((".", "-", "_"))
        assert not set(name) & set("/\\%\0\n ")


@given(st.integers(1, 10**17))
def test_a_version_is_known_by_one_spelling(number):
    assert VERSION_NAME.fullmatch(str(number))
    assert not VERSION_NAME.fullmatch(f"0{number}")


def test_a_name_that_no_request_could_spell_is_refused(tmp_path):
    for name in ("a b", "-x", "é", "x" * 129):
        lay_out(tmp_path / name / "1", b"onnx")
    (tmp_path / os.fsdecode(b"bad\xff")).mkdir()
    found = scan(tmp_path)
    assert len(found) == 5
    assert all("folder's name cannot be a model's" in (each.reason or "") for each in found.values())
    for name in found:
        name.encode()


def test_a_model_without_versions_says_what_is_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "such as 1/model.onnx" in (scan(tmp_path)["empty"].reason or "")


def test_one_broken_version_does_not_hide_the_others(tmp_path):
    lay_out(tmp_path / "m" / "1", b"onnx")
    (tmp_path / "m" / "2").mkdir()
    candidate = scan(tmp_path)["m"]
    assert sorted(candidate.versions) == [1]
    assert candidate.faults == {2: "2/model.onnx: No such file or directory"}
    assert candidate.reason is None


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def _folder(path):
    path.mkdir()


def _symlink(path):
    (path.parent / "real").write_bytes(b"onnx")
    path.symlink_to(path.parent / "real")


def _hardlink(path):
    (path.parent / "real").write_bytes(b"onnx")
    path.hardlink_to(path.parent / "real")


def _dangling(path):
    path.symlink_to(path.parent / "nowhere")


IMPOSTORS = [
    (_pipe, "is a pipe, socket or device"),
    (_socket, "is a pipe, socket or device"),
    (_folder, "is a folder"),
    (_symlink, "is a symbolic link"),
    (_dangling, "is a symbolic link"),
    (_hardlink, "has 2 hard links"),
]


@pytest.mark.parametrize(("make", "fault"), IMPOSTORS)
def test_an_impostor_of_a_model_is_refused_without_being_opened(tmp_path, monkeypatch, make, fault):
    (tmp_path / "m" / "4").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "m" / "4")  # A socket's path is short.
    make(tmp_path / "m" / "4" / "model.onnx")
    candidate = scan(tmp_path)["m"]
    assert candidate.versions == {}
    assert candidate.reason == candidate.faults[4]
    assert fault in candidate.faults[4]
    assert str(tmp_path) not in candidate.faults[4]
    with pytest.raises(Refusal, match=fault):
        open_regular(tmp_path / "m" / "4" / "model.onnx", "model.onnx")


@pytest.mark.parametrize(("make", "fault"), IMPOSTORS)
def test_an_impostor_of_a_configuration_makes_its_model_unusable(tmp_path, make, fault):
    lay_out(tmp_path / "m" / "1", b"onnx")
    make(tmp_path / "m" / "config.pbtxt")
    assert fault in (scan(tmp_path)["m"].reason or "")


def test_folders_that_lead_out_of_the_repository_are_refused(tmp_path):
    outside = lay_out(tmp_path / "outside" / "1", b"onnx")
    root = tmp_path / "root"
    (root / "half").mkdir(parents=True)
    (root / "half" / "1").symlink_to(outside)
    (root / "whole").symlink_to(tmp_path / "outside")
    (root / "itself").symlink_to(root)
    found = scan(root)
    assert found["half"].faults == {1: "1 leads out of the repository"}
    assert found["whole"].reason == "whole leads out of the repository"
    assert found["itself"].reason == "itself leads out of the repository"


def test_folders_may_be_links_inside_the_repository(tmp_path):
    folder = lay_out(tmp_path / "m" / "1", b"onnx")
    (tmp_path / "m" / "2").symlink_to(folder)
    assert scan(tmp_path)["m"].versions == {1: folder.resolve(), 2: folder.resolve()}


def test_an_absent_repository_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "nowhere")
