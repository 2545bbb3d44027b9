"""What do an engine and the service know of each other? An engine speaks HTTP/2, the service V2.

An engine calls the service on the gateway's event loop, and is called back there.
"""

from __future__ import annotations

from typing import Protocol

from serving.errors import TurnoutError
from serving.rpc.encode import Parts
from serving.rpc.peer import Peer
from serving.wire import InferRequest, Results

__all__ = ["Calling", "Line", "Message", "Parts", "Stream"]

Message = bytes | memoryview
"""A message as it came in. Payloads larger than 16 KiB are views on it: what holds it is not written to
again before its call is over, and not at all if the call failed or the request was `looked_at`."""


class Calling(Protocol):
    """A ModelInfer call, as its engine has it: the `Reply` of the request that `Service.infer` makes of it.

    Exactly one of the two is called, once, at once or later; none after the request was `dropped`.
    """

    @property
    def peer(self) -> Peer:
        """Who calls. One object for calls with the same metadata, where that costs little."""

    def answer(self, request: InferRequest, results: Results, start: int, stop: int) -> None:
        """Send what `encode` returns for this, then OK, with the stamp as trailing metadata.

        What `encode` raises, raise as `status.known` has it; then `fail` is called.
        """

    def fail(self, request: InferRequest | None, error: TurnoutError) -> None:
        """End the call with the error's `status.code`, `status.text` and `status.trailing`."""


class Line(Protocol):
    """A call with streams, as its engine has it.

    While a client does not read, its engine keeps what is to be sent, and hands over no further messages.
    """

    @property
    def peer(self) -> Peer:
        """Who calls."""

    def send(self, message: Parts) -> None:
        """Send a message after those before it."""

    def finish(self, error: TurnoutError | None) -> None:
        """End the call once all is sent: OK, or with the error. Called once at most."""

    def pause(self) -> None:
        """Hand over no more messages for now, and let the client feel it."""

    def resume(self) -> None:
        """Hand over messages again."""


class Stream(Protocol):
    """The service's side of a call with streams. None of its methods raises."""

    def message(self, message: Message) -> None:
        """Take the next message."""

    def closed(self) -> None:
        """Take note that the client sends no more, but still reads."""

    def cancelled(self) -> None:
        """Take note that the call is over: nothing is to be sent any more."""

    def drain(self) -> None:
        """Finish as soon as what was taken is answered: the server is going away."""
