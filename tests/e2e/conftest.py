"""One gateway on Ray for all end-to-end tests: the real command, in a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from tests.commanding import turnout

START_S_MAX = 90.0
"""Ray starts within 15 s on two cores that have nothing else to do; tests may share them."""
LEAK_BYTES_MAX = 96 << 20
"""More than a replica grows by in these tests between one version that is unloaded and the next."""
REPLICA = "ray::ServeReplica:turnout:Gateway"
CONTROL = "ray::ServeReplica:turnout-control:Control"


class Served:
    """The command `turnout serve` on Ray, and what a test may do to it."""

    def __init__(self, folder: Path) -> None:
        self.http, self.grpc, self.metrics, self.admin = (_free_port() for _ in range(4))
        self._log = folder / "serve.log"
        self.models = folder / "models"
        (self.models / "twice" / "1").mkdir(parents=True)
        onnx.save(_twice(), self.models / "twice" / "1" / "model.onnx")
        self.config = config = folder / "turnout.toml"
        config.write_text(
            f'[server]\nhttp = "127.0.0.1:{self.http}"\nmetrics = "127.0.0.1:{self.metrics}"\n'
            f'grpc = "127.0.0.1:{self.grpc}"\nadmin = "127.0.0.1:{self.admin}"\n'
            f'[repository]\npath = "{self.models}"\nstate = "{folder / "state"}"\n'
            f"[ray]\nhealth_s = 0.5\n[gpu]\nleak_bytes_max = {LEAK_BYTES_MAX}\n"
        )
        self._command = [sys.executable, "-m", "serving.cli", "serve", "--config", str(config)]
        self._process: psutil.Popen | None = None
        self.ready_s = 0.0

    def start(self) -> None:
        """Run the command, unless it runs, and return when it is ready."""
        if self._process is not None:
            return
        began_s = time.monotonic()
        with self._log.open("ab") as log:
            self._process = psutil.Popen(self._command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
        while not self.is_ready():
            assert self._process.poll() is None, self.log
            assert time.monotonic() - began_s < START_S_MAX, self.log
            time.sleep(0.05)
        self.ready_s = time.monotonic() - began_s

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def launcher(self) -> psutil.Popen:
        assert self._process is not None
        return self._process

    def processes(self) -> list[psutil.Process]:
        """Return every process of the gateway and of its cluster."""
        return [self.launcher, *self.launcher.children(recursive=True)]

    def replicas(self) -> list[psutil.Process]:
        """Return the replicas that live."""
        return [each for each in self.processes() if _title(each).startswith(REPLICA)]

    def control(self) -> psutil.Process:
        """Return the control that lives."""
        [control] = [each for each in self.processes() if _title(each).startswith(CONTROL)]
        return control

    def turnout(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line against this gateway."""
        return turnout(*words, "--config", str(self.config))

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=10) as got:
                return bool(got.status == 200)
        except OSError:
            return False

    def replace_replicas(self, s_max: float = 60.0) -> None:
        """Ask for a rolling restart and return when it is done."""
        before = self.log.count("replicas replaced")
        self.launcher.send_signal(signal.SIGUSR2)
        until_s = time.monotonic() + s_max
        while self.log.count("replicas replaced") == before:
            assert time.monotonic() < until_s, self.log
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, list[psutil.Process]]:
        """End the command with a signal; return its exit code, and those of its processes that live on."""
        processes = self.processes()
        self.launcher.send_signal(number)
        code = self.launcher.wait(60)
        self._process = None
        _, alive = psutil.wait_procs(processes, timeout=10)
        return code, alive


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _twice() -> onnx.ModelProto:
    """Return the model y = 2 x, for rows of four numbers."""
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4]) for name in "xy"]
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], np.array([2.0], np.float32))
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"])], "twice", rows[:1], rows[1:], [two]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="session")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("ray"))
    yield served
    if served._process is not None and served._process.is_running():
        _, alive = served.stop()
        for each in alive:
            each.kill()


@pytest.fixture
def served(_served: Served) -> Served:
    """Return the gateway, ready; a test that ended it leaves its start to the next."""
    _served.start()
    return _served
