"""How is an attack begun and ended, by a process of its own?

    python -m loadtests.hostile.attacker NAME HTTP_PORT GRPC_PORT

Reads `on`, `count` and `off`, a line each, and answers each with a line of JSON: what was seen so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
import threading
import time
from collections import Counter

import uvloop

from loadtests.hostile.attack import Attack, Client
from loadtests.hostile.attacks import ATTACKS
from loadtests.hostile.good import Callers, Fate

PLACED_S_MAX = 12.0
FLOW_S = 1.5
FOREVER_S = 3600.0
NAMES = {Fate.GOOD: "200"}


class Siege:
    """An attack under way, client by client."""

    def __init__(self, attack: Attack, ports: tuple[int, int]) -> None:
        self._attack, self._ports = attack, ports
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[Client] = []
        self._over = asyncio.Event()

    async def on(self) -> None:
        """Begin, and return when every client is in its place."""
        attack, self._over = self._attack, asyncio.Event()
        self._clients = [Client(n, self._ports, attack.seen) for n in range(attack.clients)]
        self._tasks = [asyncio.create_task(attack.live(each, self._over)) for each in self._clients]
        until_s = time.monotonic() + PLACED_S_MAX
        while time.monotonic() < until_s and not all(each.placed for each in self._clients):
            await asyncio.sleep(0.02)
        attack.seen["placed"] = sum(each.placed for each in self._clients)

    def look(self) -> None:
        """Clients write down what they see as they see it."""

    async def off(self) -> None:
        """End: every connection is closed."""
        self._over.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for number, client in enumerate(self._clients):
            client.close(reset=True)
            if number % 256 == 0:
                await asyncio.sleep(0)


class Flood:
    """An attack under way in which every client asks without a pause, and no more slowly if refused."""

    def __init__(self, attack: Attack, ports: tuple[int, int]) -> None:
        self._attack = attack
        self._callers = Callers(ports[0], attack.model, attack.clients)
        self._thread: threading.Thread | None = None
        self._before: Counter[str] = Counter()

    async def on(self) -> None:
        """Begin, and return when it is in full flow."""
        asked = (0.0, FOREVER_S, self._attack.clients)
        self._thread = threading.Thread(target=self._callers.round, args=asked, daemon=True)
        self._thread.start()
        await asyncio.sleep(FLOW_S)

    def look(self) -> None:
        """Have `seen` of the attack hold what came of it so far."""
        if self._thread is not None:
            fates = dict(self._callers.fates)
            now = self._before + Counter({NAMES.get(each, str(each)): n for each, n in fates.items()})
            self._attack.seen.update(now - self._attack.seen)

    async def off(self) -> None:
        """End."""
        if self._thread is not None:
            self._callers.stop()
            await asyncio.to_thread(self._thread.join)
            self.look()
            self._before, self._thread = self._attack.seen.copy(), None


async def _obey(siege: Siege | Flood, seen: Counter[str]) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while word := (await lines.readline()).decode().strip():
        if word == "on":
            await siege.on()
        elif word == "off":
            await siege.off()
        siege.look()
        print(json.dumps({**seen, "at_ns": time.monotonic_ns()}), flush=True)
    await siege.off()


def main() -> None:
    """Attack until the input ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    [attack] = [each for each in ATTACKS if each.name == sys.argv[1]]
    with contextlib.suppress(KeyboardInterrupt):
        siege = (Flood if attack.overload else Siege)(attack, (int(sys.argv[2]), int(sys.argv[3])))
        uvloop.run(_obey(siege, attack.seen))


if __name__ == "__main__":
    main()
