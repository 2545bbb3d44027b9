"""Is the server, or a model, able to answer?  (grpc.health.v1)

``""`` and the service's own name stand for the server, other names for models.
"""

from __future__ import annotations

import asyncio

from serving.errors import TurnoutError, Unavailable, Unknown
from serving.gateway import Gateway
from serving.rpc.calling import Line, Message
from serving.rpc.messages import INFERENCE, DecodeError, built
from serving.rpc.walk import unreadable

Request = built("grpc.health.v1.HealthCheckRequest")
Response = built("grpc.health.v1.HealthCheckResponse")
Listed = built("grpc.health.v1.HealthListResponse")

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
WATCH_S = 0.25
"""How often a watched service is looked at."""
SERVER = frozenset({"", INFERENCE})


def standing(gateway: Gateway, service: str) -> int:
    """Return the status of a service; SERVICE_UNKNOWN if there is none of this name."""
    if service not in SERVER and service not in gateway.shelf.index:
        return SERVICE_UNKNOWN
    if gateway.draining or not gateway.ready:
        return NOT_SERVING
    if service in SERVER:
        return SERVING
    try:
        gateway.find(service)
    except TurnoutError:
        return NOT_SERVING
    return SERVING


def check(gateway: Gateway, message: Message) -> bytes:
    """Answer Check."""
    status = standing(gateway, _service(message))
    if status == SERVICE_UNKNOWN:
        raise Unknown('no such service; "" is the server, and each model is a service of its name')
    return _said(status)


def listed(gateway: Gateway, _message: Message) -> bytes:
    """Answer List."""
    said = Listed()
    for service in (*SERVER, *gateway.shelf.index):
        said.statuses[service].status = standing(gateway, service)
    written: bytes = said.SerializeToString()
    return written


class Watch:
    """The service's side of a Watch call: the status now, and again whenever it has changed."""

    def __init__(self, gateway: Gateway, line: Line) -> None:
        self._gateway = gateway
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._service: str | None = None
        self._last = -1
        self._over = False
        self._timer: asyncio.TimerHandle | None = None

    def message(self, message: Message) -> None:
        """Begin to watch. A second message means nothing."""
        if self._service is not None or self._over:
            return
        try:
            self._service = _service(message)
        except TurnoutError as error:
            self._finish(error)
            return
        self._look()

    def _look(self) -> None:
        assert self._service is not None
        status = standing(self._gateway, self._service)
        if status != self._last:
            self._last = status
            self._line.send((_said(status),))
        self._timer = self._loop.call_later(WATCH_S, self._look)

    def closed(self) -> None:
        """Go on: the client has said all that it had to."""
        if self._service is None:
            self._finish(unreadable("HealthCheckRequest"))

    def cancelled(self) -> None:
        """Look no more."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def drain(self) -> None:
        """Say that the server does not serve any longer, and end."""
        if self._last == SERVING and not self._over:
            self._line.send((_said(NOT_SERVING),))
        self._finish(Unavailable("the server is draining; another one should be asked"))

    def _finish(self, error: TurnoutError) -> None:
        if not self._over:
            self.cancelled()
            self._line.finish(error)


def _service(message: Message) -> str:
    try:
        service: str = Request.FromString(bytes(message)).service
    except DecodeError:
        raise unreadable("HealthCheckRequest") from None
    return service


def _said(status: int) -> bytes:
    written: bytes = Response(status=status).SerializeToString()
    return written
