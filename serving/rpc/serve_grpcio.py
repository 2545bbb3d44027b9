"""How do the rpcs come in where grpcio speaks HTTP/2?

It owns its sockets, so what it serves at is an address rather than a listening socket; several processes
may share that (SO_REUSEPORT), and the kernel deals connections out to those that are there.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio

from serving.answer import ROUTE_HEADER
from serving.codec_binary import COPY_BYTES_MAX
from serving.config import Config
from serving.errors import TurnoutError, Unavailable, bare
from serving.listen_http import Bodies
from serving.memo import Memo
from serving.rpc import status
from serving.rpc.calling import Line, Parts, Stream
from serving.rpc.encode import encode
from serving.rpc.peer import Field, Peer
from serving.rpc.service import INFER, Answer, Service
from serving.sockets import bound_at
from serving.wire import InferRequest, Results

PEERS_MAX = 4096
PEER_BYTES_MAX = 8192
"""Metadata up to this size are remembered, and who is behind them."""
OUT_BYTES_MAX = 4 << 20
"""Messages of a stream that wait for their client to read; beyond it none is taken from it either."""
GRACE_S = 0.1
"""What grpcio needs to cut off whoever is left, and may take beyond the time to drain."""
_Outcome = asyncio.Future[tuple[Parts, bytes] | TurnoutError]
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class _Finder(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types.
    """What grpcio asks for the handler of a path."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find

    def service(self, details: Any) -> Any:
        """Return the handler of the rpc that is called."""
        return self._find(details.method)


class Server:
    """grpcio's server in front of the service."""

    def __init__(self, service: Service, config: Config) -> None:
        self.service = service
        self._config = config
        self._peers: Memo[Any, Peer] = Memo(PEERS_MAX, PEER_BYTES_MAX)
        self._server: Any = None
        self._socket: socket.socket | None = None
        self._streams: set[Stream] = set()
        self._bodies = Bodies(config.limits.bodies_bytes_max)

    async def start(self, reserved: socket.socket) -> None:
        """Begin to serve at the address that `reserved` is bound to, and keep it as ours."""
        limits, rpc, server = self._config.limits, self._config.grpc, self._config.server
        self._socket = reserved
        self._server = grpc.aio.server(
            handlers=[_Finder(self._handler)],
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", limits.body_bytes_max),
                ("grpc.max_send_message_length", -1),  # `encode` has a limit of its own.
                ("grpc.max_concurrent_streams", rpc.streams_max),
                ("grpc.max_metadata_size", limits.head_bytes_max),
                ("grpc.absolute_max_metadata_size", limits.head_bytes_max),
                ("grpc.server_handshake_timeout_ms", int(limits.receive_s_max * 1000)),
            ],
        )
        at = bound_at(reserved)
        if server.tls_certificate is not None and server.tls_key is not None:
            pair = (server.tls_key.read_bytes(), server.tls_certificate.read_bytes())
            self._server.add_secure_port(at, grpc.ssl_server_credentials([pair]))
        else:
            self._server.add_insecure_port(at)
        await self._server.start()

    async def drain(self, s_max: float) -> None:
        """Accept no more, answer what is under way, and end: clients are told by a GOAWAY."""
        if self._server is not None:
            for stream in list(self._streams):
                stream.drain()
            await self._server.stop(s_max or GRACE_S)
            self._server = None
        if self._socket is not None:
            self._socket.close()

    @property
    def connections(self) -> int:
        """Return 0: grpcio does not tell."""
        return 0

    @property
    def bytes_now(self) -> int:
        """How many bytes of large messages are in memory."""
        return self._bodies.bytes_now

    @property
    def rejections(self) -> dict[str, int]:
        """Calls that were answered with an error, by `reason`."""
        return dict(self.service.rejections)

    @property
    def faults(self) -> dict[str, int]:
        """Return nothing: grpcio does not tell."""
        return {}

    def _handler(self, path: str) -> Any:
        """Return grpcio's handler of the rpc at `path`, None if there is none."""
        if path == INFER:
            return grpc.unary_unary_rpc_method_handler(self._infer)
        if path in self.service.unary:
            return grpc.unary_unary_rpc_method_handler(partial(self._unary, self.service.unary[path]))
        if path in self.service.streams:
            return grpc.stream_stream_rpc_method_handler(partial(self._stream, self.service.streams[path]))
        return None

    def peer(self, context: Any) -> Peer:
        """Return who calls; the same for the same metadata."""
        metadata = context.invocation_metadata()
        peer = self._peers.get(metadata) or self._peers.recall(metadata)
        if peer is None:
            headers = [_field(name, value) for name, value in metadata or ()]
            peer = Peer(headers)
            self._peers.keep(metadata, peer, sum(len(name) + len(value) + 160 for name, value in headers))
        return peer

    async def _infer(self, message: bytes, context: Any) -> bytes:
        outcome = await self._outcome(message, context)
        del message  # grpcio keeps the error of an aborted call until it is collected, and so this frame.
        if isinstance(outcome, TurnoutError):
            await _abort(context, outcome)
        parts, stamp = outcome
        if stamp:
            context.set_trailing_metadata(((ROUTE_HEADER, stamp.decode()),))
        return b"".join(parts)

    async def _outcome(self, message: bytes, context: Any) -> tuple[Parts, bytes] | TurnoutError:
        remaining_s = context.time_remaining()
        timeout_ns = 0 if remaining_s is None else max(1, int(remaining_s * 1e9))
        call = _Call(self, self.peer(context))
        request: InferRequest | None = None
        try:
            request = self.service.infer(hold(self._bodies, message), call, timeout_ns)
        except Unavailable as full:
            call.fail(None, full)
        try:
            return await call.answered
        except asyncio.CancelledError:
            if request is not None:
                request.dropped = True
            # The future has this error, which has this frame, which would have the future and the message.
            del call, request, message
            raise

    async def _unary(self, answer: Answer, message: bytes, context: Any) -> bytes:
        try:
            said = answer(message, self.peer(context))
            # What was begun for a client that leaves is brought to its end, as over the other ways in.
            return said if isinstance(said, bytes) else await asyncio.shield(said)
        except Exception as error:  # noqa: BLE001 - `known` logs what it does not know.
            told = status.known(error)
        self.service.count(told)
        return await _abort(context, told)

    async def _stream(self, open_: Callable[[Line], Stream], _messages: Any, context: Any) -> None:
        line = _Line(self.peer(context), self._bodies)
        stream = open_(line)
        self._streams.add(stream)
        reading = asyncio.get_running_loop().create_task(line.read(stream, context))
        try:
            await line.write(context)
        finally:
            reading.cancel()
            stream.cancelled()
            self._streams.discard(stream)
            await asyncio.gather(reading, return_exceptions=True)
        if line.error is not None:
            await _abort(context, line.error)


