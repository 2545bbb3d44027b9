"""What does plain Ray Serve do, in the shape of its tutorials?

    python -m loadtests.bench.tutorial PORT MODEL.onnx

A FastAPI ingress with an ONNX Runtime session in it, behind Serve's default proxy. It answers the
same V2 requests, so that the same load can be put on it, and does no more than it must.
"""

# No `from __future__ import annotations` here: FastAPI reads the types of methods that Serve has moved.
import math
import signal
import sys
import threading
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
import ray
from fastapi import FastAPI, Request, Response
from ray import serve

app = FastAPI()
# Serve pickles the methods where the decorator stands, so what they call is defined before.


def _input(tensor: dict[str, Any], body: bytes, length: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape = tensor["shape"]
    if length:
        return np.frombuffer(body, np.float32, math.prod(shape), length).reshape(shape)
    return np.array(tensor["data"], np.float32).reshape(shape)


def _answer(name: str, y: np.ndarray[Any, np.dtype[np.float32]], *, binary: bool) -> Response:
    output: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": list(y.shape)}
    if not binary:
        output["data"] = y.ravel().tolist()
        return Response(orjson.dumps({"model_name": name, "model_version": "1", "outputs": [output]}))
    output["parameters"] = {"binary_data_size": y.nbytes}
    header = orjson.dumps({"model_name": name, "model_version": "1", "outputs": [output]})
    return Response(
        header + y.tobytes(),
        media_type="application/octet-stream",
        headers={"inference-header-content-length": str(len(header))},
    )


@serve.deployment(num_replicas=1)
@serve.ingress(app)
class Tutorial:
    """One model, one session, one request at a time."""

    def __init__(self, path: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @app.get("/v2/health/ready")
    async def ready(self) -> Response:
        """Answer 200."""
        return Response()

    @app.post("/v2/models/{name}/infer")
    async def infer(self, name: str, request: Request) -> Response:
        """Run the model on the request's one input, binary or JSON, and answer alike."""
        body = await request.body()
        length = int(request.headers.get("inference-header-content-length", 0))
        asked = orjson.loads(body[:length] if length else body)
        x = _input(asked["inputs"][0], body, length)
        return _answer(name, self._session.run(["y"], {"x": x})[0], binary=bool(length))


def main(port: int, path: str) -> None:
    """Serve until the process is asked to end."""
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    asked_to_end = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: asked_to_end.set())
    serve.run(Tutorial.bind(path))  # type: ignore[attr-defined]  # What the decorators add has no types.
    asked_to_end.wait()
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
