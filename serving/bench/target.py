"""Whom does a URL name, and what of a model does a gateway there take?"""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.bench.openings import Openings, Tls
from serving.mistake import Mistake
from serving.wire import DATATYPES, TensorSpec

ANSWER_S_MAX = 10.0
ANSWER_BYTES_MAX = 1 << 20
PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}
_URL = re.compile(
    r"(https?|grpcs?)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?/?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Named:
    """What of a model is asked: itself, a version, or what headers say, such as an alias."""

    model: str
    version: str = ""
    headers: Sequence[tuple[str, str]] = ()

    @property
    def path(self) -> str:
        """Its place over HTTP."""
        path = f"/v2/models/{self.model}"
        return f"{path}/versions/{self.version}" if self.version else path


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway: by which protocol, under which name, where that is, and whom to trust if over TLS."""

    grpc: bool
    authority: str
    at: tuple[str, int]
    tls: Tls | None = None

    def inputs(self, named: Named) -> list[TensorSpec]:
        """Ask what a model takes.

        Raises
        ------
        Mistake
            If nobody answers, or not as a gateway.
        """
        return _over_grpc(self, named) if self.grpc else _over_http(self, named)


def read(url: str, ca: Path | None = None, *, insecure: bool = False) -> Target:
    """Read ``http://``, ``https://``, ``grpc://`` or ``grpcs://``, an address and a port.

    Raises
    ------
    Mistake
        If it is none, nobody has that name, or `ca` are no certificates.
    """
    found = _URL.fullmatch(url)
    port = int(found[3] or PORTS[found[1]]) if found else 0
    if found is None or not 0 < port <= 65535:
        raise Mistake(f"{url[:80]!r} is no URL of a gateway; http://127.0.0.1:8000 and grpcs://NAME:8001 are")
    scheme, host = found[1], found[2].strip("[]")
    grpc, sealed = scheme.startswith("grpc"), scheme.endswith("s")
    if not sealed and (ca is not None or insecure):
        raise Mistake(f"--ca and --insecure are about TLS, and {scheme}:// is without it")
    tls = Tls(_context(grpc, ca, insecure), host, "h2" if grpc else "") if sealed else None
    return Target(grpc, f"{found[2]}:{port}", _address(host, port), tls)


def _address(host: str, port: int) -> tuple[str, int]:
    try:
        family, _, _, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # No such name, or nothing that could be one.
        raise Mistake(f"{host}: {error}") from None
    assert family in (socket.AF_INET, socket.AF_INET6), "addresses of the internet"
    return str(at[0]), port


def _context(grpc: bool, ca: Path | None, insecure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise Mistake(f"--ca {ca}: {error.strerror or error}") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"] if grpc else ["http/1.1"])
    return context


def _specs(model: str, said: Sequence[tuple[str, str, Sequence[int]]]) -> list[TensorSpec]:
    try:
        return [TensorSpec(name, DATATYPES[datatype], tuple(shape)) for name, datatype, shape in said]
    except KeyError as unknown:
        raise Mistake(f"{model}: takes {unknown.args[0]}, which is not asked here") from None


def _nobody(target: Target, error: Exception | str) -> Mistake:
    return Mistake(f"no gateway answers at {target.at[0]}:{target.at[1]}: {error}")


def _over_http(target: Target, named: Named) -> list[TensorSpec]:
    connection = http.client.HTTPConnection(*target.at, timeout=ANSWER_S_MAX)
    try:
        connection.connect()
        if target.tls is not None:
            connection.sock = target.tls.context.wrap_socket(connection.sock, server_hostname=target.tls.host)
        connection.request("GET", named.path, headers={"Host": target.authority})
        answer = connection.getresponse()
        content = json.loads(answer.read(ANSWER_BYTES_MAX))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _nobody(target, error) from None
    finally:
        connection.close()
    if answer.status != 200 or "inputs" not in content:
        said = content.get("error") if isinstance(content, dict) else None
        raise Mistake(f"{named.model}: {said or f'status {answer.status}, and not as a gateway answers'}")
    return _specs(
        named.model, [(each["name"], each["datatype"], each["shape"]) for each in content["inputs"]]
    )


def _over_grpc(target: Target, named: Named) -> list[TensorSpec]:
    from serving.bench.messages import framed
    from serving.rpc.messages import DecodeError, service_pb2

    asked = service_pb2.ModelMetadataRequest(name=named.model, version=named.version)
    answer = service_pb2.ModelMetadataResponse()
    try:
        answer.ParseFromString(
            unary(target, "ModelMetadata", framed(asked.SerializeToString()), named.headers)[5:]
        )
    except DecodeError:
        raise Mistake(f"{named.model}: not as a gateway answers") from None
    return _specs(named.model, [(each.name, each.datatype, each.shape) for each in answer.inputs])


def unary(target: Target, method: str, message: bytes, metadata: Sequence[tuple[str, str]] = ()) -> bytes:
    """Make one call, and return the answer with its prefix.

    Raises
    ------
    Mistake
        If nobody answers in time, or not with OK.
    """
    from serving.bench.messages import calling
    from serving.bench.outcomes import Outcomes
    from serving.bench.trunk import Call, Trunk

    call, outcomes, until_s = Call(0, 0, b""), Outcomes(), time.monotonic() + ANSWER_S_MAX
    call.whole = call.seen = True
    ended: list[Any] = []
    with select.epoll() as epoll:
        connected = _connected(target, epoll, until_s)
        how = calling(target.authority, metadata, method=method, tls=target.tls is not None)
        trunk = Trunk(connected, how, outcomes, lambda *end: ended.append(end))
        try:
            while not ended and time.monotonic() < until_s:
                if not trunk.outlet.flush() or not trunk.read():
                    break
                if trunk.ready and not trunk.next > 1:
                    trunk.call(call, b"", bytearray(message))
                elif not trunk.outlet:
                    epoll.poll(0.05)
        finally:
            trunk.close()
    if not ended:
        raise _nobody(target, "it does not speak gRPC, or not in time")
    if not call.said.good:
        raise Mistake(call.said.text or f"the call was {outcomes.met[ended[0][1]].what}")
    return call.kept


def _connected(target: Target, epoll: select.epoll, until_s: float) -> socket.socket:
    openings = Openings([target.at], target.tls, epoll)
    try:
        openings.begin(0)
        while len(openings) and time.monotonic() < until_s:
            for fd, _ in epoll.poll(0.05):
                if (made := openings.go_on(fd, 0)) is not None:
                    return made
    finally:
        openings.close()
    raise _nobody(target, openings.why or "it took too long to connect")
