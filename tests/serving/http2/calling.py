"""How does a test make gRPC calls in frames of its own? python-hyper's h2 on a blocking socket."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

import h2.config
import h2.connection
import h2.events
import h2.settings
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as v2

SERVICE = "/inference.GRPCInferenceService"
INFER, STREAM = f"{SERVICE}/ModelInfer", f"{SERVICE}/ModelStreamInfer"
LIVE, READY = f"{SERVICE}/ServerLive", f"{SERVICE}/ModelReady"
WATCH = "/grpc.health.v1.Health/Watch"
OFTEN = 1 << 20
GOAWAY = 7


class Goodbye(NamedTuple):
    """A GOAWAY."""

    error_code: int
    last_stream_id: int
    additional_data: bytes


@dataclass
class Call:
    """What came back of a call."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """GRPC's status."""
        return int({**self.headers, **self.trailers}["grpc-status"])

    @property
    def text(self) -> str:
        """What the status says in words, still percent-encoded."""
        return {**self.headers, **self.trailers}.get("grpc-message", "")

    @property
    def messages(self) -> list[tuple[int, bytes]]:
        """The messages, each with its flag."""
        found, at = [], 0
        while at < len(self.data):
            flag, length = struct.unpack_from(">BI", self.data, at)
            found.append((flag, bytes(self.data[at + 5 : at + 5 + length])))
            assert len(found[-1][1]) == length, "half a message"
            at += 5 + length
        return found


class Caller:
    """A connection."""

    def __init__(
        self,
        at: str,
        *,
        window: int = OFTEN,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 15.0,
        settings: dict[int, int] | None = None,
    ) -> None:
        host, port = at.rsplit(":", 1)
        self.socket: socket.socket = socket.create_connection((host, int(port)), timeout=timeout_s)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=host)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True, header_encoding="latin-1", validate_outbound_headers=False
            )
        )
        initial = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window, **(settings or {})}
        self.h2.local_settings = h2.settings.Settings(client=True, initial_values=initial)
        self.calls: dict[int, Call] = {}
        self.gone: list[Goodbye] = []
        self._received = b""
        self.pings = 0
        self.closed = False
        self.acknowledges = True
        self.h2.initiate_connection()
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.socket.close()

    def flush(self) -> None:
        """Send what h2 has to send."""
        self.socket.sendall(self.h2.data_to_send())

    def open(self, path: str, *metadata: tuple[str, str], ended: bool = False, **pseudo: str) -> int:
        """Begin a call and return its stream."""
        id_: int = self.h2.get_next_available_stream_id()
        fields = [
            (":method", pseudo.get("method", "POST")),
            (":scheme", "http"),
            (":path", path),
            (":authority", "test"),
            ("te", "trailers"),
            ("content-type", pseudo.get("content_type", "application/grpc")),
            *metadata,
        ]
        self.calls[id_] = Call()
        self.h2.send_headers(id_, fields, end_stream=ended)
        self.flush()
        return id_

    def send(
        self, id_: int, data: bytes, *, ended: bool = True, step: int = 1 << 24, padding: int = 0
    ) -> None:
        """Send data, in frames of `step` bytes at most, as the server's windows allow."""
        while data:
            most = min(step, self.h2.max_outbound_frame_size, self.h2.local_flow_control_window(id_))
            if most <= padding + 1:
                self.read()
                continue
            part, data = data[: most - padding - 1], data[most - padding - 1 :]
            self.h2.send_data(id_, part, pad_length=padding or None)
            self.flush()
        if ended:
            self.h2.end_stream(id_)
            self.flush()

    def read(self) -> bool:
        """Take what the server sends; False if it has closed."""
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return False
        self._received += data
        for whole in self._frames():
            for event in self.h2.receive_data(whole):
                self._note(event)
        with suppress(BrokenPipeError, ConnectionResetError):
            self.flush()
        return True

    def _frames(self) -> Iterator[bytes]:
        """Yield the frames that are there but goodbyes, behind which h2 would take nothing more."""
        at, received = 0, self._received
        while len(received) - at >= 9:
            stop = at + 9 + int.from_bytes(received[at : at + 3])
            if stop > len(received):
                break
            whole, at = received[at:stop], stop
            if whole[3] == GOAWAY:
                last, code = struct.unpack_from(">II", whole, 9)
                self.gone.append(Goodbye(code, last, whole[17:]))
            else:
                yield whole
        self._received = received[at:]

    def _note(self, event: Any) -> None:
        call = self.calls.get(getattr(event, "stream_id", None) or 0, Call())
        match event:
            case h2.events.ResponseReceived():
                call.headers = dict(event.headers)
            case h2.events.TrailersReceived():
                call.trailers = dict(event.headers)
            case h2.events.DataReceived():
                call.data += event.data
                if self.acknowledges:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                call.ended = True
            case h2.events.StreamReset():
                call.reset = event.error_code
            case h2.events.PingReceived():
                self.pings += 1

    def wait(self, id_: int) -> Call:
        """Wait until a call is over."""
        call = self.calls[id_]
        while not call.ended and call.reset is None:
            if not self.read():
                raise ConnectionError(f"closed; {self.gone}")
        return call

    def ask(self, path: str, message: bytes, *metadata: tuple[str, str], **more: Any) -> Call:
        """Make a call of one message, and wait until it is over."""
        id_ = self.open(path, *metadata)
        self.send(id_, framed(message), **more)
        return self.wait(id_)

    def wait_closed(self, s_max: float = 15.0) -> None:
        """Wait until the server has closed."""
        until_s = time.monotonic() + s_max
        while not self.closed:
            assert time.monotonic() < until_s
            self.read()


def framed(message: bytes, flag: int = 0) -> bytes:
    """Return a message with its prefix."""
    return struct.pack(">BI", flag, len(message)) + message


def question(model: str, x: NDArray[np.float32], id_: str = "") -> bytes:
    """Return a ModelInferRequest."""
    made = v2.ModelInferRequest(model_name=model, id=id_)
    made.inputs.add(name="x", datatype="FP32", shape=x.shape)
    made.raw_input_contents.append(x.tobytes())
    written: bytes = made.SerializeToString()
    return written


def said(message: bytes) -> NDArray[np.float32]:
    """Return the one output of a ModelInferResponse."""
    answer = v2.ModelInferResponse.FromString(message)
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(list(answer.outputs[0].shape))
