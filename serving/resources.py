"""What every V2 resource but inference answers: health, metadata, configuration, repository index."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from serving import log_settings, operator, orders, pbtxt, statistics
from serving.errors import Invalid, Unavailable, Unknown, Unsupported
from serving.extensions import extensions
from serving.gateway import Gateway
from serving.index import State
from serving.orders import Order
from serving.shm.kinds import EXAMPLES, Kind, unoffered
from serving.shm.memory import Memory
from serving.target import Resource, Target
from serving.ways import NOBODY, Origin
from serving.wire import TensorSpec

SERVER_NAME = "turnout"
SERVER_VERSION = "0.1.0"
PLATFORM = "onnxruntime_onnx"


@dataclass(frozen=True, slots=True)
class Plain:
    """An answer that is not an inference: a JSON document, or nothing but its status."""

    status: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a resource: by whom, of which gateway, and with what."""

    gateway: Gateway
    target: Target
    body: bytes = b""
    origin: Origin = NOBODY


Answer = Plain | Awaitable[Plain]
"""What there is to say, now or later."""


def answer(gateway: Gateway, target: Target, body: bytes, origin: Origin = NOBODY) -> Answer:
    """Answer a request for any resource but inference, now or later.

    Raises
    ------
    TurnoutError
        With what is wrong, for the listener to put into its error shape.
    """
    return ANSWERS[target.resource](Asked(gateway, target, body, origin))


def _json(document: Any) -> Plain:
    return Plain(200, orjson.dumps(document))


def _object(body: bytes, example: str) -> dict[str, Any]:
    """Return the JSON object of a body, an empty one if there is no body."""
    if not body.strip():
        return {}
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body is not valid JSON: {error}") from None
    if not isinstance(said, dict):
        raise Invalid(f"expected an object such as {example}")
    return said


def _live(_asked: Asked) -> Plain:
    return Plain(200)


def _ready(asked: Asked) -> Plain:
    # A candidate that failed to load does not count: what is served is what it was (Triton flips here).
    if asked.gateway.draining:
        raise Unavailable("the server is draining; another one should be asked")
    if not asked.gateway.ready:
        raise Unavailable("the server is not ready yet")
    return Plain(200)


def _server(asked: Asked) -> Plain:
    memory = asked.gateway.memory
    listed = extensions(asked.gateway.config, memory.kinds if memory is not None else ())
    return _json({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": listed})


def _model_ready(asked: Asked) -> Plain:
    asked.gateway.find(asked.target.model, asked.target.version)
    return Plain(200)


def _model(asked: Asked) -> Plain:
    spec = asked.gateway.find(asked.target.model, asked.target.version).spec
    versions = sorted(asked.gateway.shelf.loaded.servables[asked.target.model], key=int)
    return _json(
        {
            "name": asked.target.model,
            "versions": versions,
            "platform": PLATFORM,
            "inputs": [_tensor(each) for each in spec.inputs],
            "outputs": [_tensor(each) for each in spec.outputs],
        }
    )


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.shape}


def _config(asked: Asked) -> Plain:
    return _json(pbtxt.document(asked.gateway.find(asked.target.model, asked.target.version).spec))


def _index(asked: Asked) -> Plain:
    example = '{"ready": true}'
    ready_only = _object(asked.body, example).get("ready", False)
    if not isinstance(ready_only, bool):
        raise Invalid(f"expected an object such as {example}")
    return _json(
        [
            {"name": model, "version": version, "state": standing.state, "reason": standing.reason}
            for model, versions in sorted(asked.gateway.shelf.index.items())
            for version, standing in sorted(versions.items(), key=lambda item: int(item[0] or 0))
            if standing.state is State.READY or not ready_only
        ]
    )


def _statistics(asked: Asked) -> Awaitable[Plain]:
    gateway, model, version = asked.gateway, asked.target.model, asked.target.version
    if not gateway.config.metrics.enabled:
        raise Unsupported("this server does not offer model stats: nothing is counted (metrics.enabled)")
    if model and (version or model not in gateway.shelf.loaded.servables):
        gateway.find(model, version)

    async def read() -> Plain:
        return _json(statistics.document(await gateway.totals.get(), model, version))

    return read()


def _logging(asked: Asked) -> Plain:
    settings = _object(asked.body, '{"log_info": true}') if asked.target.changes else {}
    if not settings:
        return _json(log_settings.document(asked.gateway.logs.look()))
    operator.check(asked.origin, asked.gateway.config)
    return _json(log_settings.document(asked.gateway.logs.change(settings)))


def _not_offered(asked: Asked) -> Plain:
    raise Unsupported(f"this server does not offer {asked.target.resource.value.replace('_', ' ')}")


def _load(asked: Asked) -> Awaitable[Plain]:
    return _ordered(asked, orders.load)


def _unload(asked: Asked) -> Awaitable[Plain]:
    return _ordered(asked, orders.unload)


def _ordered(asked: Asked, read: Callable[[Mapping[str, Any]], Order]) -> Awaitable[Plain]:
    """Have a model loaded or unloaded for the operator, on all replicas."""
    operator.check(asked.origin, asked.gateway.config)
    try:
        order = read(orders.asked(asked.body))
    except orders.OrderMistake as mistake:
        raise Invalid(str(mistake)) from None
    return _carried_out(asked, order)


async def _carried_out(asked: Asked, order: Order) -> Plain:
    await asked.gateway.order(asked.target.model, order)
    return Plain(200)


def _memory(asked: Asked, kind: Kind) -> Memory:
    if asked.gateway.memory is None:
        raise unoffered(kind)
    return asked.gateway.memory


def _memory_status(kind: Kind, asked: Asked) -> Plain:
    return _json(_memory(asked, kind).status(asked.target.region, kind))


def _memory_register(kind: Kind, asked: Asked) -> Plain:
    memory = _memory(asked, kind)
    memory.register(asked.target.region, _object(asked.body, EXAMPLES[kind]), kind)
    return Plain(200)


def _memory_unregister(kind: Kind, asked: Asked) -> Plain:
    _memory(asked, kind).unregister(asked.target.region, kind)
    return Plain(200)


def _unreachable(_asked: Asked) -> Plain:
    raise Unknown("inference has a way of its own")


ANSWERS: dict[Resource, Callable[[Asked], Answer]] = {
    Resource.SERVER_LIVE: _live,
    Resource.SERVER_READY: _ready,
    Resource.SERVER_METADATA: _server,
    Resource.MODEL_READY: _model_ready,
    Resource.MODEL_METADATA: _model,
    Resource.MODEL_CONFIG: _config,
    Resource.MODEL_STATS: _statistics,
    Resource.MODEL_INFER: _unreachable,
    Resource.REPOSITORY_INDEX: _index,
    Resource.REPOSITORY_LOAD: _load,
    Resource.REPOSITORY_UNLOAD: _unload,
    Resource.TRACE: _not_offered,
    Resource.LOGGING: _logging,
    Resource.MEMORY_STATUS: partial(_memory_status, Kind.SYSTEM),
    Resource.MEMORY_REGISTER: partial(_memory_register, Kind.SYSTEM),
    Resource.MEMORY_UNREGISTER: partial(_memory_unregister, Kind.SYSTEM),
    Resource.CUDA_STATUS: partial(_memory_status, Kind.CUDA),
    Resource.CUDA_REGISTER: partial(_memory_register, Kind.CUDA),
    Resource.CUDA_UNREGISTER: partial(_memory_unregister, Kind.CUDA),
}
