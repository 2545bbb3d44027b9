"""What is asked over gRPC: the messages of one kind as tritonclient makes them, and is the answer right?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as v2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from loadtests.bench import models, traffic
from loadtests.bench.errors import BenchError
from loadtests.bench.traffic import DISTINCT, Encoding, Traffic
from loadtests.bench.turnout import Bench

CALL_S_MAX = 10.0


def message(model: str, x: NDArray[np.float32], id_: str = "") -> Any:
    """Return the ModelInferRequest that asks for ``y`` of `x`."""
    made = v2.ModelInferRequest(model_name=model, id=id_)
    made.inputs.add(name="x", datatype="FP32", shape=x.shape)
    made.outputs.add(name="y")
    made.raw_input_contents.append(x.tobytes())
    return made


def messages(model: str, count: int) -> list[bytes]:
    """Return the first `count` messages, with the ids and values that the bodies over HTTP have."""
    return [
        message(model, x, f"{number:016x}").SerializeToString()
        for number, x in enumerate(models.samples(model, count))
    ]


def prepare(model: str, folder: Path) -> Path:
    """Write as many messages as there are distinct bodies into `folder`, unless they are there."""
    file = folder / f"{model}-grpc.messages"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_bytes(
            traffic.pack([traffic.Body(each, 0) for each in messages(model, DISTINCT[model])])
        )
        partial.rename(file)
    return file


def infer(port: int, asked: Any) -> Any:
    """Make one ModelInfer call."""
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", unlimited) as channel:
            return GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=CALL_S_MAX)
    except grpc.RpcError as error:
        raise BenchError(f"a call was not answered: {str(error)[:300]}") from None


def verify(port: int, model: str, bench: Bench) -> None:
    """Ask once and compare with what ONNX Runtime says."""
    (x,) = models.samples(model, 1)
    got = np.frombuffer(infer(port, message(model, x)).raw_output_contents[0], np.float32)
    right(model, got, bench)


def right(model: str, got: NDArray[np.float32], bench: Bench) -> None:
    """Complain unless `got` is what ONNX Runtime says of a model's first sample."""
    want = traffic.expected(Traffic(model, Encoding.BINARY, distinct=True), bench.repository)
    if got.size != want.size or not np.allclose(got.reshape(want.shape), want, rtol=1e-3, atol=1e-5):
        raise BenchError(f"{model} answered other numbers than ONNX Runtime")
