"""A gateway whose gRPC is our own HTTP/2, for tests."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tests.running import Running

X = np.arange(8, dtype=np.float32).reshape(2, 4)
SLOW = np.full((1, 4), 300_000, np.float32)
ENDLESS = np.full((1, 4), 1e18, np.float32)
LARGE = np.random.default_rng(0).standard_normal((3, 100_000), np.float32)


def serve(folder, **settings: Any) -> Running:
    settings.setdefault("grpc", {})["engine"] = "h2"
    settings.setdefault("engine", {})["inline_us_max"] = 0
    return Running(folder / "models", folder / "state", settings)


def look(running: Running, times: int = 1) -> None:
    """Let the server look at its connections, as it does once a second."""

    async def now() -> None:
        for _ in range(times):
            for connection in list(running.rpc._connections):
                connection.look(time.monotonic_ns())

    running.do(now())
