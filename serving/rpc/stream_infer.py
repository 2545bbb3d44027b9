"""How are the requests of one ModelStreamInfer call answered? In their order, as Triton does.

An error is the answer to its request, and the stream goes on, unless the client's metadata says
``triton_grpc_error: true``: then the first one ends the call with its status.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic_ns

from serving.config import Limits
from serving.errors import TurnoutError, Unavailable, bare
from serving.gateway import Gateway
from serving.rpc import status
from serving.rpc.calling import Line, Message, Parts
from serving.rpc.decode import decode
from serving.rpc.encode import encode, stream_answer, stream_error
from serving.wire import InferRequest, Results

TURNS_MAX = 128
"""Requests of one stream under way at once; the client feels it when it sends more."""
HELD_BYTES_MAX = 16 << 20
"""Requests of one stream that are under way, and answers that wait for an earlier one; likewise."""
ENDS_BY_ERROR = (b"triton_grpc_error", b"true")


class Turn:
    """One request of a stream: its `Reply`, and its place in the order."""

    __slots__ = ("_conversation", "bytes_now", "id", "parts", "request")

    def __init__(self, conversation: Conversation, message_bytes: int) -> None:
        self._conversation = conversation
        self.bytes_now = message_bytes
        """Of the request, and then of its answer."""
        self.request: InferRequest | None = None
        self.id = b""
        self.parts: Parts | None = None

    def answer(self, request: InferRequest, results: Results, start: int, stop: int) -> None:
        """Note the answer, and send what can be sent now."""
        try:
            parts = encode(request, results, start, stop, self._conversation.limits.answer_bytes_max)
        except Exception as error:  # noqa: BLE001 - it must not cost the others of the batch their answers.
            raise status.known(error) from None
        self._conversation.take(self, stream_answer(parts))

    def fail(self, _request: InferRequest | None, error: TurnoutError) -> None:
        """Note the error, and send what can be sent now."""
        self._conversation.fail(self, error)


class Conversation:
    """The service's side of a ModelStreamInfer call."""

    def __init__(self, gateway: Gateway, line: Line, count: Callable[[TurnoutError], None]) -> None:
        self.limits: Limits = gateway.config.limits
        self._gateway = gateway
        self._line = line
        self._count = count
        self._ends_by_error = ENDS_BY_ERROR in line.peer.headers
        self._turns: deque[Turn] = deque()
        self._held_bytes = 0
        self._paused = self._ended = self._over = False
        self._last: TurnoutError | None = None

    def message(self, message: Message) -> None:
        """Take a request."""
        if self._over or self._ended:
            return
        turn = Turn(self, len(message))
        self._turns.append(turn)
        self._held_bytes += turn.bytes_now
        try:
            model, version, call, payloads, turn.id = decode(message, self.limits)
            peer = self._line.peer
            if peer.problem is not None:
                raise peer.problem.with_traceback(None)
            request = InferRequest(call, payloads, turn, turn.id, monotonic_ns())
            self._gateway.infer(model, version, request, 0, peer)
            turn.request = request
        except Exception as error:  # noqa: BLE001 - `known` logs what it does not know.
            self.fail(turn, bare(status.known(error)))
        self._feel()

    def closed(self) -> None:
        """End once everything is answered."""
        self._ended = True
        self._flush()

    def cancelled(self) -> None:
        """Drop what nobody waits for."""
        self._over = True
        for turn in self._turns:
            if turn.request is not None:
                turn.request.dropped = True
                turn.request = None
        self._turns.clear()

    def drain(self) -> None:
        """End once everything is answered that was taken."""
        if not self._ended:
            self._ended = True
            self._last = Unavailable("the server is draining; another one should be asked")
            self._flush()

    def take(self, turn: Turn, parts: Parts) -> None:
        """Have `parts` sent when it is the turn of `turn`."""
        turn.request, turn.parts = None, parts
        answer_bytes = sum(map(len, parts))
        self._held_bytes += answer_bytes - turn.bytes_now
        turn.bytes_now = answer_bytes
        self._flush()

    def fail(self, turn: Turn, error: TurnoutError) -> None:
        """Have the error told when it is the turn of `turn`, or end the call with it."""
        if self._over:
            return
        self._count(error)
        if self._ends_by_error:
            self.cancelled()
            self._line.finish(error)
        else:
            self.take(turn, stream_error(error, turn.id))

    def _flush(self) -> None:
        """Send the answers that no unanswered request precedes."""
        if self._over:
            return
        turns = self._turns
        while turns and (parts := turns[0].parts) is not None:
            self._held_bytes -= turns.popleft().bytes_now
            self._line.send(parts)
        self._feel()
        if self._ended and not turns:
            self._over = True
            self._line.finish(self._last)

    def _feel(self) -> None:
        """Let the client feel how much it may have under way."""
        full = len(self._turns) >= TURNS_MAX or self._held_bytes > HELD_BYTES_MAX
        if full is not self._paused and not self._over:
            self._paused = full
            (self._line.pause if full else self._line.resume)()
