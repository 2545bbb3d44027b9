"""How a test talks HTTP to the gateway in bytes: requests of every kind, and answers read one by one."""

from __future__ import annotations

import ctypes
import gc
import json
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class Answer(NamedTuple):
    """One response, as far as tests look at it. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The JSON of the body: all of it, or what comes before raw bytes."""
        return json.loads(
            self.body[: int(self.headers.get("inference-header-content-length", len(self.body)))]
        )

    @property
    def error(self) -> str:
        """The message of an error, having checked that it is of the one shape of errors."""
        assert self.status >= 400, self
        assert self.headers["content-type"] == "application/json", self
        assert list(self.json) == ["error"], self
        message = self.json["error"]
        assert isinstance(message, str) and message
        return message

    @property
    def raw(self) -> bytes:
        """What follows the JSON."""
        return self.body[int(self.headers["inference-header-content-length"]) :]


class Connects(Protocol):
    """Whatever a client can be connected to."""

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        """Open a plain connection."""


class Client:
    """A connection that keeps what it read too much of for the next answer."""

    def __init__(self, gateway: Connects, timeout_s: float = 60.0) -> None:
        self.socket = gateway.connect(timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *pieces: bytes, pause_s: float = 0.0) -> Client:
        """Send `pieces` one by one."""
        for piece in pieces:
            self.socket.sendall(piece)
            if pause_s:
                time.sleep(pause_s)
        return self

    def reset(self) -> None:
        """Close so that the other end sees a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def answer(self, method: str = "GET") -> Answer:
        """Return the next response; of one to HEAD there is no body."""
        self._fill(lambda: b"\r\n\r\n" in self.read)
        head, _, self.read = self.read.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (each.split(":", 1) for each in fields)}
        assert len(headers) == len(fields), f"a header twice: {fields}"
        length = 0 if method == "HEAD" or line.split()[1] == "100" else int(headers["content-length"])
        self._fill(lambda: len(self.read) >= length)
        body, self.read = self.read[:length], self.read[length:]
        return Answer(int(line.split()[1]), headers, body)

    def ask(self, data: bytes, method: str = "GET") -> Answer:
        """Send a request and return its response."""
        return self.send(data).answer(method)

    def is_ended(self) -> bool:
        """Say whether the server has closed, having sent nothing more; waits until it does."""
        try:
            return not self.read and not self.socket.recv(1)
        except ConnectionResetError:
            return True

    def _fill(self, enough: Callable[[], bool]) -> None:
        while not enough():
            part = self.socket.recv(1 << 20)
            if not part:
                raise ConnectionError(f"closed after {self.read[:200]!r}")
            self.read += part


def request(line: str, *headers: str, body: bytes | None = None, host: str = "Host: test") -> bytes:
    """Return a request's bytes; `body` adds its length."""
    lines = [f"{line} HTTP/1.1", host, *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


def document(values: NDArray[Any], datatype: str = "FP32", name: str = "x", **more: Any) -> bytes:
    """Return the JSON of an inference of one tensor."""
    tensor = {
        "name": name,
        "shape": list(values.shape),
        "datatype": datatype,
        "data": values.ravel().tolist(),
    }
    return json.dumps({**more, "inputs": [tensor]}).encode()


def in_json(model: str, values: NDArray[Any], *headers: str, **more: Any) -> bytes:
    """Return an inference request that is all JSON."""
    return request(f"POST /v2/models/{model}/infer", *headers, body=document(values, **more))


def binary_body(values: NDArray[Any], **more: Any) -> tuple[bytes, int]:
    """Return the body of an inference with raw bytes both ways, and how long its JSON is."""
    tensor = {
        "name": "x",
        "shape": list(values.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": values.nbytes},
    }
    text = json.dumps({**more, "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return text + values.tobytes(), len(text)


def in_binary(model: str, values: NDArray[Any], *headers: str, **more: Any) -> bytes:
    """Return an inference request with raw bytes both ways."""
    body, json_bytes = binary_body(values, **more)
    length = f"Inference-Header-Content-Length: {json_bytes}"
    return request(f"POST /v2/models/{model}/infer", length, *headers, body=body)


def chunked(line: str, pieces: Iterable[bytes], *headers: str, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a request whose body comes in chunks."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return request(line, "Transfer-Encoding: chunked", *headers) + chunks + end


def rows(count: int, columns: int, start: float = 0.0) -> NDArray[np.float32]:
    """Return numbers that are all different, and exact in JSON."""
    return (np.arange(count * columns, dtype=np.float32) + np.float32(start)).reshape(count, columns)


def eventually(holds: Callable[[], bool], s_max: float = 60.0) -> bool:
    """Say whether something comes to hold in time."""
    until_s = time.monotonic() + s_max
    while not holds():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)
    return True


def give_back_memory() -> None:
    """Return what large bodies took to the system, since other tests measure this process."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
