"""What every V2 resource but inference answers: health, metadata, configuration, repository index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from serving import pbtxt
from serving.errors import Invalid, Refused, Unavailable, Unknown, Unsupported
from serving.gateway import Gateway
from serving.index import State
from serving.target import Resource, Target
from serving.wire import TensorSpec

SERVER_NAME = "turnout"
SERVER_VERSION = "0.1.0"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "schedule_policy")
PLATFORM = "onnxruntime_onnx"


@dataclass(frozen=True, slots=True)
class Plain:
    """An answer that is not an inference: a JSON document, or nothing but its status."""

    status: int
    body: bytes = b""


def answer(gateway: Gateway, target: Target, body: bytes) -> Plain:
    """Answer a request for any resource but inference.

    Raises
    ------
    TurnoutError
        With what is wrong, for the listener to put into its error shape.
    """
    return ANSWERS[target.resource](gateway, target, body)


def _json(document: Any) -> Plain:
    return Plain(200, orjson.dumps(document))


def _live(_gateway: Gateway, _target: Target, _body: bytes) -> Plain:
    return Plain(200)


def _ready(gateway: Gateway, _target: Target, _body: bytes) -> Plain:
    # A candidate that failed to load does not count: what is served is what it was (Triton flips here).
    if gateway.draining:
        raise Unavailable("the server is draining; another one should be asked")
    if not gateway.ready:
        raise Unavailable("the server is not ready yet")
    return Plain(200)


def _server(_gateway: Gateway, _target: Target, _body: bytes) -> Plain:
    return _json({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS})


def _model_ready(gateway: Gateway, target: Target, _body: bytes) -> Plain:
    gateway.find(target.model, target.version)
    return Plain(200)


def _model(gateway: Gateway, target: Target, _body: bytes) -> Plain:
    spec = gateway.find(target.model, target.version).spec
    versions = sorted(gateway.shelf.loaded.servables[target.model], key=int)
    return _json(
        {
            "name": target.model,
            "versions": versions,
            "platform": PLATFORM,
            "inputs": [_tensor(each) for each in spec.inputs],
            "outputs": [_tensor(each) for each in spec.outputs],
        }
    )


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.shape}


def _config(gateway: Gateway, target: Target, _body: bytes) -> Plain:
    return _json(pbtxt.document(gateway.find(target.model, target.version).spec))


def _index(gateway: Gateway, _target: Target, body: bytes) -> Plain:
    ready_only = False
    if body.strip():
        try:
            asked = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Invalid(f"the body is not valid JSON: {error}") from None
        if not isinstance(asked, dict) or not isinstance(asked.get("ready", False), bool):
            raise Invalid('expected an object such as {"ready": true}')
        ready_only = asked.get("ready", False)
    return _json(
        [
            {"name": model, "version": version, "state": standing.state, "reason": standing.reason}
            for model, versions in sorted(gateway.shelf.index.items())
            for version, standing in sorted(versions.items(), key=lambda item: int(item[0] or 0))
            if standing.state is State.READY or not ready_only
        ]
    )


def _not_offered(_gateway: Gateway, target: Target, _body: bytes) -> Plain:
    raise Unsupported(f"this server does not offer {target.resource.value.replace('_', ' ')}")


def _not_here(_gateway: Gateway, _target: Target, _body: bytes) -> Plain:
    raise Refused("models are not loaded or unloaded over this port")


def _unreachable(_gateway: Gateway, _target: Target, _body: bytes) -> Plain:
    raise Unknown("inference has a way of its own")


ANSWERS: dict[Resource, Callable[[Gateway, Target, bytes], Plain]] = {
    Resource.SERVER_LIVE: _live,
    Resource.SERVER_READY: _ready,
    Resource.SERVER_METADATA: _server,
    Resource.MODEL_READY: _model_ready,
    Resource.MODEL_METADATA: _model,
    Resource.MODEL_CONFIG: _config,
    Resource.MODEL_STATS: _not_offered,
    Resource.MODEL_INFER: _unreachable,
    Resource.REPOSITORY_INDEX: _index,
    Resource.REPOSITORY_LOAD: _not_here,
    Resource.REPOSITORY_UNLOAD: _not_here,
    Resource.TRACE: _not_offered,
    Resource.LOGGING: _not_offered,
    Resource.SHARED_MEMORY: _not_offered,
}
