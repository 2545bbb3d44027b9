"""What is an attack: how many clients, what each of them does, how often?"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

ADDRESSES = 8
"""Of loopback, which the clients of an attack come from in turn: one has 28,000 ports."""
RESET = struct.pack("ii", 1, 0)
CONNECT_S_MAX = 10.0


class Client:
    """One hostile client: a socket at a time, and what it does with it."""

    def __init__(self, number: int, ports: tuple[int, int], seen: Counter[str]) -> None:
        self.number = number
        self.http, self.grpc = ports
        self.seen = seen
        """What came of the attack so far, by what is counted; shared by all of its clients."""
        self.placed = False
        """It has done what there is to be done until the attack counts as begun."""
        self._socket: socket.socket | None = None

    async def connect(self, port: int | None = None, *, receive_bytes: int = 0) -> None:
        """Open a connection, by default to where HTTP is spoken; the kernel's room may be made small."""
        self.close()
        self._socket = line = socket.socket()
        line.setblocking(False)
        if receive_bytes:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: ports last longer.
        line.bind((f"127.0.1.{1 + self.number % ADDRESSES}", 0))
        async with asyncio.timeout(CONNECT_S_MAX):
            await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", port or self.http))
        self.seen["connections"] += 1

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it."""
        assert self._socket is not None
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        """Return what comes next; `ConnectionError` if it is the end."""
        assert self._socket is not None
        got = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16)
        if not got:
            raise ConnectionResetError
        return got

    async def answer(self, s_max: float = 5.0) -> None:
        """Read until something of an answer is there, and count its status."""
        async with asyncio.timeout(s_max):
            got = await self.receive()
        self.seen[got[9:12].decode("latin-1") if got.startswith(b"HTTP/1.1 ") else "other"] += 1

    async def drain(self) -> None:
        """Read until the server ends the connection."""
        while True:
            await self.receive()

    def close(self, *, reset: bool = False) -> None:
        """End the connection, perhaps by a reset."""
        line, self._socket = self._socket, None
        if line is not None:
            with contextlib.suppress(OSError):
                if reset:
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                line.close()


async def nothing(_client: Client) -> None:
    """Do nothing: of an overload the clients are `good.Callers`, in a closed loop."""


Act = Callable[[Client], Awaitable[None]]
"""What a client does; it ends with its connection, or is cancelled."""


@dataclass(frozen=True)
class Attack:
    """A way to be hostile.

    Parameters
    ----------
    how : str
        What is done, as the documentation has it.
    act : callable
        What each client does, again and again.
    clients : int
    every_s : float
        How long a client pauses before it does it again: so an attack is bounded by `clients` in `every_s`.
    ramp_s : float
        The time over which the clients begin.
    overload : bool
        It asks for more than the gateway can do: every client asks as a good one does, but without a pause.
    model : str
        What the good clients ask, and those of an overload.
    """

    name: str
    how: str
    act: Act
    clients: int
    every_s: float = 1.0
    ramp_s: float = 0.5
    overload: bool = False
    model: str = "echo"
    seen: Counter[str] = field(default_factory=Counter)

    async def live(self, client: Client, over: asyncio.Event) -> None:
        """Let one client do its worst until the attack is over."""
        await asyncio.sleep(self.ramp_s * client.number / self.clients)
        while not over.is_set():
            try:
                await self.act(client)
            except TimeoutError:
                self.seen["unanswered"] += 1
            except OSError:
                self.seen["cut"] += 1
            client.placed = True
            client.close(reset=True)
            await asyncio.sleep(self.every_s)
