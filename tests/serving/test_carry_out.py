"""A model is loaded whole or not at all, stays unloaded until it is loaded, and what serves goes on serving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from serving import access
from serving.carry_out import carry_out, follow
from serving.orders import NO_SUCH_MODEL, Order
from tests.models import constant, place
from tests.running import Running

ALL = "version_policy { all {} }"
BROKEN = '{"input": [{"name": "no-such-input", "data_type": "TYPE_FP32", "dims": [4]}]}'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("orders")
    for version in (1, 2):
        place(folder / "models", "m", version, constant(version), ALL if version == 1 else "")
    place(folder / "models", "other", 1, constant(9))
    with Running(folder / "models", folder / "state") as running:
        yield running


@pytest.fixture
def repository(running: Running) -> Iterator[Path]:
    """Return the repository, and leave it with nothing ordered and everything loaded."""
    yield running.config.repository.path
    running.gateway.shelf.orders = {}
    running.refresh()
    assert served(running) == {"m": [1.0, 2.0], "other": [9.0]}


def order(running: Running, model: str, what: Order | None) -> str:
    return str(running.do(carry_out(running.gateway.shelf, model, what)))


def served(running: Running) -> dict[str, list[float]]:
    """Return what the versions that are loaded answer, each asked."""
    answers: dict[str, list[float]] = {}
    with tritonclient.http.InferenceServerClient(running.http) as client:
        x = tritonclient.http.InferInput("x", [1, 4], "FP32")
        x.set_data_from_numpy(np.zeros((1, 4), np.float32))
        for model, versions in sorted(running.gateway.shelf.loaded.servables.items()):
            for version in sorted(versions, key=int):
                got = client.infer(model, [x], version).as_numpy("y")
                answers.setdefault(model, []).append(float(got[0, 0]))
    return answers


def test_an_unloaded_model_says_so_and_stays_away_from_looks_at_the_repository(running, repository):
    assert order(running, "m", Order(loaded=False)) == ""
    for _ in range(2):
        assert served(running) == {"other": [9.0]}
        assert {key: each for key, each in running.index().items() if key[0] == "m"} == {
            ("m", "1"): ("UNAVAILABLE", "unloaded"),
            ("m", "2"): ("UNAVAILABLE", "unloaded"),
        }
        running.refresh()
    with tritonclient.http.InferenceServerClient(running.http) as client:
        assert not client.is_model_ready("m")
        with pytest.raises(InferenceServerException, match="'m' is unloaded; it answers when it is loaded"):
            client.get_model_metadata("m")
    assert running.do(running.gateway.shelf.ensure("m", frozenset("2"))) == {
        "2": "the model is unloaded; load it first: turnout load m"
    }
    assert order(running, "m", Order()) == ""


def test_a_model_that_there_is_not_is_neither_loaded_nor_unloaded(running, repository):
    for what in (Order(), Order(loaded=False)):
        assert order(running, "nobody", what) == NO_SUCH_MODEL
        assert running.gateway.shelf.orders == {}


def test_a_configuration_counts_instead_of_the_file_until_the_model_is_loaded_without(running, repository):
    own = json.dumps({"max_batch_size": 3, "version_policy": {"specific": {"versions": [1]}}})
    assert order(running, "m", Order(config=own)) == ""
    assert served(running)["m"] == [1.0]
    assert running.gateway.find("m").spec.rows_max == 3
    running.refresh()
    assert served(running)["m"] == [1.0]
    assert order(running, "m", Order()) == ""
    assert served(running)["m"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (BROKEN, "declares input 'no-such-input'"),
        (
            '{"max_batch": 3}',
            "config: unknown field 'max_batch' in ModelConfig; did you mean 'max_batch_size'?",
        ),
        ('{"name": "another"}', "config: name"),
        ('{"sequence_batching": {}}', "config: sequence_batching: not supported by Turnout"),
        ('{"output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [4], "label_filename": "../x"}]}', ""),
        ("[]", "config: not a JSON object"),
        ("{", "config: Failed to load JSON"),
        ('{"version_policy": {"specific": {"versions": [7]}}}', "no version of it is to be loaded"),
    ],
)
def test_a_load_that_fails_changes_nothing(running, repository, config, complaint):
    before = running.gateway.shelf.loaded
    fault = order(running, "m", Order(config=config))
    assert complaint in fault
    assert fault
    assert running.gateway.shelf.loaded is before
    assert running.gateway.shelf.orders == {}


def test_one_version_that_cannot_be_loaded_keeps_the_others_as_they_were(running, repository):
    (repository / "m" / "3").mkdir()
    model = repository / "m" / "3" / "model.onnx"
    try:
        model.write_bytes(b"no model at all")
        before = running.gateway.shelf.loaded
        fault = order(running, "m", Order(config='{"max_batch_size": 2, "version_policy": {"all": {}}}'))
        assert fault.startswith("version 3: ")
        assert running.gateway.shelf.loaded is before
        assert running.gateway.find("m", "1").spec.rows_max != 2
        assert running.index()["m", "3"][0] == "UNAVAILABLE"
        assert {running.index()["m", version][0] for version in "12"} == {"READY"}
    finally:
        model.unlink()
        model.parent.rmdir()


def test_what_failed_is_tried_again_when_it_is_loaded_again(running, repository):
    (repository / "m" / "3").mkdir()
    model = repository / "m" / "3" / "model.onnx"
    try:
        model.write_bytes(b"no model at all")
        assert order(running, "m", Order()).startswith("version 3: ")
        onnx.save(constant(3), model)
        assert order(running, "m", Order()) == ""
        assert served(running)["m"] == [1.0, 2.0, 3.0]
    finally:
        model.unlink()
        model.parent.rmdir()


def test_a_version_whose_files_were_written_over_is_not_loaded_in_silence(running, repository):
    model = repository / "m" / "2" / "model.onnx"
    kept = model.read_bytes()
    try:
        onnx.save(constant(22), model)
        assert order(running, "m", Order()).startswith("version 2: ")
        assert served(running)["m"] == [1.0, 2.0]
    finally:
        model.write_bytes(kept)


some_orders = st.dictionaries(
    st.sampled_from(["m", "other"]),
    st.one_of(
        st.builds(Order, st.just(False)),
        st.builds(Order, config=st.sampled_from(["", '{"max_batch_size": 2}', '{"max_batch_size": 5}'])),
    ),
)


@settings(max_examples=10)
@given(st.lists(some_orders, min_size=1, max_size=3))
def test_whoever_hears_late_gets_where_the_others_are(running, heard):
    """Over any sequence of orders told: what is loaded depends on the last of them alone."""
    for orders in heard:
        running.do(follow(running.gateway.shelf, orders))
    shelf = running.gateway.shelf
    assert shelf.orders == heard[-1]
    said: dict[str, Any] = {model: heard[-1].get(model, Order()) for model in ("m", "other")}
    assert set(shelf.loaded.servables) == {model for model, each in said.items() if each.loaded}
    for model, each in said.items():
        if each.config:
            assert running.gateway.find(model).spec.rows_max == json.loads(each.config)["max_batch_size"]
    running.do(follow(shelf, {}))


def test_a_model_beyond_those_that_are_named_is_loaded_when_it_is_asked_for(tmp_path):
    for name, value in (("named", 1), ("beside", 2)):
        place(tmp_path / "models", name, 1, constant(value))
    with Running(tmp_path / "models", tmp_path / "state", {"repository": {"models": ["named"]}}) as running:
        assert served(running) == {"named": [1.0]}
        assert order(running, "beside", Order()) == ""
        running.do(running.gateway.shelf.refresh(running.gateway.shelf.wanted))
        assert served(running) == {"beside": [2.0], "named": [1.0]}
        assert order(running, "beside", None) == ""
        assert served(running) == {"named": [1.0]}


def test_only_the_token_loads_and_unloads(running, repository):
    token = access.token(access.control_folder(running.config))
    with tritonclient.http.InferenceServerClient(running.http) as client:
        for said, status in (({}, "401"), ({"authorization": f"Bearer {token}x"}, "403")):
            for verb in (client.load_model, client.unload_model):
                with pytest.raises(InferenceServerException, match="for the operator alone") as raised:
                    verb("m", headers=said)
                assert raised.value.status() == status
        assert served(running)["m"] == [1.0, 2.0]
        client.unload_model("m", headers={"authorization": f"Bearer {token}"})
        assert not client.is_model_ready("m")
        client.load_model("m", headers={"authorization": f"Bearer {token}"})
        assert client.is_model_ready("m")
