"""Drift, as people meet it: the command, the demo's models, a profile of a file, and digits that change."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from tests.commanding import turnout
from tests.drifting import CHANGES, Change, held_out, plain, stream
from tests.talking import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
READY_S_MAX = 60.0
FOUND_ROWS_MAX = 2_000
"""The simulation finds each change within 256 images of the input, and 768 of the answers."""
CALM_ROWS = 4_000
COUNTED_S_MAX = 90
"""What arrives sooner after a profile changes may belong to the streams before, on a busy machine."""


class Command:
    """`turnout serve --local` on the demo's models, with a profile of digits@8."""

    def __init__(self, folder: Path, demo: Path) -> None:
        self.http, self.metrics, admin, grpc = (_free_port() for _ in range(4))
        self.config = folder / "turnout.toml"
        self.config.write_text(
            f'[server]\nhttp = "127.0.0.1:{self.http}"\nmetrics = "127.0.0.1:{self.metrics}"\n'
            f'admin = "127.0.0.1:{admin}"\ngrpc = "127.0.0.1:{grpc}"\n'
            f'[repository]\npath = "{demo / "models"}"\nstate = "{folder / "state"}"\n'
        )
        self.log = folder / "log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "serving.cli", "serve", "--local", "--config", str(self.config)]
            self.process = psutil.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        assert eventually(self.is_ready, READY_S_MAX), self.log.read_text()
        # The control answers a moment later than the listener.
        assert eventually(lambda: self.turnout("drift", "digits").returncode in (0, 1), READY_S_MAX)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=5) as got:
                return bool(got.status == 200)
        except OSError:
            return False

    def turnout(self, *words: str) -> subprocess.CompletedProcess[str]:
        return turnout(*words, "--config", str(self.config))

    def drift(self) -> tuple[int, dict[str, Any]]:
        """Return the exit code and the report."""
        said = self.turnout("drift", "digits", "--json")
        assert said.returncode in (0, 1), said.stderr
        return said.returncode, json.loads(said.stdout)

    def counts_anew(self) -> bool:
        """Say whether the gateway counts for a profile that was put, and has told so."""
        [of] = [each for each in self.drift()[1]["versions"] if each["version"] == "8"]
        live = [each for each in of["streams"] if each["role"] == "live"]
        return bool(live) and all(each["view"] and each["rows"] == 0 for each in live)

    def send(self, change: Change, rows: int, seed: int, demo: Path) -> None:
        """Send changed digits that nobody learned from, in batches of 50, and check that each is answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=10)
        for images in stream(held_out(demo), change, rows, 50, seed):
            connection.request("POST", "/v2/models/digits/infer", *_binary(images))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
        connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5) as got:
            lines = got.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = [
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if re.match(rf"{name}[{{ ]", line) and all(each in line for each in wanted)
        ]
        return sum(found)

    def restarts(self) -> float:
        """Return how often the process that counts was started anew after it was killed."""
        return self.metric("turnout_drift_restarts_total", reason="crashed")

    def counting(self) -> psutil.Process:
        """Return the process that counts."""
        children = self.process.children()
        [counting] = [each for each in children if "serving.drift" in " ".join(each.cmdline())]
        return counting

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _binary(images: NDArray[np.float32]) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "image", "datatype": "FP32", "shape": list(images.shape)}
    tensor["parameters"] = {"binary_data_size": images.nbytes}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + images.tobytes(), {"inference-header-content-length": str(len(head))}


def rows_of(report: dict[str, Any], tensor: str, version: str = "8") -> int:
    """Return how many rows of a live tensor were counted."""
    [of] = [each for each in report["versions"] if each["version"] == version]
    return sum(each["rows"] for each in of["streams"] if (each["tensor"], each["role"]) == (tensor, "live"))


def verdicts(report: dict[str, Any], version: str = "8") -> dict[str, str]:
    """Return the verdict of each tensor of a version."""
    [of] = [each for each in report["versions"] if each["version"] == version]
    return {each["tensor"]: each["verdict"] for each in of["streams"]}


@pytest.fixture(scope="module")
def _command(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Iterator[Command]:
    command = Command(tmp_path_factory.mktemp("drift"), demo_folder)
    yield command
    with suppress(psutil.NoSuchProcess):
        command.end()


@pytest.fixture
def command(_command: Command, demo_folder: Path) -> Command:
    """Return the gateway with a profile of digits@8 for which nothing was counted yet."""
    if not _command.process.is_running():
        _command.start()
    assert _command.turnout("profile", "digits@8", "--drop").returncode == 0
    made = _command.turnout("profile", "digits@8", "--from", str(demo_folder / "rows" / "digits.npz"))
    assert made.returncode == 0, made.stderr
    assert eventually(_command.counts_anew, COUNTED_S_MAX), _command.turnout("drift", "digits").stdout
    return _command


@pytest.mark.parametrize("name", CHANGES)
def test_changed_digits_are_flagged_and_the_unchanged_before_them_are_not(
    command: Command, demo_folder: Path, name: str
) -> None:
    known = len(command.drift()[1]["events"])
    command.send(plain, CALM_ROWS, 1, demo_folder)
    assert eventually(lambda: rows_of(command.drift()[1], "image") == CALM_ROWS, COUNTED_S_MAX)
    code, report = command.drift()
    assert (code, set(verdicts(report).values()), len(report["events"])) == (0, {"no drift"}, known)
    assert command.metric("turnout_drift_detected") == 0

    command.send(CHANGES[name], FOUND_ROWS_MAX, 2, demo_folder)
    assert eventually(lambda: command.drift()[0] == 1, COUNTED_S_MAX), command.turnout(
        "drift", "digits"
    ).stdout
    assert eventually(lambda: verdicts(command.drift()[1])["image"] == "drift", COUNTED_S_MAX)
    assert eventually(lambda: command.metric("turnout_drift_detected", tensor="image") == 1, COUNTED_S_MAX)
    report = command.drift()[1]
    news = report["events"][: len(report["events"]) - known]
    detected = [each for each in news if each["tensor"] == "image"]
    assert [each["event"] for each in detected] == ["detected"]
    assert detected[0]["psi"] >= report["settings"]["psi_min"]
    assert "image" in command.turnout("drift", "digits").stdout


def test_every_row_is_counted_although_the_process_that_counts_is_killed_again_and_again(
    command: Command, demo_folder: Path
) -> None:
    tensors = [
        {"model": "digits", "version": "8", "tensor": name} for name in ("image", "label", "probabilities")
    ]
    before = [command.metric("turnout_drift_rows_total", **each) for each in tensors]
    dropped, deaths = command.metric("turnout_drift_dropped_total"), command.restarts()
    for times in range(3):
        command.send(plain, 1_000, times, demo_folder)
        command.counting().kill()
        assert eventually(lambda times=times: command.restarts() == deaths + times + 1, COUNTED_S_MAX)
        assert eventually(lambda: command.metric("turnout_drift_running") == 1, COUNTED_S_MAX)
    command.send(plain, 1_000, 9, demo_folder)
    for counted, each in zip(before, tensors, strict=True):
        total = counted + 4_000
        assert eventually(
            lambda each=each, total=total: command.metric("turnout_drift_rows_total", **each) == total,
            COUNTED_S_MAX,
        )
    assert command.metric("turnout_drift_dropped_total") == dropped


def test_what_was_counted_and_judged_is_there_after_a_restart(command: Command, demo_folder: Path) -> None:
    command.send(CHANGES["noisy"], FOUND_ROWS_MAX, 3, demo_folder)
    assert eventually(lambda: command.drift()[0] == 1, COUNTED_S_MAX)
    assert eventually(lambda: rows_of(command.drift()[1], "image") == FOUND_ROWS_MAX, COUNTED_S_MAX)
    before = command.drift()[1]["events"]
    command.end()
    command.start()
    assert eventually(lambda: command.drift()[0] == 1, COUNTED_S_MAX)
    report = command.drift()[1]
    assert report["events"] == before
    assert rows_of(report, "image") == FOUND_ROWS_MAX
    command.send(plain, 500, 4, demo_folder)
    assert eventually(lambda: rows_of(command.drift()[1], "image") == FOUND_ROWS_MAX + 500, COUNTED_S_MAX)


def test_a_killed_gateway_loses_at_most_what_it_had_not_written_down(
    command: Command, demo_folder: Path
) -> None:
    command.send(plain, 1_000, 5, demo_folder)
    assert eventually(lambda: rows_of(command.drift()[1], "image") == 1_000, COUNTED_S_MAX)
    children = command.process.children(recursive=True)
    command.end(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, "the process that counts outlives its gateway"
    command.start()
    assert command.drift()[0] == 0
    command.send(plain, 500, 6, demo_folder)
    assert eventually(lambda: rows_of(command.drift()[1], "image") >= 500, COUNTED_S_MAX)


def test_a_stopped_counter_delays_no_answer_and_what_does_not_fit_is_told(
    command: Command, demo_folder: Path
) -> None:
    image = {"tensor": "image", "version": "8"}
    before = [command.metric(f"turnout_drift_{name}_total", **image) for name in ("rows", "dropped")]
    counting = command.counting()
    counting.suspend()
    try:
        command.send(plain, 60_000, 7, demo_folder)  # 256 bytes each, where 8 MiB have room.
        assert command.metric("turnout_drift_dropped_total", **image, reason="full") > before[1]
    finally:
        counting.resume()

    def all_told() -> bool:
        now = [command.metric(f"turnout_drift_{name}_total", **image) for name in ("rows", "dropped")]
        return sum(now) - sum(before) == 60_000

    assert eventually(all_told, COUNTED_S_MAX)


def test_a_profile_is_frozen_from_the_next_requests(command: Command, demo_folder: Path) -> None:
    assert command.turnout("profile", "digits@8", "--drop").returncode == 0
    assert command.turnout("profile", "digits@8", "--freeze", "2000").returncode == 0
    command.send(plain, 3_000, 8, demo_folder)
    assert eventually(
        lambda: "of 2,000 rows from" in command.turnout("profile", "digits@8").stdout, COUNTED_S_MAX
    ), command.turnout("profile", "digits@8").stdout
    # What the process still counts for the stream before is none of the new one's.
    assert eventually(lambda: verdicts(command.drift()[1])["image"] == "no rows", COUNTED_S_MAX)
    command.send(plain, 500, 8, demo_folder)
    assert eventually(lambda: rows_of(command.drift()[1], "image") >= 400, COUNTED_S_MAX)
    command.send(CHANGES["rotated"], FOUND_ROWS_MAX, 9, demo_folder)
    assert eventually(lambda: verdicts(command.drift()[1])["image"] == "drift", COUNTED_S_MAX)
