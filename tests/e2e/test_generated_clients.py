"""Do clients get through that were generated from V2's public shapes, and not written for this server?

The stubs for gRPC are made here, while the test runs, of nothing but what reflection hands out. The JSON is
what the published client `open-inference-openapi` 2.0.0.1 sends: its generator reads V2's tensor data as
floats first, so every integer and truth value leaves it as a float.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving.rpc import typed
from serving.wire import DATATYPES
from tests.e2e.talking_rpc import ENGINES
from tests.models import identity, place
from tests.running import Running

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "BYTES": ["a", "Zürich"],
    **{name: [0.5, -2.0] for name in ("FP32", "FP64")},
    **{name: [1, 127] for name, each in DATATYPES.items() if each.dtype.kind in "iu"},
}
"""What JSON and typed contents can say; FP16 and BF16 have no field over gRPC."""
SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module", params=ENGINES)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("generated")
    for datatype in VALUES:
        place(folder / "models", datatype.lower(), 1, identity(datatype, ["N"]))
    with Running(folder / "models", folder / "state", {"grpc": {"engine": request.param}}) as running:
        yield running


class Generated:
    """Stubs for a service of which nothing is known but its name."""

    def __init__(self, channel: grpc.Channel, name: str) -> None:
        self._channel = channel
        self._pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self.service = self._pool.FindServiceByName(name)

    def message(self, name: str) -> Any:
        """Return a message's class."""
        return GetMessageClass(self._pool.FindMessageTypeByName(f"{self.service.file.package}.{name}"))

    def call(self, rpc: str, **fields: Any) -> Any:
        """Make a call with one message each way."""
        method = self.service.FindMethodByName(rpc)
        takes, returns = (GetMessageClass(each) for each in (method.input_type, method.output_type))
        stub = self._channel.unary_unary(
            f"/{self.service.full_name}/{rpc}",
            request_serializer=takes.SerializeToString,
            response_deserializer=returns.FromString,
        )
        return stub(takes(**fields), timeout=10)


@pytest.fixture(scope="module")
def generated(running: Running) -> Iterator[Generated]:
    with grpc.insecure_channel(running.grpc) as channel:
        yield Generated(channel, SERVICE)


def test_stubs_made_of_reflection_alone_ask_for_everything_but_inference(generated):
    assert generated.call("ServerLive").live
    assert generated.call("ServerReady").ready
    assert generated.call("ModelReady", name="fp32").ready
    assert generated.call("ServerMetadata").name == "turnout"
    about = generated.call("ModelMetadata", name="int8")
    assert [(each.name, each.datatype, list(each.shape)) for each in about.inputs] == [("x", "INT8", [-1])]
    assert generated.call("ModelConfig", name="fp32").config.input[0].name == "x"
    assert {each.name for each in generated.call("RepositoryIndex").models} == {
        each.lower() for each in VALUES
    }


@pytest.mark.parametrize("datatype", VALUES)
def test_stubs_made_of_reflection_alone_infer(generated, datatype):
    values = VALUES[datatype]
    said = [each.encode() for each in values] if datatype == "BYTES" else values
    tensor = {"name": "x", "datatype": datatype, "shape": [2]}
    typed_ = {**tensor, "contents": {typed.FIELDS[datatype]: said}}
    of_typed = generated.call("ModelInfer", model_name=datatype.lower(), id="7", inputs=[typed_])
    raw = of_typed.raw_output_contents[0]
    assert (of_typed.id, of_typed.model_version, list(of_typed.outputs[0].shape)) == ("7", "1", [2])
    if datatype != "BYTES":
        assert np.frombuffer(raw, DATATYPES[datatype].dtype).tolist() == values
    of_raw = generated.call(
        "ModelInfer", model_name=datatype.lower(), inputs=[tensor], raw_input_contents=[raw]
    )
    assert of_raw.raw_output_contents[0] == raw


def test_a_stream_of_stubs_made_of_reflection_alone_is_answered(generated):
    takes, returns = generated.message("ModelInferRequest"), generated.message("ModelStreamInferResponse")
    stream = generated._channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=takes.SerializeToString,
        response_deserializer=returns.FromString,
    )
    tensor = {"name": "x", "datatype": "INT32", "shape": [1]}
    asked = [
        takes(model_name="int32", inputs=[{**tensor, "contents": {"int_contents": [number]}}])
        for number in range(5)
    ]
    got = [each.infer_response.raw_output_contents[0] for each in stream(iter(asked), timeout=10)]
    assert [int.from_bytes(each, "little") for each in got] == list(range(5))


def _json(running: Running, path: str, document: Any = None) -> Any:
    data = None if document is None else json.dumps(document).encode()
    with urllib.request.urlopen(f"http://{running.http}{path}", data, timeout=10) as got:
        text = got.read()
    return json.loads(text) if text else None


@pytest.mark.parametrize("datatype", VALUES)
def test_the_generated_json_client_says_whole_numbers_as_floats_and_is_understood(running, datatype):
    values = VALUES[datatype]
    floats = values if datatype == "BYTES" else [float(each) for each in values]
    tensor = {"name": "x", "shape": [2], "datatype": datatype, "data": floats}
    answer = _json(running, f"/v2/models/{datatype.lower()}/infer", {"id": "x1", "inputs": [tensor]})
    assert answer["outputs"][0]["data"] == values
    assert (answer["id"], answer["model_name"]) == ("x1", datatype.lower())
    about = _json(running, f"/v2/models/{datatype.lower()}/versions/1")
    assert about["inputs"] == [{"name": "x", "datatype": datatype, "shape": [-1]}]


def test_a_fraction_is_no_integer_whoever_sends_it(running):
    tensor = {"name": "x", "shape": [2], "datatype": "INT32", "data": [1.5, 2.0]}
    with pytest.raises(urllib.error.HTTPError) as raised:
        _json(running, "/v2/models/int32/infer", {"inputs": [tensor]})
    with raised.value as error:
        assert error.code == 400
