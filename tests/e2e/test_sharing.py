"""Does a request ever notice that the gateway may run it together with others, where nobody asked for that?"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.models import place
from tests.running import Running, post, read_answer

HELD_S = 0.15
"""How long the loop is held up, so that what is sent meanwhile arrives in one tick."""


def _model(
    node: Any, inputs: dict[str, list[Any]], kind: int, out: list[Any], **weights: np.ndarray
) -> ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    values = [helper.make_tensor_value_info(name, kind, dims) for name, dims in inputs.items()]
    answer = TensorProto.FLOAT if weights else kind
    graph = helper.make_graph(
        [node], "made-for-a-test", values, [helper.make_tensor_value_info("y", answer, out)], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("sharing")
    models = folder / "models"
    table = np.arange(10, dtype=np.float32)
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    place(models, "table", 1, _model(node, {"x": ["N"]}, TensorProto.INT64, ["N"], table=table))
    node = helper.make_node("Add", ["a", "b"], ["y"])
    place(models, "sum", 1, _model(node, {"a": ["N", 2], "b": ["M", 2]}, TensorProto.FLOAT, ["K", 2]))
    node = helper.make_node("StringNormalizer", ["x"], ["y"], stopwords=["monday"], is_case_sensitive=1)
    place(models, "words", 1, _model(node, {"x": ["N"]}, TensorProto.STRING, ["M"]))
    with Running(models, folder / "state", {"engine": {"inline_us_max": 20_000}}) as running:
        yield running


def _request(model: str, datatype: str, close: bool = True, **inputs: Any) -> bytes:
    """Return a request; the values of each input as nested lists."""
    tensors = [
        {"name": name, "datatype": datatype, "shape": list(np.shape(values)), "data": values}
        for name, values in inputs.items()
    ]
    return post(f"/v2/models/{model}/infer", json.dumps({"inputs": tensors}).encode(), close=close)


def _at_once(running: Running, *requests: bytes) -> list[tuple[int, Any]]:
    """Send each request on a connection of its own so that all arrive in one tick; return the answers."""

    async def hold() -> None:
        time.sleep(HELD_S)  # noqa: ASYNC251 - holding up the loop is the point.

    clients = [running.connect() for _ in requests]
    held = asyncio.run_coroutine_threadsafe(hold(), running._loop)
    time.sleep(HELD_S / 4)
    for client, request in zip(clients, requests, strict=True):
        client.sendall(request)
    held.result()
    answers = [read_answer(client) for client in clients]
    for client in clients:
        client.close()
    return [(status, json.loads(body)) for status, _, body in answers]


def test_they_are_run_together_without_being_told(running):
    rows_max = {
        name: versions["1"].spec.rows_max for name, versions in running.gateway.shelf.loaded.servables.items()
    }
    assert all(rows_max.values()), rows_max
    ledger = running.gateway.shelf.loaded.servables["table"]["1"].ledger
    before = ledger.snapshot()
    answers = _at_once(running, *[_request("table", "INT64", False, x=[n]) for n in range(8)])
    assert [(status, answer["outputs"][0]["data"]) for status, answer in answers] == [
        (200, [n]) for n in range(8)
    ]
    after = ledger.snapshot()
    assert after.requests - before.requests == 8 and after.runs - before.runs < 8


def test_a_request_that_makes_the_model_fail_fails_alone(running):
    requests = [_request("table", "INT64", False, x=[n]) for n in (1, 99_999, 2, 3)]
    answers = _at_once(running, *requests)
    assert [status for status, _ in answers] == [200, 400, 200, 200]
    assert "99999" in answers[1][1]["error"]


def test_inputs_that_stretch_to_each_other_are_answered_though_their_rows_differ(running):
    request = _request("sum", "FP32", False, a=[[1, 2], [3, 4], [5, 6]], b=[[10, 20]])
    ((status, answer),) = _at_once(running, request)
    assert status == 200, answer
    assert answer["outputs"][0]["data"] == [11, 22, 13, 24, 15, 26]
    request = _request("sum", "FP32", False, a=[[1, 2], [3, 4], [5, 6]], b=[[10, 20], [30, 40]])
    ((status, answer),) = _at_once(running, request)
    assert status >= 400 and answer["error"]


def test_outputs_with_other_rows_than_the_inputs_are_answered_where_a_request_runs_alone(running):
    ((status, answer),) = _at_once(running, _request("words", "BYTES", False, x=["monday", "a", "b"]))
    assert status == 200, answer
    assert answer["outputs"][0]["data"] == ["a", "b"]
