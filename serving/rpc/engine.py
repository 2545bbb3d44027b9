"""Which engine speaks HTTP/2 for gRPC, and on what kind of socket?"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from serving.config import Config
from serving.sockets import listen, reserve

if TYPE_CHECKING:
    from serving.gateway import Gateway


class Engine(Protocol):
    """A gRPC server of a gateway."""

    async def start(self, bound: socket.socket) -> None:
        """Begin to serve on a socket that `bind` returned, and own it."""

    async def drain(self, s_max: float) -> None:
        """Accept no more, answer what is under way within `s_max`, and end."""

    @property
    def connections(self) -> int:
        """How many are open, where the engine knows."""

    @property
    def bytes_now(self) -> int:
        """How many bytes of requests are in memory."""

    @property
    def rejections(self) -> dict[str, int]:
        """Calls that were answered with an error, by `reason`."""

    @property
    def faults(self) -> Mapping[str, int]:
        """Streams and connections ended for what their clients did, by HTTP/2's codes, where it knows."""


def bind(config: Config) -> socket.socket | None:
    """Bind `server.grpc` for the configured engine; None if there is to be none.

    Raises
    ------
    ConfigError
        If the address cannot be had.
    """
    match config.grpc.engine:
        case "off":
            return None
        case "grpcio":  # It takes no socket that listens already.
            return reserve(config.server.grpc)
        case "h2":
            return listen(config.server.grpc)


def engine(gateway: Gateway) -> Engine:
    """Return the configured engine. Only here is it imported: whoever has none does without its 10 MiB."""
    from serving.rpc.service import Service

    service = Service(gateway)
    if gateway.config.grpc.engine == "h2":
        from serving.rpc import serve_h2

        return serve_h2.Server(service, gateway.config)
    from serving.rpc import serve_grpcio

    return serve_grpcio.Server(service, gateway.config)
