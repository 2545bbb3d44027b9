"""Which resource of the V2 protocol does a request line name?

Paths are compared as they are: nothing is decoded, so there is no second spelling of any path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from serving.errors import Invalid, Unknown, WrongMethod


class Resource(StrEnum):
    """Everything that the data port answers for."""

    SERVER_LIVE = "server_live"
    SERVER_READY = "server_ready"
    SERVER_METADATA = "server_metadata"
    MODEL_METADATA = "model_metadata"
    MODEL_READY = "model_ready"
    MODEL_CONFIG = "model_config"
    MODEL_STATS = "model_stats"
    MODEL_INFER = "model_infer"
    REPOSITORY_INDEX = "repository_index"
    REPOSITORY_LOAD = "repository_load"
    REPOSITORY_UNLOAD = "repository_unload"
    TRACE = "trace"
    LOGGING = "logging"
    MEMORY_STATUS = "system_shared_memory_status"
    MEMORY_REGISTER = "system_shared_memory_register"
    MEMORY_UNREGISTER = "system_shared_memory_unregister"
    CUDA_STATUS = "cuda_shared_memory_status"
    CUDA_REGISTER = "cuda_shared_memory_register"
    CUDA_UNREGISTER = "cuda_shared_memory_unregister"
    NOWHERE = "nowhere"
    """No resource at all: the request's problem says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about; `model`, `version` and `region` are empty where it names none."""

    resource: Resource
    model: str = ""
    version: str = ""
    region: str = ""
    """Of shared memory."""
    changes: bool = False
    """The resource may be read and written, and this is to write it."""


NOWHERE = Target(Resource.NOWHERE)

_READ, _WRITE, _BOTH = "GET, HEAD", "POST", "GET, HEAD, POST"

ALLOW: dict[Resource, str] = {
    Resource.SERVER_LIVE: _READ,
    Resource.SERVER_READY: _READ,
    Resource.SERVER_METADATA: _READ,
    Resource.MODEL_METADATA: _READ,
    Resource.MODEL_READY: _READ,
    Resource.MODEL_CONFIG: _READ,
    Resource.MODEL_STATS: _READ,
    Resource.MODEL_INFER: _WRITE,
    Resource.REPOSITORY_INDEX: _WRITE,
    Resource.REPOSITORY_LOAD: _WRITE,
    Resource.REPOSITORY_UNLOAD: _WRITE,
    Resource.TRACE: _BOTH,
    Resource.LOGGING: _BOTH,
    Resource.MEMORY_STATUS: _READ,
    Resource.MEMORY_REGISTER: _WRITE,
    Resource.MEMORY_UNREGISTER: _WRITE,
    Resource.CUDA_STATUS: _READ,
    Resource.CUDA_REGISTER: _WRITE,
    Resource.CUDA_UNREGISTER: _WRITE,
}
"""The methods of each resource, as the Allow header lists them."""

_OF_SERVER: dict[tuple[str, ...], Resource] = {
    (): Resource.SERVER_METADATA,
    ("health", "live"): Resource.SERVER_LIVE,
    ("health", "ready"): Resource.SERVER_READY,
    ("models", "stats"): Resource.MODEL_STATS,
    ("repository", "index"): Resource.REPOSITORY_INDEX,
    ("trace", "setting"): Resource.TRACE,
    ("logging",): Resource.LOGGING,
    ("systemsharedmemory", "status"): Resource.MEMORY_STATUS,
    ("systemsharedmemory", "unregister"): Resource.MEMORY_UNREGISTER,
    ("cudasharedmemory", "status"): Resource.CUDA_STATUS,
    ("cudasharedmemory", "unregister"): Resource.CUDA_UNREGISTER,
}
_OF_MODEL: dict[tuple[str, ...], Resource] = {
    (): Resource.MODEL_METADATA,
    ("ready",): Resource.MODEL_READY,
    ("config",): Resource.MODEL_CONFIG,
    ("stats",): Resource.MODEL_STATS,
    ("infer",): Resource.MODEL_INFER,
}
_OF_REPOSITORY: dict[str, Resource] = {
    "load": Resource.REPOSITORY_LOAD,
    "unload": Resource.REPOSITORY_UNLOAD,
}

