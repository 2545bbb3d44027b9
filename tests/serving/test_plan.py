"""What is planned, what is kept, and what is not worth trying again yet."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from serving.model import Artifact, Batching, Device, ModelConfig, VersionPolicy, Warmup
from serving.plan import RETRY_S, Failures, Plan, runs_alike
from serving.wire import DATATYPES, TensorSpec

X = TensorSpec("x", DATATYPES["FP32"], (-1, 4))
OTHERWISE = {
    "rows_max": 4, "inputs": (X,), "outputs": (X,), "labels": {"y": "labels.txt"}, "versions": VersionPolicy(2),
    "instances": 2, "device": Device.CPU, "gpus": (1,), "batching": Batching((4,)), "warmup": (Warmup("w", 0, ()),),
    "graph_level": 1, "graphs": True, "tensorrt": {}, "parameters": {"owner": "us"},
}  # fmt: skip
"""For each field of a configuration something other than its default."""
HOT = {"labels", "versions", "batching", "parameters"}


def artifact(digest: str = "d", version: int = 1) -> Artifact:
    return Artifact("m", version, digest, Path("model.onnx"), 1)


def test_only_what_a_session_does_not_depend_on_changes_without_loading():
    """Of every field there is, so that a new one must be thought about."""
    assert OTHERWISE.keys() == {each.name for each in fields(ModelConfig)} - {"name"}
    alike = {
        name
        for name, value in OTHERWISE.items()
        if runs_alike(ModelConfig("m"), replace(ModelConfig("m"), **{name: value}))
    }
    assert alike == HOT


@given(st.floats(0, 1e9), st.floats(0, 2 * RETRY_S))
def test_a_failure_counts_for_a_while_and_only_for_the_very_same(now_s, later_s):
    failures = Failures()
    failures.note(artifact(), ModelConfig("m"), now_s)
    same = failures.recent(artifact(), ModelConfig("m"), now_s + later_s)
    assert same == (now_s + later_s < now_s + RETRY_S)
    assert not failures.recent(artifact("other"), ModelConfig("m"), now_s)
    assert not failures.recent(artifact(version=2), ModelConfig("m"), now_s)
    assert not failures.recent(artifact(), ModelConfig("m", rows_max=1), now_s)


@given(st.sets(st.integers(1, 5)), st.sets(st.integers(1, 5)))
def test_failures_are_remembered_only_of_versions_that_are_there(failed, there):
    failures = Failures()
    for version in failed:
        failures.note(artifact(version=version), ModelConfig("m"), 0)
    failures.keep({"m": there})
    remembered = {
        version for version in failed if failures.recent(artifact(version=version), ModelConfig("m"), 0)
    }
    assert remembered == failed & there


def test_nothing_goes_while_what_should_replace_it_is_missing():
    config = ModelConfig("m")
    assert Plan("m", config).whole  # The model was removed.
    assert Plan("m", config, {"1": artifact()}).whole
    assert Plan("m", config, {"1": artifact()}, refused=frozenset({2})).whole  # An older one takes its place.
    assert not Plan("m", config, {"1": artifact()}, lost={2}).whole
    assert not Plan("m", config, refused=frozenset({2})).whole
