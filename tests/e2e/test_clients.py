"""Does an unmodified tritonclient get what V2 promises: sync, async and aio, right answers and clean errors?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http.aio
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from tests.e2e.asking import ask, given, same, wanted
from tests.models import constant, identity, mlp, place
from tests.running import Running, post

ALL_VERSIONS = "version_policy { all {} }"
X: NDArray[np.float32] = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("clients")
    models = folder / "models"
    place(models, "fraud", 7, constant(7), ALL_VERSIONS)
    place(models, "fraud", 8, constant(8))
    place(models, "pair", 1, _pair())
    place(models, "mlp", 1, mlp())
    place(models, "words", 1, identity("BYTES", ["N"]))
    place(models, "broken", 1, mlp())
    (models / "broken" / "1" / "model.onnx").write_bytes(b"no model at all")
    with Running(models, folder / "state") as running:
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(running.http) as client:
        yield client


def _pair() -> Any:
    """Return a model of two inputs and two outputs: sum = a + b and difference = a - b."""
    proto = constant(0)
    graph = proto.graph
    del graph.node[:], graph.input[:], graph.output[:], graph.initializer[:]
    donor = identity("FP32", ["N", 4]).graph
    for name in ("a", "b"):
        graph.input.add().CopyFrom(donor.input[0])
        graph.input[-1].name = name
    for name, operator in (("sum", "Add"), ("difference", "Sub")):
        graph.output.add().CopyFrom(donor.input[0])
        graph.output[-1].name = name
        graph.node.add(op_type=operator, input=["a", "b"], output=[name])
    return proto


# --- Everything but inference.


def test_health_is_what_it_should_be(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("fraud") and client.is_model_ready("fraud", "7")
    assert not client.is_model_ready("fraud", "9")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("broken")


def test_the_server_says_who_it_is_and_what_it_can(client):
    about = client.get_server_metadata()
    assert about["name"] == "turnout" and about["version"]
    assert "binary_tensor_data" in about["extensions"]


def test_metadata_is_the_model_s_signature(client):
    about = client.get_model_metadata("pair")
    tensor = {"datatype": "FP32", "shape": [-1, 4]}
    assert about == {
        "name": "pair",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "a", **tensor}, {"name": "b", **tensor}],
        "outputs": [{"name": "sum", **tensor}, {"name": "difference", **tensor}],
    }
    assert client.get_model_metadata("fraud", "7")["versions"] == ["7", "8"]


def test_the_configuration_is_complete_where_the_model_has_none_written(client):
    config = client.get_model_config("pair")
    assert config["name"] == "pair" and config["max_batch_size"] > 0
    tensor = config["input"][0]
    assert (tensor["name"], tensor["data_type"], tensor["dims"]) == ("a", "TYPE_FP32", [4])
    assert [output["name"] for output in config["output"]] == ["sum", "difference"]
    assert client.get_model_config("fraud", "7") == client.get_model_config("fraud", "8")


def test_the_index_names_every_version_and_why_one_is_missing(client):
    index = {(each["name"], each["version"]): each for each in client.get_model_repository_index()}
    assert {key for key, each in index.items() if each["state"] == "READY"} == {
        ("fraud", "7"), ("fraud", "8"), ("mlp", "1"), ("pair", "1"), ("words", "1"),
    }  # fmt: skip
    assert index["broken", "1"]["state"] == "UNAVAILABLE"
    assert "not an ONNX file" in index["broken", "1"]["reason"]


NOT_OFFERED: dict[str, tuple[Callable[[InferenceServerClient], Any], str]] = {
    "trace settings": (lambda client: client.get_trace_settings(), "501"),
    "trace settings of a model": (lambda client: client.update_trace_settings("mlp", {}), "501"),
    "new log settings": (lambda client: client.update_log_settings({"log_info": True}), "401"),
    "system memory": (lambda client: client.register_system_shared_memory("r", "/k", 64), "501"),
    "system memory status": (lambda client: client.get_system_shared_memory_status("r"), "501"),
    "all system memory": (lambda client: client.unregister_system_shared_memory(), "501"),
    "cuda memory": (lambda client: client.register_cuda_shared_memory("r", b"h", 0, 64), "501"),
    "cuda memory status": (lambda client: client.get_cuda_shared_memory_status(), "501"),
    "no cuda memory": (lambda client: client.unregister_cuda_shared_memory("r"), "501"),
    "load": (lambda client: client.load_model("mlp"), "401"),
    "load with a file": (
        lambda client: client.load_model("mlp", config="{}", files={"file:1/model.onnx": b"x"}),
        "401",
    ),
    "unload": (lambda client: client.unload_model("mlp"), "401"),
}


@pytest.mark.parametrize("what", NOT_OFFERED)
def test_what_is_not_offered_is_a_clean_error(client, what):
    call, status = NOT_OFFERED[what]
    with pytest.raises(InferenceServerException) as raised:
        call(client)
    assert raised.value.status() == status
    assert raised.value.message() and "exception occurred in the client" not in raised.value.message()
    assert client.is_server_ready() and client.is_model_ready("mlp")


# --- Inference.


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_the_outputs_asked_for_come_in_the_order_asked_for(client, binary):
    arrays = {"b": X, "a": X * 10}
    result = ask(client, "pair", arrays, "difference", "sum", binary=binary)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["difference", "sum"]
    assert same(result.as_numpy("difference"), X * 9) and same(result.as_numpy("sum"), X * 11)
    result = ask(client, "pair", arrays, "sum", binary=binary)
    assert result.as_numpy("difference") is None
    assert same(result.as_numpy("sum"), X * 11)


def test_each_tensor_may_be_json_or_binary_as_it_likes(client):
    mixed = [*given({"a": X}, binary=False), *given({"b": X})]
    outputs = [*wanted("sum", binary=False), *wanted("difference")]
    result = client.infer("pair", mixed, outputs=outputs)
    assert "data" in result.get_output("sum") and "data" not in result.get_output("difference")
    assert same(result.as_numpy("sum"), X * 2) and same(result.as_numpy("difference"), X * 0)


def test_without_outputs_named_all_come_in_binary(client):
    result = client.infer("pair", given({"a": X, "b": X}))
    assert [output["parameters"]["binary_data_size"] for output in result.get_response()["outputs"]] == [
        32,
        32,
    ]
    assert same(result.as_numpy("sum"), X * 2)


@pytest.mark.parametrize("id_", ["", "7", 'π/ü \\ "quoted"', "x" * 500])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_the_request_s_id_comes_back(client, id_, binary):
    response = ask(client, "mlp", {"x": np.zeros((1, 16), np.float32)}, "y", binary=binary, request_id=id_)
    assert response.get_response().get("id", "") == id_


def test_the_version_asked_for_answers_and_says_so(client):
    for version, answers in (("", "8"), ("7", "7"), ("8", "8")):
        result = ask(client, "fraud", {"x": X}, model_version=version)
        assert result.get_response()["model_version"] == answers
        assert same(result.as_numpy("y"), np.full((2, 4), float(answers), np.float32))


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_compression_changes_nothing_but_the_wire(client, request_coding, response_coding, binary):
    rows = np.arange(4 * 5000, dtype=np.float32).reshape(5000, 4)  # Both sides of all thresholds.
    for x in (X, rows):
        result = ask(
            client, "pair", {"a": x, "b": x * 0}, "sum", binary=binary,
            request_compression_algorithm=request_coding, response_compression_algorithm=response_coding,
        )  # fmt: skip
        assert same(result.as_numpy("sum"), x)


def test_parameters_and_headers_and_queries_do_no_harm(client):
    result = ask(
        client, "mlp", {"x": np.zeros((1, 16), np.float32)}, priority=1, timeout=5_000_000,
        parameters={"turnout_route_key": "anna", "n": 3, "share": 0.5, "yes": True},
        headers={"X-Request-Id": "17"}, query_params={"a": ["1", "2"], "b": "é"},
    )  # fmt: skip
    assert result.as_numpy("y").shape == (1, 2)


def test_many_requests_at_once_through_async_infer_are_not_mixed_up(running):
    with InferenceServerClient(running.http, concurrency=8) as client:
        asked = {
            n: client.async_infer("pair", given({"a": X + n, "b": X * 0}), request_id=str(n))
            for n in range(64)
        }
        for n, pending in asked.items():
            result = pending.get_result()
            assert result.get_response()["id"] == str(n)
            assert same(result.as_numpy("sum"), X + n)


def test_an_error_through_async_infer_is_the_caller_s(client):
    with pytest.raises(InferenceServerException, match="nobody"):
        client.async_infer("nobody", given({"x": X})).get_result()


def test_aio_gets_the_same_answers(running):
    async def talk() -> None:
        async with tritonclient.http.aio.InferenceServerClient(running.http) as client:
            assert await client.is_server_live() and await client.is_server_ready()
            assert await client.is_model_ready("fraud", "7")
            assert (await client.get_server_metadata())["name"] == "turnout"
            assert (await client.get_model_metadata("pair"))["versions"] == ["1"]
            assert (await client.get_model_config("pair"))["name"] == "pair"
            assert len(await client.get_model_repository_index()) == 6
            results = await asyncio.gather(
                *[client.infer("pair", given({"a": X + n, "b": X * 0}), request_id=str(n)) for n in range(32)]
            )
            for n, result in enumerate(results):
                assert result.get_response()["id"] == str(n)
                assert same(result.as_numpy("sum"), X + n)
            for coding in ("gzip", "deflate"):
                result = await client.infer(
                    "pair", given({"a": X, "b": X}), request_compression_algorithm=coding,
                    response_compression_algorithm=coding,
                )  # fmt: skip
                assert same(result.as_numpy("sum"), X * 2)
            with pytest.raises(InferenceServerException, match="nobody"):
                await client.infer("nobody", given({"x": X}))

    asyncio.run(talk())


def test_a_body_made_and_read_by_hand_means_the_same(running):
    body, json_bytes = InferenceServerClient.generate_request_body(given({"a": X, "b": X}))
    head = f"Inference-Header-Content-Length: {json_bytes}"
    answer = running.exchange(post("/v2/models/pair/infer", body, head))
    head, _, rest = answer.partition(b"\r\n\r\n")
    length = next(line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"inference-header"))
    result: InferResult = InferenceServerClient.parse_response_body(rest, header_length=int(length))
    assert same(result.as_numpy("sum"), X * 2)


# --- Errors.


def _shared() -> InferInput:
    one = InferInput("x", [2, 4], "FP32")
    one.set_shared_memory("region", 32)
    return one


def _shared_output() -> InferRequestedOutput:
    one = InferRequestedOutput("y")
    one.set_shared_memory("region", 32)
    return one


def _not_utf8() -> InferInput:
    return given({"x": np.array([b"\xff\xfe"], np.object_)})[0]


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such model": ({"model_name": "nobody"}, "404", "'nobody'"),
    "no such version": ({"model_version": "9"}, "404", "9"),
    "no such version spelling": ({"model_version": "latest"}, "404", "positive integer"),
    "a broken model": ({"model_name": "broken"}, "503", "not ready"),
    "a wrong datatype": ({"inputs": given({"x": X.astype(np.float64)})}, "400", "expected FP32, got FP64"),
    "a wrong shape": ({"inputs": given({"x": X[:, :3]})}, "400", r"expected shape \[-1, 4\], got \[2, 3\]"),
    "a wrong rank": ({"inputs": given({"x": X[0]})}, "400", "expected shape"),
    "an unknown input": ({"inputs": given({"x": X, "z": X})}, "400", "no input 'z'"),
    "a missing input": ({"model_name": "pair", "inputs": given({"a": X})}, "400", "'b' is missing"),
    "an input twice": ({"inputs": given({"x": X}) * 2}, "400", "x"),
    "an unknown output": ({"outputs": wanted("z")}, "400", "no output 'z'"),
    "shared memory in": ({"inputs": [_shared()]}, "501", "shared memory"),
    "shared memory out": ({"outputs": [_shared_output()]}, "501", "shared memory"),
    "classes of words": (
        {
            "model_name": "words",
            "inputs": given({"x": np.array(["a"], object)}),
            "outputs": [InferRequestedOutput("y", class_count=2)],
        },
        "400",
        "classification takes numbers",
    ),
    "a sequence": ({"sequence_id": 5, "sequence_start": True}, "400", "sequences are not supported"),
    "not UTF-8": ({"model_name": "words", "inputs": [_not_utf8()]}, "400", "UTF-8"),
    "NaN in JSON": ({"inputs": given({"x": X * np.nan}, binary=False)}, "400", "JSON"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_request_says_what_is_wrong_and_the_next_is_answered(client, what):
    wrong, status, message = WRONG[what]
    right: dict[str, Any] = {"model_name": "fraud", "inputs": given({"x": X})}
    with pytest.raises(InferenceServerException, match=message) as raised:
        client.infer(**(right | wrong))
    assert raised.value.status() == status
    assert same(client.infer(**right).as_numpy("y"), np.full((2, 4), 8, np.float32))
