"""Which rpcs are there, and who answers each of them? The same for every engine.

`Service.infer` is ModelInfer, which costs no task and no future; `Service.unary` are the other rpcs of one
message each way, and `Service.streams` those with more, each by its path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic_ns
from typing import Any

from serving.errors import TurnoutError, bare
from serving.gateway import Gateway
from serving.metrics import REASONS, reason
from serving.rpc import describe, health, status
from serving.rpc.calling import Calling, Line, Message, Stream
from serving.rpc.decode import decode
from serving.rpc.messages import HEALTH, INFERENCE, REFLECTIONS, DecodeError, service_pb2
from serving.rpc.peer import Peer
from serving.rpc.reflection import Reflection
from serving.rpc.stream_infer import Conversation
from serving.rpc.walk import unreadable
from serving.wire import InferRequest

INFER = f"/{INFERENCE}/ModelInfer"

Answer = Callable[[Message, Peer], bytes | Awaitable[bytes]]
"""From a request's bytes to its response's, now or later. It raises; `status.known` has the error to tell."""


class Service:
    """All rpcs of a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.limits = gateway.config.limits
        self.rejections: dict[str, int] = dict.fromkeys(REASONS.values(), 0)
        self.unary: Mapping[str, Answer] = {
            f"/{HEALTH}/Check": lambda message, _peer: health.check(gateway, message),
            f"/{HEALTH}/List": lambda message, _peer: health.listed(gateway, message),
            **{f"/{INFERENCE}/{name}": partial(self._describe, name) for name in describe.HANDLERS},
        }
        self.streams: Mapping[str, Callable[[Line], Stream]] = {
            f"/{INFERENCE}/ModelStreamInfer": lambda line: Conversation(gateway, line, self.count),
            f"/{HEALTH}/Watch": partial(health.Watch, gateway),
            **{
                f"/{name}/ServerReflectionInfo": partial(Reflection, name.rpartition(".")[0])
                for name in REFLECTIONS
            },
        }

    def infer(self, message: Message, calling: Calling, timeout_ns: int = 0) -> InferRequest | None:
        """Take a ModelInfer request; `calling` gets its answer, or why there is none, perhaps at once.

        Returns the request, of which the engine sets `dropped` when the client cancels or is gone; None
        if it failed. `timeout_ns` is what is left of the client's deadline, 0 without one.
        """
        try:
            model, version, call, payloads, id_ = decode(message, self.limits)
            peer = calling.peer
            if peer.problem is not None:
                raise peer.problem.with_traceback(None)
            request = InferRequest(call, payloads, calling, id_ or peer.request_id, monotonic_ns())
            self.gateway.infer(model, version, request, timeout_ns, peer)
        except Exception as error:  # noqa: BLE001 - `known` logs what it does not know.
            # Its traceback would hold the message for as long as the engine holds the error.
            calling.fail(None, bare(status.known(error)))
            return None
        return request

    def count(self, error: TurnoutError) -> None:
        """Count a call that was not answered, by why. Engines do it in `Calling.fail` and for their own."""
        self.rejections[reason(error)] += 1

    def _describe(self, name: str, message: Message, peer: Peer) -> bytes | Awaitable[bytes]:
        if peer.problem is not None:
            raise peer.problem.with_traceback(None)
        request_type: Any = getattr(service_pb2, f"{name}Request")
        try:
            request = request_type.FromString(bytes(message))
        except DecodeError:
            raise unreadable(f"{name}Request") from None
        said = describe.HANDLERS[name](self.gateway, request, peer)
        if isinstance(said, Awaitable):
            return _written(said)
        written: bytes = said.SerializeToString()
        return written


async def _written(said: Awaitable[Any]) -> bytes:
    written: bytes = (await said).SerializeToString()
    return written