class _Call:
    """A ModelInfer call. Its answer and stamp, or its error, are the result of `answered`.

    As the future's exception, an error would be raised, and its traceback hold what holds the future.
    """

    __slots__ = ("_server", "answered", "peer")

    def __init__(self, server: Server, peer: Peer) -> None:
        self._server = server
        self.peer = peer
        self.answered: _Outcome = asyncio.get_running_loop().create_future()

    def answer(self, request: InferRequest, results: Results, start: int, stop: int) -> None:
        """Have the answer sent."""
        try:
            parts = encode(request, results, start, stop, self._server.service.limits.answer_bytes_max)
        except Exception as error:  # noqa: BLE001 - it must not cost the others of the batch their answers.
            raise status.known(error) from None
        if not self.answered.done():
            self.answered.set_result((parts, request.stamp))

    def fail(self, _request: InferRequest | None, error: TurnoutError) -> None:
        """Have the error sent."""
        self._server.service.count(error)
        if not self.answered.done():
            self.answered.set_result(bare(error))


class _Line:
    """A call with streams: what is to be sent, and whether more is to be read."""

    def __init__(self, peer: Peer, bodies: Bodies) -> None:
        self.peer = peer
        self._bodies = bodies
        self.error: TurnoutError | None = None
        self._out: deque[Parts] = deque()
        self._out_bytes = 0
        self._paused = self._finished = False
        self._changed = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()

    def send(self, message: Parts) -> None:
        """Send a message after those before it."""
        self._out.append(message)
        self._out_bytes += sum(map(len, message))
        self._change()

    def finish(self, error: TurnoutError | None) -> None:
        """End the call once all is sent."""
        self._finished, self.error = True, error
        self._change()

    def pause(self) -> None:
        """Read no more for now."""
        self._paused = True
        self._change()

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        self._change()

    def _change(self) -> None:
        self._changed.set()
        if self._paused or self._out_bytes > OUT_BYTES_MAX:
            self._free.clear()
        else:
            self._free.set()

    async def read(self, stream: Stream, context: Any) -> None:
        """Hand the client's messages over, while they are wanted."""
        while not self._finished:
            await self._free.wait()
            message = await context.read()
            if message is grpc.aio.EOF:
                stream.closed()
                return
            try:
                stream.message(hold(self._bodies, message))
            except Unavailable as full:
                stream.cancelled()
                self.finish(full)

    async def write(self, context: Any) -> None:
        """Send the messages, until the last one is sent."""
        while self._out or not self._finished:
            if not self._out:
                self._changed.clear()
                await self._changed.wait()
                continue
            message = b"".join(self._out.popleft())
            self._out_bytes -= len(message)
            self._change()
            await context.write(message)


def hold(bodies: Bodies, message: bytes) -> bytes | memoryview:
    """Return a message, of which a large one counts among the bodies as long as somebody looks at it.

    Raises
    ------
    Unavailable
        If there are too many of them.
    """
    if len(message) <= COPY_BYTES_MAX:
        return message
    view = bodies.adopt(message)
    bodies.give_back(view, read=True)
    return view


def _field(name: str, value: str | bytes) -> Field:
    return name.encode(), value.encode() if isinstance(value, str) else value


async def _abort(context: Any, error: TurnoutError) -> NoReturn:
    """End a call with an error. Always raises."""
    trailing: Sequence[tuple[str, str]] = status.trailing(error)
    await context.abort(_CODES[status.code(error)], status.text(error), trailing)
    raise AssertionError
