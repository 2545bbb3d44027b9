"""How does a test start processes that import much? From one that has imported it, once a run.

What runs in them is what would run in a new interpreter, and they are killed and waited for like others; only
the second of imports, which no test is about, is not paid for by each of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable
from typing import IO, Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "onnxruntime",
        "serving.admin.application",
        "serving.control.desk",
        "serving.local",
        "serving.loader",
        "serving.peers",
        "tests.stage",
        "uvicorn",
        "uvicorn.lifespan.off",
        "uvicorn.loops.auto",
        "uvicorn.protocols.http.auto",
    ]
)


class Forked:
    """A process that calls `body` with `arguments`, as `subprocess.Popen` shows one.

    Its environment is this process's, and what it prints goes to `log`.
    """

    def __init__(self, log: IO[bytes], body: Callable[..., None], *arguments: Any) -> None:
        given = (log.name, dict(os.environ), body, arguments)
        # Whatever a test leaves behind ends with the run.
        self._process = _CONTEXT.Process(target=_begin, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code."""
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(repr(self), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def _begin(
    log: str, environment: dict[str, str], body: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    to = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(to, 1)
    os.dup2(to, 2)
    os.close(to)
    body(*arguments)
