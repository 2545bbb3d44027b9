"""How a test asks over gRPC: through tritonclient, or with plain stubs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import grpc
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.grpc import service_pb2 as v2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from serving.config import Grpc
from serving.rpc import typed
from tests.e2e.asking import NAMES, Arrays

ENGINES = [each for each in get_args(Grpc.model_fields["engine"].annotation) if each != "off"]


def given(arrays: Arrays) -> list[InferInput]:
    """Return tritonclient's form of some inputs."""
    inputs = []
    for name, array in arrays.items():
        text = array.dtype.kind in "OUS"
        one = InferInput(name, list(array.shape), "BYTES" if text else NAMES[array.dtype])
        one.set_data_from_numpy(array.astype(object) if text else array)
        inputs.append(one)
    return inputs


def wanted(*names: str) -> list[InferRequestedOutput]:
    """Return tritonclient's form of which outputs to answer with."""
    return [InferRequestedOutput(name) for name in names]


def ask(client: InferenceServerClient, model: str, arrays: Arrays, *names: str, **more: Any) -> InferResult:
    """Infer, with the outputs called `names`, or all of them."""
    return client.infer(model, given(arrays), outputs=wanted(*names) or None, **more)


def message(model: str, arrays: Arrays, **fields: Any) -> Any:
    """Return the same as a message of one's own, its elements typed."""
    made = v2.ModelInferRequest(model_name=model, **fields)
    for name, array in arrays.items():
        text = array.dtype.kind in "OUS"
        datatype = "BYTES" if text else NAMES[array.dtype]
        tensor = made.inputs.add(name=name, datatype=datatype, shape=array.shape)
        flat = array.ravel().tolist()
        contents = getattr(tensor.contents, typed.FIELDS[datatype])
        contents.extend([each.encode() for each in flat] if text else flat)
    return made


@contextmanager
def stub(at: str, *options: tuple[str, Any]) -> Iterator[Any]:
    """Connect with grpcio's own client."""
    with grpc.insecure_channel(at, options=options) as channel:
        yield GRPCInferenceServiceStub(channel)