_OF_REGION: dict[tuple[str, str], Resource] = {
    ("systemsharedmemory", "status"): Resource.MEMORY_STATUS,
    ("systemsharedmemory", "register"): Resource.MEMORY_REGISTER,
    ("systemsharedmemory", "unregister"): Resource.MEMORY_UNREGISTER,
    ("cudasharedmemory", "status"): Resource.CUDA_STATUS,
    ("cudasharedmemory", "register"): Resource.CUDA_REGISTER,
    ("cudasharedmemory", "unregister"): Resource.CUDA_UNREGISTER,
}

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_PLAIN = re.compile(r"[!-~]*")
_AMBIGUOUS = re.compile(r"[%\\#]|\.\.|//")
_SHOWN_MAX = 80


def resolve(method: str, path: str) -> Target:
    """Find what `path`, with its leading slash and perhaps a query, means for `method`.

    Raises
    ------
    Invalid
        If the path could mean different things to different readers.
    Unknown
        If there is no such resource, or no model or version can have such a name.
    WrongMethod
        If the resource exists, but not for `method`.
    """
    target = _locate(_segments(path))
    allow = ALLOW[target.resource]
    if method not in allow.split(", "):
        raise WrongMethod(f"{_shown(path)} does not answer {method}; it answers {allow}", allow)
    return replace(target, changes=True) if allow == _BOTH and method == "POST" else target


def _segments(path: str) -> tuple[str, ...]:
    """Split a path into its segments after ``/v2``; the query says nothing to this server."""
    if not _PLAIN.fullmatch(path):
        raise Invalid("the path holds a byte that is not visible ASCII; paths here are plain ASCII")
    path = path.partition("?")[0]
    if not path.startswith("/"):
        raise Unknown(f"no resource {_shown(path)}; paths begin with /v2")
    if _AMBIGUOUS.search(path):
        raise Invalid(f"{_shown(path)} holds '%', '\\', '#', '..' or '//'; every path has one spelling")
    if path == "/v2/":
        return ()
    root, *segments = path[1:].split("/")
    if root != "v2":
        raise Unknown(f"no resource {_shown(path)}; paths begin with /v2")
    if segments and not segments[-1]:
        raise Invalid(f"{_shown(path)} ends with '/'; leave it out")
    return tuple(segments)


def _locate(segments: tuple[str, ...]) -> Target:
    resource = _OF_SERVER.get(segments)
    if resource is not None:
        return Target(resource)
    match segments:
        case ["models", model, "trace", "setting"]:
            return Target(Resource.TRACE, model_named(model))
        case ["models", model, "versions", version, *rest] if tuple(rest) in _OF_MODEL:
            return Target(_OF_MODEL[tuple(rest)], model_named(model), version_named(version))
        case ["models", model, *rest] if tuple(rest) in _OF_MODEL:
            return Target(_OF_MODEL[tuple(rest)], model_named(model))
        case ["repository", "models", model, verb] if verb in _OF_REPOSITORY:
            return Target(_OF_REPOSITORY[verb], model_named(model))
        case [kind, "region", region, verb] if (kind, verb) in _OF_REGION:
            return Target(_OF_REGION[kind, verb], region=region)
    raise Unknown(
        f"no resource {_shown('/'.join(('/v2', *segments)))}; "
        "a model answers at /v2/models/NAME[/versions/N][/infer|/ready|/config|/stats]"
    )


def model_named(name: str) -> str:
    """Return `name` if a model can have it, or raise `Unknown`."""
    if _MODEL.fullmatch(name):
        return name
    raise Unknown(
        f"no model {_shown(name)}; "
        "a name is 1 to 128 letters, digits, '.', '_' and '-', and begins with a letter or digit"
    )


def version_named(text: str) -> str:
    """Return `text` if it is a version, or raise `Unknown`."""
    if _VERSION.fullmatch(text):
        return text
    raise Unknown(f"no version {_shown(text)}; a version is a positive integer without leading zeros")


def _shown(text: str) -> str:
    """Quote the client's text for a message, but never much of it."""
    return repr(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "...")
