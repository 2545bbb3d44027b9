"""Several replicas and a control without Ray: real processes that a test can stop, kill and start again.

What they are to serve is in FOLDER/config.json. A replica ends with SIGTERM as on Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from serving.config import Config, parse
from serving.sockets import Holder, bound_at, fetch, listen
from tests import admitted
from tests.forked import Forked

ROOT = Path(__file__).resolve().parent.parent
READY_S_MAX = 60.0


class Stage:
    """A gateway of several processes.

    Parameters
    ----------
    folder : Path
        A new one of this test's.
    traffic, drift : dict
        Sections of the configuration; drift is off if nothing is said of it.
    more : dict
        Other sections.
    """

    def __init__(
        self,
        folder: Path,
        repository: Path,
        traffic: dict[str, Any] | None = None,
        drift: dict[str, Any] | None = None,
        **more: dict[str, Any],
    ) -> None:
        self.folder = folder / "s"
        self.folder.mkdir(mode=0o700)
        server = dict.fromkeys(("http", "grpc", "metrics", "admin"), "127.0.0.1:0")
        self.config = parse(
            {
                "server": {**server, "drain_s_max": 2},
                "repository": {"path": str(repository), "state": str(folder / "state")},
                "traffic": traffic or {},
                "drift": drift or {"enabled": False},
                "shadow": {"age_s_max": 600},  # Its process has the lowest rank, and others may be busy.
                **more,
            }
        )
        (self.folder / "config.json").write_text(self.config.model_dump_json())
        sockets = {name: listen("127.0.0.1:0") for name in ("http", "metrics", "admin")}
        self.http, self.admin = bound_at(sockets["http"]), bound_at(sockets["admin"])
        self._holder = Holder(self.folder, sockets, "launcher")
        self.control: Forked | None = None
        self.replicas: dict[str, Forked] = {}
        self.log = (folder / "log").open("ab")
        admitted.lend(self.config.repository.state)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        for process in [*self.replicas.values(), *([self.control] if self.control else [])]:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(10)
        self._holder.close()
        self.log.close()
        admitted.keep(self.config.repository.state)
        if error is not None:
            print(Path(self.log.name).read_text()[-8000:], file=sys.stderr)

    def start_control(self, die_at: str = "") -> None:
        """Start a control; with `die_at` it kills itself before that step of the first change."""
        self.control = Forked(self.log, run_control, self.folder, die_at)
        self._wait(lambda: self.ask("GET", "/v2/traffic")[0] == 200)

    def start_replica(self, name: str) -> None:
        """Start a replica and return when it answers requests."""
        self.begin_replica(name)
        self._wait((self.folder / f"{name}.ready").exists)

    def begin_replica(self, name: str) -> None:
        """Start a replica."""
        (self.folder / f"{name}.ready").unlink(missing_ok=True)
        self.replicas[name] = Forked(self.log, run_replica, self.folder, name)

    def _wait(self, holds: Any) -> None:
        until_s = time.monotonic() + READY_S_MAX
        while not holds():
            for process in [self.control, *self.replicas.values()]:
                assert process is None or process.poll() is None, Path(self.log.name).read_text()[-4000:]
            assert time.monotonic() < until_s, Path(self.log.name).read_text()[-4000:]
            time.sleep(0.02)

    @property
    def state(self) -> Path:
        """The private folder of the gateway's traffic."""
        from serving.access import control_folder

        return control_folder(self.config)

    def ask(self, method: str, path: str, body: Any = None, timeout_s: float = 30.0) -> tuple[int, Any]:
        """Ask the admin application; 0 if there is no answer."""
        request = urllib.request.Request(f"http://{self.admin}{path}", method=method)
        token = self.state / "token"
        if token.exists():
            request.add_header("authorization", f"Bearer {token.read_text().strip()}")
        if body is not None:
            request.add_header("content-type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            return 0, repr(error)

    def change(self, model: str, verb: str, **body: Any) -> dict[str, Any]:
        """Change traffic and return the receipt."""
        status, receipt = self.ask("POST", f"/v2/models/{model}/traffic/{verb}", {"why": "a test", **body})
        assert status == 200, receipt
        return dict(receipt)

    def infer(
        self, model: str, row: list[float], *headers: tuple[str, str], path: str = ""
    ) -> tuple[Any, str]:
        """Infer a row of four numbers over a new connection; return the answer and its route header."""
        document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, len(row)], "data": row}]}
        url = f"http://{self.http}/v2/models/{model}{path}/infer"
        request = urllib.request.Request(url, json.dumps(document).encode(), dict(headers), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer), answer.headers["turnout-route"]


def run_control(folder: Path, die_at: str) -> None:
    """Be a control until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _log()
    from serving.control.desk import Desk

    def step(name: str) -> None:
        if name == die_at and (folder / "die").exists():
            os.kill(os.getpid(), signal.SIGKILL)

    desk = Desk(_config(folder), folder, fetch(folder, "admin"), step)
    desk.start()
    desk.answer()
    signal.sigwait({signal.SIGTERM})
    desk.close()


def run_replica(folder: Path, name: str) -> None:
    """Be a replica until SIGTERM."""
    _log()
    import uvloop

    from serving.control.desk import brakes_folder
    from serving.local import Post, Serving
    from serving.peers import Peers

    config = _config(folder)
    post = Post(folder, name, brakes_folder(config))
    peers = Peers(folder, f"{name}-{os.getpid()}")
    serving = Serving(config, fetch(folder, "http"), listen("127.0.0.1:0"), peers, post)

    async def serve() -> None:
        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        await serving.start()
        (folder / f"{name}.ready").touch()
        await over.wait()
        await serving.drain()

    uvloop.run(serve())


def _log() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.INFO)


def _config(folder: Path) -> Config:
    return Config.model_validate_json((folder / "config.json").read_bytes())


@contextlib.contextmanager
def staged(
    folder: Path, repository: Path, replicas: int, drift: dict[str, Any] | None = None, **traffic: Any
) -> Iterator[Stage]:
    """Return a control and replicas `r0`, `r1`, … that are ready."""
    with Stage(folder, repository, traffic, drift) as stage:
        stage.start_control()
        for number in range(replicas):
            stage.begin_replica(f"r{number}")
        stage._wait(lambda: all((stage.folder / f"r{number}.ready").exists() for number in range(replicas)))
        yield stage
