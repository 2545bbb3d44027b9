"""What do the rpcs answer that are no inference? What HTTP's resources say, as messages."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import orjson

from serving import pbtxt, resources
from serving.errors import Unavailable, Unknown
from serving.gateway import Gateway
from serving.rpc.messages import service_pb2 as v2
from serving.target import Resource, Target, model_named, version_named
from serving.ways import Origin

Handler = Callable[[Gateway, Any, Origin], Any]
"""From a request's message, and who asks, to its response's, or to what is awaited for that."""


def _ask(gateway: Gateway, resource: Resource, model: str = "", version: str = "", body: bytes = b"") -> Any:
    plain = resources.answer(gateway, Target(resource, model, version), body)
    assert isinstance(plain, resources.Plain)
    return orjson.loads(plain.body) if plain.body else None


def _addressed(request: Any) -> tuple[str, str]:
    return model_named(request.name), version_named(request.version) if request.version else ""


def _server_live(gateway: Gateway, _request: Any, _peer: Origin) -> Any:
    _ask(gateway, Resource.SERVER_LIVE)
    return v2.ServerLiveResponse(live=True)


def _server_ready(gateway: Gateway, _request: Any, _peer: Origin) -> Any:
    return v2.ServerReadyResponse(ready=_is_ready(gateway, Resource.SERVER_READY))


def _model_ready(gateway: Gateway, request: Any, _peer: Origin) -> Any:
    # As in Triton, a model that does not exist is not ready; over HTTP the status has to say which it is.
    try:
        return v2.ModelReadyResponse(ready=_is_ready(gateway, Resource.MODEL_READY, *_addressed(request)))
    except Unknown:
        return v2.ModelReadyResponse(ready=False)


def _is_ready(gateway: Gateway, resource: Resource, model: str = "", version: str = "") -> bool:
    try:
        _ask(gateway, resource, model, version)
    except Unavailable:
        return False
    return True


def _server_metadata(gateway: Gateway, _request: Any, _peer: Origin) -> Any:
    return v2.ServerMetadataResponse(**_ask(gateway, Resource.SERVER_METADATA))


def _model_metadata(gateway: Gateway, request: Any, _peer: Origin) -> Any:
    return v2.ModelMetadataResponse(**_ask(gateway, Resource.MODEL_METADATA, *_addressed(request)))


def _model_config(gateway: Gateway, request: Any, _peer: Origin) -> Any:
    return v2.ModelConfigResponse(config=pbtxt.completed(gateway.find(*_addressed(request)).spec))


def _repository_index(gateway: Gateway, request: Any, _peer: Origin) -> Any:
    body = orjson.dumps({"ready": request.ready})
    return v2.RepositoryIndexResponse(models=_ask(gateway, Resource.REPOSITORY_INDEX, body=body))


def _ordered(resource: Resource, response: type[Any]) -> Handler:
    """Return the handler of a load or an unload, whose parameters are those that HTTP has."""

    def order(gateway: Gateway, request: Any, peer: Origin) -> Any:
        parameters = {
            key: None if kind in {None, "bytes_param"} else getattr(value, kind)  # No parameter is bytes.
            for key, value in request.parameters.items()
            for kind in [value.WhichOneof("parameter_choice")]
        }
        target = Target(resource, model_named(request.model_name))
        body = orjson.dumps({"parameters": parameters}) if parameters else b""
        return _done(resources.answer(gateway, target, body, peer), response)

    return order


async def _done(said: Any, response: type[Any]) -> Any:
    await said
    return response()


def _of_region(gateway: Gateway, resource: Resource, region: str, body: bytes = b"") -> Any:
    plain = resources.answer(gateway, Target(resource, region=region), body)
    assert isinstance(plain, resources.Plain)
    return orjson.loads(plain.body) if plain.body else None


def _memory_status(gateway: Gateway, request: Any, _peer: Origin) -> Any:
    listed = _of_region(gateway, Resource.MEMORY_STATUS, request.name)
    return v2.SystemSharedMemoryStatusResponse(regions={each["name"]: each for each in listed})


def _memory_register(gateway: Gateway, request: Any, _peer: Origin) -> Any:
    asked = {"key": request.key, "offset": request.offset, "byte_size": request.byte_size}
    _of_region(gateway, Resource.MEMORY_REGISTER, request.name, orjson.dumps(asked))
    return v2.SystemSharedMemoryRegisterResponse()


def _memory_unregister(gateway: Gateway, request: Any, _peer: Origin) -> Any:
    _of_region(gateway, Resource.MEMORY_UNREGISTER, request.name)
    return v2.SystemSharedMemoryUnregisterResponse()


def _cuda_status(gateway: Gateway, request: Any, _peer: Origin) -> Any:
    listed = _of_region(gateway, Resource.CUDA_STATUS, request.name)
    return v2.CudaSharedMemoryStatusResponse(regions={each["name"]: each for each in listed})


def _cuda_register(gateway: Gateway, request: Any, _peer: Origin) -> Any:
    handle = {"b64": base64.b64encode(request.raw_handle).decode()}
    asked = {"raw_handle": handle, "device_id": request.device_id, "byte_size": request.byte_size}
    _of_region(gateway, Resource.CUDA_REGISTER, request.name, orjson.dumps(asked))
    return v2.CudaSharedMemoryRegisterResponse()


def _cuda_unregister(gateway: Gateway, request: Any, _peer: Origin) -> Any:
    _of_region(gateway, Resource.CUDA_UNREGISTER, request.name)
    return v2.CudaSharedMemoryUnregisterResponse()


def _model_statistics(gateway: Gateway, request: Any, peer: Origin) -> Any:
    model, version = _addressed(request) if request.name or request.version else ("", "")
    return _counted(resources.answer(gateway, Target(Resource.MODEL_STATS, model, version), b"", peer))


async def _counted(said: Any) -> Any:
    return v2.ModelStatisticsResponse(**orjson.loads((await said).body))


def _log_settings(gateway: Gateway, request: Any, peer: Origin) -> Any:
    asked = {
        name: getattr(value, kind) if (kind := value.WhichOneof("parameter_choice")) else None
        for name, value in request.settings.items()
    }
    target = Target(Resource.LOGGING, changes=bool(asked))
    plain = resources.answer(gateway, target, orjson.dumps(asked), peer)
    assert isinstance(plain, resources.Plain)
    said = v2.LogSettingsResponse()
    for name, value in orjson.loads(plain.body).items():
        setattr(said.settings[name], _KINDS[type(value)], value)
    return said


_KINDS = {bool: "bool_param", int: "uint32_param", str: "string_param"}


def _as_over_http(resource: Resource) -> Handler:
    """Return the handler of what HTTP refuses, and in the same words."""

    def refuse(gateway: Gateway, _request: Any, _peer: Origin) -> Any:
        _ask(gateway, resource)
        raise AssertionError(resource)

    return refuse


HANDLERS: dict[str, Handler] = {
    "ServerLive": _server_live,
    "ServerReady": _server_ready,
    "ModelReady": _model_ready,
    "ServerMetadata": _server_metadata,
    "ModelMetadata": _model_metadata,
    "ModelConfig": _model_config,
    "RepositoryIndex": _repository_index,
    "ModelStatistics": _model_statistics,
    "RepositoryModelLoad": _ordered(Resource.REPOSITORY_LOAD, v2.RepositoryModelLoadResponse),
    "RepositoryModelUnload": _ordered(Resource.REPOSITORY_UNLOAD, v2.RepositoryModelUnloadResponse),
    "SystemSharedMemoryStatus": _memory_status,
    "SystemSharedMemoryRegister": _memory_register,
    "SystemSharedMemoryUnregister": _memory_unregister,
    "CudaSharedMemoryStatus": _cuda_status,
    "CudaSharedMemoryRegister": _cuda_register,
    "CudaSharedMemoryUnregister": _cuda_unregister,
    "TraceSetting": _as_over_http(Resource.TRACE),
    "LogSettings": _log_settings,
}
"""By the rpc's name."""
