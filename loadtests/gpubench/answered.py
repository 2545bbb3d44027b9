"""What does a gateway answer to one request, asked by any protocol?"""

from __future__ import annotations

import http.client
import json
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as v2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from loadtests.bench.errors import BenchError
from loadtests.gpubench.asking import Protocol, Way
from loadtests.gpubench.regions import HOST

CALL_S_MAX = 30.0


def answer(way: Way) -> NDArray[Any]:
    """Ask the first request once, and return the answer."""
    match way.protocol:
        case Protocol.GRPC:
            return _called(way)
        case Protocol.HTTP:
            return _posted(way)
        case Protocol.SHARED | Protocol.CUDA:
            _posted(way)
            assert way.shared is not None, "it is in shared memory"
            return way.shared.answer(0)


def _posted(way: Way) -> NDArray[Any]:
    head, _, body = bytes(way.questions[0].content).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    connection = http.client.HTTPConnection(HOST, way.port, timeout=CALL_S_MAX)
    try:
        connection.request("POST", first.split()[1], body, headers)
        got = connection.getresponse()
        content = got.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{way.asked.case.name} did not answer: {error!r}") from None
    finally:
        connection.close()
    if got.status != 200:
        raise BenchError(f"{way.asked.case.name} was answered with {got.status}: {content[:200]!r}")
    length = int(got.getheader("inference-header-content-length") or 0)
    if not length:
        return np.empty(0)
    (output,) = json.loads(content[:length])["outputs"]
    flat = np.frombuffer(content, way.asked.case.dtype, offset=length)
    return flat.reshape(output["shape"])


def _called(way: Way) -> NDArray[Any]:
    asked = v2.ModelInferRequest.FromString(bytes(way.questions[0].content)[5:])
    try:
        with grpc.insecure_channel(f"{HOST}:{way.port}") as channel:
            got = GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=CALL_S_MAX)
    except grpc.RpcError as error:
        raise BenchError(f"{way.asked.case.name} did not answer: {str(error)[:300]}") from None
    flat = np.frombuffer(got.raw_output_contents[0], way.asked.case.dtype)
    return flat.reshape(tuple(got.outputs[0].shape))
