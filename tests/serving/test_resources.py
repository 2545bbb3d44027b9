"""What do health, metadata, the repository index and errors say on the wire?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.errors import HTTP_STATUS, Cancelled
from serving.resources import ANSWERS
from serving.target import ALLOW, Resource
from tests import models
from tests.running import Running
from tests.talking import Answer, Client, document, in_binary, request, rows

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"
SPECIFIC = "version_policy { specific { versions: 1, versions: 2 } }"
LEAKS = re.compile(r"Traceback|site-packages|\.pyx?\b|\.so\b|\.cc\b|serving\.|onnxruntime_src|0x[0-9a-f]{6}")


def failing() -> onnx.ModelProto:
    """Return a model that gives four numbers the shape that it is told, and fails if that holds another number."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["table", "x"], ["y"])],
        "reshape",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["A", "B"])],
        [numpy_helper.from_array(np.arange(4, dtype=np.float32), "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resources")
    place = folder / "models"
    models.place(place, "echo", 1, models.identity("FP32"), SPECIFIC)
    (place / "echo" / "2").mkdir()
    onnx.save(models.identity("FP32"), place / "echo" / "2" / "model.onnx")
    for datatype in ("INT8", "INT32", "UINT64", "BOOL", "BYTES", "FP16"):
        models.place(place, f"echo-{datatype}", 1, models.identity(datatype))
    models.place(place, "mlp", 1, models.mlp())
    models.place(place, "reshape", 1, failing())
    (place / "corrupt" / "1").mkdir(parents=True)
    (place / "corrupt" / "1" / "model.onnx").write_bytes(b"not a model at all")
    return folder


@pytest.fixture(scope="module")
def gateway(folder) -> Iterator[Running]:
    with Running(folder / "models", folder / "state") as running:
        yield running


@pytest.fixture
def client(gateway) -> Iterator[Client]:
    with Client(gateway) as client:
        yield client


def test_every_resource_has_an_answer():
    assert set(ANSWERS) == set(ALLOW) == set(Resource) - {Resource.NOWHERE}


# --- What there is.


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2/models/echo/ready"])
def test_health_is_an_empty_200(client, path):
    assert client.ask(request(f"GET {path}")) == Answer(200, {"content-length": "0"}, b"")


def test_the_server_says_what_it_is(client):
    said = client.ask(request("GET /v2")).json
    assert said == client.ask(request("GET /v2/")).json
    assert said["name"] == "turnout" and "binary_tensor_data" in said["extensions"]


@pytest.mark.parametrize(
    "path", ["/v2/models/echo", "/v2/models/echo/versions/1", "/v2/models/echo/versions/2"]
)
def test_metadata_list_the_versions_and_the_tensors(client, path):
    tensor = {"datatype": "FP32", "shape": [-1, -1]}
    assert client.ask(request(f"GET {path}")).json == {
        "name": "echo",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
    }


def test_the_configuration_is_complete(client):
    said = client.ask(request("GET /v2/models/echo/versions/2/config")).json
    assert said["name"] == "echo" and said["input"][0]["name"] == "x"


def test_an_inference_goes_to_the_version_that_was_asked_for(client):
    body = document(rows(1, 2))
    for path, version in [("", "2"), ("/versions/1", "1"), ("/versions/2", "2")]:
        answer = client.ask(request(f"POST /v2/models/echo{path}/infer", body=body))
        assert answer.json["model_version"] == version


def test_the_index_lists_all_and_says_why_one_is_not_ready(client):
    listed = client.ask(request("POST /v2/repository/index", body=b"")).json
    states = {(each["name"], each["version"]): each for each in listed}
    assert states["echo", "1"]["state"] == states["echo", "2"]["state"] == "READY"
    corrupt = states["corrupt", "1"]
    assert corrupt["state"] == "UNAVAILABLE" and corrupt["reason"]
    assert [*states] == sorted(states)


@pytest.mark.parametrize(
    ("body", "ready_only"),
    [(b"{}", False), (b'{"ready": false}', False), (b'{"ready":true}', True), (b" ", False)],
)
def test_the_index_may_be_asked_for_what_is_ready(client, body, ready_only):
    listed = client.ask(request("POST /v2/repository/index", body=body)).json
    assert ("corrupt" not in {each["name"] for each in listed}) == ready_only
    assert len(listed) > 5


@pytest.mark.parametrize(
    "body", [b"[]", b"nonsense", b'{"ready": 1}', b'"ready"', b'{"ready": "yes"}', b"\xff"]
)
def test_the_index_refuses_what_it_does_not_understand(client, body):
    assert client.ask(request("POST /v2/repository/index", body=body)).status == 400


# --- Errors: one shape, and nothing about the inside.

STATUSES = [
    ("GET /v2/models/nobody", 404),
    ("GET /v2/models/nobody/ready", 404),
    ("GET /v2/models/nobody/config", 404),
    ("POST /v2/models/nobody/infer", 404),
    ("GET /v2/models/echo/versions/3", 404),
    ("GET /v2/models/echo/versions/3/ready", 404),
    ("POST /v2/models/echo/versions/3/infer", 404),
    ("GET /v2/models/corrupt", 503),
    ("GET /v2/models/corrupt/ready", 503),
    ("GET /v2/models/corrupt/versions/1/config", 503),
    ("POST /v2/models/corrupt/infer", 503),
    ("GET /v2/models/corrupt/versions/2", 404),
    ("POST /v2/repository/models/echo/load", 401),
    ("POST /v2/repository/models/echo/unload", 401),
    ("POST /v2/repository/models/nobody/load", 401),
    ("GET /v2/models/nobody/stats", 404),
    ("GET /v2/models/echo/versions/3/stats", 404),
    ("GET /v2/models/corrupt/stats", 503),
    ("GET /v2/trace/setting", 501),
    ("POST /v2/trace/setting", 501),
    ("GET /v2/models/echo/trace/setting", 501),
    ("GET /v2/systemsharedmemory/status", 501),
    ("POST /v2/systemsharedmemory/region/a/register", 501),
    ("GET /v2/cudasharedmemory/status", 501),
    ("POST /v2/cudasharedmemory/region/a/unregister", 501),
    ("POST /v2/health/live", 405),
    ("GET /v2/models/echo/infer", 405),
    ("PUT /v2/models/echo", 405),
    ("GET /v2/repository/index", 405),
    ("OPTIONS /v2", 405),
    ("PATCH /v2/logging", 405),
    ("GET /", 404),
    ("GET /metrics", 404),
    ("GET /v2/models/echo/versions/0/ready", 404),
    ("GET /v2/models/echo/versions/latest/ready", 404),
    ("GET /v2/models/../../etc/passwd", 400),
    ("GET /v2/models/%65cho", 400),
    ("GET /v2/models/a\\b/ready", 400),
    ("GET /v2/models//ready", 400),
]


@pytest.mark.parametrize(("line", "status"), STATUSES)
def test_a_resource_answers_with_its_status_in_the_one_shape(client, line, status):
    body = document(rows(1, 2)) if line.startswith("POST") else None
    answer = client.ask(request(line, body=body))
    assert answer.status == status, answer
    assert not LEAKS.search(answer.error)
    assert ("allow" in answer.headers) == (status == 405)
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert client.ask(request("GET /v2/health/live")).status == 200


def test_what_a_path_does_not_allow_lists_what_it_does(client):
    assert client.ask(request("PUT /v2/models/echo/infer", body=b"")).headers["allow"] == "POST"
    assert client.ask(request("DELETE /v2")).headers["allow"] == "GET, HEAD"


def test_a_model_that_fails_is_a_500_without_its_inside(client):
    for shape, status in [((2, 2), 200), ((3, 3), 500), ((1, 4), 200)]:
        answer = client.ask(request("POST /v2/models/reshape/infer", body=document(np.array(shape), "INT64")))
        assert answer.status == status
        if status == 500:
            assert not LEAKS.search(answer.error) and "/" not in answer.error, answer.error


def tensor(
    name: Any = "x", datatype: Any = "FP32", shape: Any = (1, 2), data: Any = (1, 2), **more: Any
) -> dict:
    """Return an input, from which a value of `...` is left out."""
    given = {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in given.items()
        if value is not ...
    }


def body(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def typed(datatype: str, *data: Any) -> tuple[str, bytes]:
    return f"echo-{datatype}", body(tensor(datatype=datatype, shape=(1, len(data)), data=data))


FAULTS: dict[str, tuple[str, bytes]] = {
    "no body": ("echo", b""),
    "not JSON": ("echo", b"{"),
    "not UTF-8": ("echo", b'{"id":"\xff\xfe"}'),
    "an array": ("echo", b"[]"),
    "a number": ("echo", b"1"),
    "null": ("echo", b"null"),
    "two documents": ("echo", body(tensor()) + b"{}"),
    "NaN": ("echo", body(tensor()).replace(b"[1, 2]}", b"[1, NaN]}")),
    "a lone surrogate": ("echo", body(tensor()).replace(b'"x"', b'"\\ud800"')),
    "no inputs": ("echo", b"{}"),
    "inputs null": ("echo", b'{"inputs":null}'),
    "inputs an object": ("echo", b'{"inputs":{}}'),
    "inputs empty": ("echo", body()),
    "an input that is a string": ("echo", body("x")),
    "an input without name": ("echo", body(tensor(name=...))),
    "an input without datatype": ("echo", body(tensor(datatype=...))),
    "an input without shape": ("echo", body(tensor(shape=...))),
    "an input without data": ("echo", body(tensor(data=...))),
    "a name that is a number": ("echo", body(tensor(name=7))),
    "an empty name": ("echo", body(tensor(name=""))),
    "an unknown input": ("echo", body(tensor(name="z"))),
    "an input too many": ("echo", body(tensor(), tensor(name="z"))),
    "an input twice": ("echo", body(tensor(), tensor())),
    "an unknown datatype": ("echo", body(tensor(datatype="FLOAT"))),
    "a datatype that is a number": ("echo", body(tensor(datatype=1))),
    "another datatype": ("echo", body(tensor(datatype="FP64"))),
    "a shape that is a number": ("echo", body(tensor(shape=2))),
    "a negative shape": ("echo", body(tensor(shape=(-1, 2)))),
    "a shape with a fraction": ("echo", body(tensor(shape=(1.5, 2)))),
    "a shape with a string": ("echo", body(tensor(shape=("1", 2)))),
    "a shape with a boolean": ("echo", body(tensor(shape=(True, 2)))),
    "a shape of another rank": ("echo", body(tensor(shape=(2,)))),
    "a shape of 65 dimensions": ("echo", body(tensor(shape=(1,) * 65, data=(1,)))),
    "a shape that holds more": ("echo", body(tensor(shape=(2, 2)))),
    "a shape that holds less": ("echo", body(tensor(shape=(1, 1)))),
    "data that are a string": ("echo", body(tensor(data="1,2"))),
    "data with a string": ("echo", body(tensor(data=("1", 2)))),
    "data with null": ("echo", body(tensor(data=(None, 2)))),
    "data with an object": ("echo", body(tensor(data=({}, 2)))),
    "data nested unevenly": ("echo", body(tensor(shape=(2, 2), data=([1, 2], [3])))),
    "data nested otherwise": ("echo", body(tensor(shape=(1, 2), data=([1], [2])))),
    "data nested too deep": ("echo", body(tensor(shape=(1, 2), data=([[1], [2]],)))),
    "FP32 out of range": ("echo", body(tensor(data=(1e39, 2)))),
    "FP16 out of range": typed("FP16", 70000.0),
    "INT8 out of range": typed("INT8", 300),
    "INT8 below its range": typed("INT8", -129),
    "INT32 with a fraction": typed("INT32", 1.5),
    "INT32 out of range": typed("INT32", 2**31),
    "UINT64 negative": typed("UINT64", -1),
    "UINT64 out of range": typed("UINT64", 2**64),
    "INT32 with a boolean": typed("INT32", True),
    "BOOL with 2": typed("BOOL", 2),
    "BOOL with a string": typed("BOOL", "true"),
    "BYTES with a number": typed("BYTES", 5),
    "an id that is a number": ("echo", body(tensor(), id=5)),
    "parameters that are an array": ("echo", body(tensor(), parameters=[])),
    "a parameter that is an object": ("echo", body(tensor(), parameters={"a": {}})),
    "a reserved parameter": ("echo", body(tensor(), parameters={"triton_x": 1})),
    "a timeout that is a string": ("echo", body(tensor(), parameters={"timeout": "1"})),
    "a negative timeout": ("echo", body(tensor(), parameters={"timeout": -5})),
    "a negative priority": ("echo", body(tensor(), parameters={"priority": -1})),
    "a sequence": ("echo", body(tensor(), parameters={"sequence_id": 5})),
    "outputs that are an object": ("echo", body(tensor(), outputs={"name": "y"})),
    "an output that is a string": ("echo", body(tensor(), outputs=["y"])),
    "an unknown output": ("echo", body(tensor(), outputs=[{"name": "z"}])),
    "an output twice": ("echo", body(tensor(), outputs=[{"name": "y"}, {"name": "y"}])),
    "binary_data that is a string": (
        "echo",
        body(tensor(), outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}]),
    ),
    "binary data without the header": ("echo", body(tensor(data=..., parameters={"binary_data_size": 8}))),
    "a wrong width": ("mlp", body(tensor(shape=(1, 15), data=(0,) * 15))),
}
"""What a client can do wrong in JSON: all 400, where Triton 2.51 answers some with 500 and others with 200."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_client_is_a_400_that_says_what_and_where(client, fault):
    model, data = FAULTS[fault]
    answer = client.ask(request(f"POST /v2/models/{model}/infer", body=data))
    assert answer.status == 400, answer
    assert len(answer.error) < 500 and not LEAKS.search(answer.error)
    assert client.ask(request("GET /v2/health/live")).status == 200


BINARY = body(tensor(data=..., parameters={"binary_data_size": 8}))
LENGTHS = {
    "beyond the body": (len(BINARY) + 9, BINARY + bytes(8)),
    "short of the JSON": (len(BINARY) - 1, BINARY + bytes(8)),
    "into the tensors": (len(BINARY) + 1, BINARY + bytes(8)),
    "negative": (-1, BINARY + bytes(8)),
    "not a number": ("all", BINARY + bytes(8)),
    "fewer bytes than declared": (len(BINARY), BINARY + bytes(7)),
    "more bytes than declared": (len(BINARY), BINARY + bytes(9)),
    "huge": (10**18, BINARY + bytes(8)),
}


@pytest.mark.parametrize("fault", LENGTHS)
def test_a_header_length_that_contradicts_the_body_is_a_400(client, fault):
    length, data = LENGTHS[fault]
    head = f"Inference-Header-Content-Length: {length}"
    answer = client.ask(request("POST /v2/models/echo/infer", head, body=data))
    assert answer.status == 400 and answer.error


@pytest.mark.parametrize(("model", "size"), [("echo", 8), ("mlp", 63), ("mlp", 0), ("reshape", 9)])
def test_a_raw_request_that_does_not_fit_the_model_is_a_400(client, model, size):
    head = "Inference-Header-Content-Length: 0"
    answer = client.ask(request(f"POST /v2/models/{model}/infer", head, body=bytes(size)))
    assert answer.status == (200 if (model, size) == ("echo", 8) else 400), answer


def test_whole_floats_are_taken_for_integers(client):
    model, data = typed("INT32", 1.0, -2.0)
    assert client.ask(request(f"POST /v2/models/{model}/infer", body=data)).json["outputs"][0]["data"] == [
        1,
        -2,
    ]


@pytest.mark.parametrize(
    ("parameters", "where"),
    [({"shared_memory_region": "a", "shared_memory_byte_size": 8}, where) for where in ("input", "output")],
)
def test_shared_memory_in_a_request_is_a_501(client, parameters, where):
    outputs = [{"name": "y", "parameters": parameters}] if where == "output" else []
    given = tensor(parameters=parameters, data=...) if where == "input" else tensor()
    answer = client.ask(request("POST /v2/models/echo/infer", body=body(given, outputs=outputs)))
    assert answer.status == 501 and "shared memory is not offered" in answer.error


def test_an_unknown_content_encoding_is_a_415(client):
    answer = client.ask(request("POST /v2/models/echo/infer", "Content-Encoding: br", body=b"x"))
    assert answer.status == 415 and "gzip" in answer.error


@pytest.mark.parametrize(("coding", "data"), [("gzip", b"not gzip"), ("deflate", b"\xff" * 9), ("gzip", b"")])
def test_a_body_that_is_not_compressed_as_it_says_is_a_400(client, coding, data):
    answer = client.ask(request("POST /v2/models/echo/infer", f"Content-Encoding: {coding}", body=data))
    assert answer.status == 400 and answer.error


def test_names_that_are_not_known_do_not_become_labels(client, gateway):
    for index in range(50):
        assert client.ask(request(f"GET /v2/models/stranger-{index}")).status == 404
        assert client.ask(in_binary(f"stranger-{index}", rows(1, 2))).status == 404
    host, port = gateway.metrics.rsplit(":", 1)
    gateway_http, gateway.http = gateway.http, f"{host}:{port}"
    try:
        exposed = gateway.exchange(b"GET /metrics HTTP/1.0\r\n\r\n").decode()
    finally:
        gateway.http = gateway_http
    assert "nv_inference_count" in exposed and 'model="echo"' in exposed
    assert "stranger" not in exposed


# --- The reference page.


def test_the_reference_page_says_what_each_path_answers(client):
    """Every path of the table, with the placeholders filled in, has the method and kind it is listed with."""
    table = REFERENCE.read_text().split("## Paths")[1].split("## ")[0]
    listed = re.findall(r"^\| (`/v2.*?) \| ([A-Z, ]+) \| (.*) \|$", table, re.MULTILINE)
    assert len(listed) >= 14
    for paths, methods, answers in listed:
        for path in re.findall(r"`(/[^`]*)`", paths):
            filled = (
                path.replace("[/versions/N]", "/versions/1").replace("NAME", "echo").replace("...", "status")
            )
            filled = filled.replace("[/region/REGION]", "").replace("REGION", "a")
            for method in methods.split(", "):
                body = document(rows(1, 2)) if filled.endswith("infer") else b"" if method == "POST" else None
                answer = client.ask(request(f"{method} {filled}", body=body), method)
                want = 501 if "not offered" in answers else 401 if "the operator's" in answers else 200
                assert answer.status == want, (method, filled)


def test_the_reference_page_lists_every_status_but_success(client):
    table = REFERENCE.read_text().split("## Statuses")[1]
    listed = {
        int(status): reason
        for status, reason in re.findall(r"^\| (\d{3}) \| ([A-Za-z ]+) \|", table, re.MULTILINE)
    }
    assert listed == dict(HTTP_STATUS.values())
    assert HTTP_STATUS[Cancelled][0] == 499
