"""The gateway on Ray Serve, as its users and its enemies meet it."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from serving import access, config
from tests.e2e import talking_rpc

from .conftest import LEAK_BYTES_MAX, Served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

READY_S_MAX = 60.0
"""The goal is 15 s on two idle cores (`make bench`); here only that nothing waits without need."""
CLIENTS = 6
PAUSE_S = 0.002
"""Between the requests of one client: the machine also has to start a replica meanwhile."""
TOLD_S = 3.0
"""Within so many seconds what was counted is told and added up."""


@dataclass
class Failure:
    """A request that got no answer. `opened_s` is when its connection was begun."""

    what: str
    opened_s: float


@dataclass
class Load:
    """A few clients that ask until they are told to stop, half of them on a new connection each time."""

    port: int
    answered: int = 0
    slowest_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._client, args=(n, n % 2 == 0)) for n in range(CLIENTS)]
        for each in self._threads:
            each.start()
        time.sleep(0.3)
        return self

    def __exit__(self, *_error: object) -> None:
        time.sleep(0.3)
        self._over.set()
        for each in self._threads:
            each.join(40)
            assert not each.is_alive(), "a client got neither an answer nor an error"

    def _client(self, number: int, keep: bool) -> None:
        line: http.client.HTTPConnection | None = None
        opened_s = 0.0
        for round_ in range(100_000):
            if self._over.is_set():
                break
            began_s = time.monotonic()
            if line is None or _closed(line):
                opened_s = began_s
                line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                goes_on = _ask(line, [number, round_ % 1000, 1, 0.5])
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self._note(Failure(repr(error), opened_s), began_s)
                goes_on = False
            else:
                self._note(None, began_s)
            if not (keep and goes_on):
                line.close()
                line = None
            time.sleep(PAUSE_S)
        if line is not None:
            line.close()

    def _note(self, failure: Failure | None, began_s: float) -> None:
        with self._lock:
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            if failure is None:
                self.answered += 1
            else:
                self.failures.append(failure)


def _closed(line: http.client.HTTPConnection) -> bool:
    """Say whether the server has closed a connection on which nothing was asked, as client libraries do."""
    return line.sock is None or bool(select.select([line.sock], [], [], 0)[0])


def _ask(line: http.client.HTTPConnection, row: list[float]) -> bool:
    """Ask for twice a row and check the answer; return whether the connection goes on."""
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": row}]})
    line.request("POST", "/v2/models/twice/infer", body)
    answer = line.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    assert json.loads(text)["outputs"][0]["data"] == [2 * each for each in row]
    return not answer.will_close


def test_the_command_is_ready_with_its_models(served: Served) -> None:
    assert served.ready_s < READY_S_MAX
    assert len(served.replicas()) == 1
    _wait(lambda: f"turnout: ready, HTTP on 127.0.0.1:{served.http}," in served.log)


def test_an_unmodified_tritonclient_infers(served: Served) -> None:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{served.http}") as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("twice")["versions"] == ["1"]
        rows = np.arange(8, dtype=np.float32).reshape(2, 4)
        x = tritonclient.http.InferInput("x", [2, 4], "FP32")
        x.set_data_from_numpy(rows)
        answer = client.infer("twice", [x], request_id="of mine")
    np.testing.assert_array_equal(answer.as_numpy("y"), 2 * rows)
    assert answer.get_response()["id"] == "of mine"


def test_grpc_is_answered_by_a_replica_and_again_when_that_died(served: Served) -> None:
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        for _ in range(2):
            _wait(lambda: _doubles(client))
            [replica] = served.replicas()
            replica.kill()
            replica.wait(10)
        _wait(lambda: _doubles(client))


def test_a_grpc_stream_is_answered_on_ray(served: Served) -> None:
    told: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        client.start_stream(lambda result, error: told.put((result, error)))
        for number in range(20):
            x = np.full((1, 4), number, np.float32)
            client.async_stream_infer("twice", talking_rpc.given({"x": x}), request_id=str(number))
        for number in range(20):
            result, error = told.get(timeout=20)
            assert error is None and result.get_response().id == str(number)
            np.testing.assert_array_equal(result.as_numpy("y"), np.full((1, 4), 2 * number))
        client.stop_stream()


def _doubles(client: tritonclient.grpc.InferenceServerClient) -> bool:
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    try:
        result = talking_rpc.ask(client, "twice", {"x": x}, client_timeout=5)
    except InferenceServerException as error:
        assert error.status() == "StatusCode.UNAVAILABLE", error
        return False
    return np.array_equal(result.as_numpy("y"), 2 * x)


def test_metrics_are_told_on_their_own_port(served: Served) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{served.metrics}/metrics", timeout=10) as got:
        assert b"nv_inference_request_success" in got.read()


def test_everything_listens_on_loopback_alone(served: Served) -> None:
    listening = {
        (each.name(), connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for each in served.processes()
        for connection in each.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {served.http, served.metrics} <= {port for _, _, port in listening}
    assert "raylet" in {name for name, _, _ in listening}, "the daemons were looked at too"
    assert [each for each in listening if each[1] not in ("127.0.0.1", "::1")] == []


def test_ray_answers_only_those_who_know_the_token(served: Served) -> None:
    def alive(*metadata: tuple[str, str]) -> grpc.StatusCode:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            check = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
            try:
                check(b"", metadata=metadata, timeout=10)
            except grpc.RpcError as error:
                return error.code()
        return grpc.StatusCode.OK

    [gcs] = [each for each in served.processes() if each.name() == "gcs_server"]
    token = Path(gcs.environ()["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o077 == 0
    [port] = [each.laddr.port for each in gcs.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    assert alive() == grpc.StatusCode.UNAUTHENTICATED
    assert alive(("authorization", "Bearer " + "0" * 64)) == grpc.StatusCode.UNAUTHENTICATED
    assert alive(("authorization", f"Bearer {token.read_text()}")) == grpc.StatusCode.OK


def test_a_killed_replica_fails_only_what_it_was_answering(served: Served) -> None:
    [victim] = served.replicas()
    with Load(served.http) as load:
        victim.send_signal(signal.SIGKILL)
        victim.wait(10)
        killed_s = time.monotonic()
        before = load.answered
        _wait(lambda: load.answered > before + 50)
    assert load.answered > 100
    assert [each for each in load.failures if each.opened_s > killed_s] == []
    assert len(load.failures) <= CLIENTS
    assert load.slowest_s < 25
    [successor] = served.replicas()
    assert successor.pid != victim.pid


def test_a_rolling_restart_fails_no_request(served: Served) -> None:
    [old] = served.replicas()
    with Load(served.http) as load:
        began_s = time.monotonic()
        served.replace_replicas()
        took_s = time.monotonic() - began_s
        _wait(lambda: not old.is_running())
        before = load.answered
        _wait(lambda: load.answered > before + 50)
    assert load.failures == []
    assert load.answered > 100
    assert old.pid not in [each.pid for each in served.replicas()]
    # A new replica is warm before the old one drains: nobody waits while a process starts.
    assert load.slowest_s < took_s / 2


def test_counts_are_the_node_s_and_survive_a_rolling_restart(served: Served) -> None:
    before = _successes(served)
    with Load(served.http) as load:
        seen = [before]
        [old] = served.replicas()
        with ThreadPoolExecutor(1) as beside:
            replacing = beside.submit(served.replace_replicas)
            while not replacing.done() or old.is_running():
                seen.append(_successes(served))
                time.sleep(0.05)
            replacing.result()
        there = load.answered
        _wait(lambda: load.answered > there + 50)
    assert load.failures == []
    assert _successes(served) - before == load.answered
    assert seen == sorted(seen), "no scrape showed less than the one before it"
    assert old.pid not in [each.pid for each in served.replicas()]


def _successes(served: Served) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{served.metrics}/metrics", timeout=10) as got:
        text = got.read().decode()
    counts = re.findall(r"^nv_inference_request_success\{.*\} (.*)$", text, re.MULTILINE)
    return sum(int(float(count)) for count in counts)


def test_traffic_is_moved_through_serve_s_proxy_with_a_receipt(served: Served) -> None:
    done = served.turnout("pin", "twice", "1", "--why", "a test", "--json")
    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout)
    assert receipt["confirmed"] and len(receipt["acknowledged"]) == 1
    assert _route(served) == f"1;{receipt['revision']};pinned"
    assert served.turnout("unpin", "twice").returncode == 0
    assert _route(served).endswith(";static")
    assert served.turnout("audit", "verify").returncode == 0
    without_token = urllib.request.Request(f"http://127.0.0.1:{served.admin}/v2/traffic")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(without_token, timeout=10)


def _route(served: Served) -> str:
    line = http.client.HTTPConnection("127.0.0.1", served.http, timeout=30)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    line.request("POST", "/v2/models/twice/infer", json.dumps(body))
    answer = line.getresponse()
    assert answer.status == 200, answer.read()
    route = answer.headers["turnout-route"]
    line.close()
    return str(route)


def test_a_model_is_unloaded_and_loaded_on_ray(served: Served) -> None:
    done = served.turnout("unload", "twice", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["done"]) == 1
    with pytest.raises(AssertionError, match="'twice.' is unloaded"):
        _route(served)
    assert served.turnout("load", "twice").returncode == 0
    assert _route(served).endswith(";static")


@contextlib.contextmanager
def _held_back(port: int, count: int, size: int) -> Iterator[None]:
    """Make the gateway hold so many bodies that are not complete: memory that looks as if it had leaked."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            line = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            head = f"POST /v2/models/twice/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {size + 1}\r\n\r\n"
            line.sendall(head.encode() + bytes(size))
        yield


def _reload(served: Served) -> None:
    token = access.token(access.control_folder(config.load(served.config)))
    for verb in ("unload", "load"):
        at = f"http://127.0.0.1:{served.http}/v2/repository/models/twice/{verb}"
        headers = {"Authorization": f"Bearer {token}"}
        with urllib.request.urlopen(urllib.request.Request(at, b"", headers), timeout=60) as got:
            assert got.status == 200


def test_a_replica_that_does_not_get_its_memory_back_is_replaced_and_no_request_fails(served: Served) -> None:
    [old] = served.replicas()
    _reload(served)  # Now it is known what a replica is without its versions.
    with _held_back(served.http, 3, LEAK_BYTES_MAX // 2):
        _reload(served)
    with Load(served.http) as load:
        _wait(lambda: not old.is_running())
        before = load.answered
        _wait(lambda: load.answered > before + 50)
    assert load.failures == []
    [new] = served.replicas()
    assert new.pid != old.pid


def test_the_control_logs_what_a_replica_was_told_to_log(served: Served) -> None:
    out = Path(f"/proc/{served.control().pid}/fd/2").resolve()

    def logged(loud: bool) -> bool:
        _change_logging(served, loud)
        before = out.stat().st_size
        assert served.turnout("load", "twice").returncode == 0
        return b"event=ordered verb=load model=twice" in out.read_bytes()[before:]

    _wait(lambda: logged(True))
    _wait(lambda: not logged(False))


def _change_logging(served: Served, loud: bool) -> None:
    token = access.token(access.control_folder(config.load(served.config)))
    headers = {"authorization": f"Bearer {token}"}
    asked = urllib.request.Request(
        f"http://127.0.0.1:{served.http}/v2/logging", json.dumps({"log_info": loud}).encode(), headers
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert answer.status == 200


def test_a_killed_control_costs_no_request_and_its_successor_knows_everything(served: Served) -> None:
    [replica] = served.replicas()
    before = json.loads(served.turnout("status", "--json").stdout)
    with Load(served.http) as load:
        control = served.control()
        control.send_signal(signal.SIGKILL)
        control.wait(10)
        there = load.answered
        _wait(lambda: served.turnout("pin", "twice", "1", "--why", "after").returncode == 0, 60)
        assert load.answered > there
    assert load.failures == []
    after = json.loads(served.turnout("status", "--json").stdout)
    assert after["revision"] == before["revision"] + 1
    assert after["term"] > before["term"]
    assert [each.pid for each in served.replicas()] == [replica.pid]
    assert served.turnout("unpin", "twice").returncode == 0


def test_drift_is_counted_on_ray_and_a_killed_control_counts_nothing_twice(served: Served) -> None:
    time.sleep(TOLD_S)  # What tests before this one asked.
    before = _counted(served)
    for _ in range(20):
        _route(served)
    _wait(lambda: _counted(served) == before + 20)
    control = served.control()
    control.send_signal(signal.SIGKILL)
    control.wait(10)
    _route(served)
    _wait(lambda: _counted(served) == before + 21, 60)


def _counted(served: Served) -> int:
    """Return how many rows of inputs are counted; -1 while nobody answers."""
    done = served.turnout("drift", "twice", "--json")
    if done.returncode:
        return -1
    streams = [each for version in json.loads(done.stdout)["versions"] for each in version["streams"]]
    return sum(each["rows"] for each in streams if each["of"] == "input")


def test_a_rollout_goes_through_on_ray_though_the_control_is_killed_in_the_middle(
    served: Served, tmp_path: Path
) -> None:
    shutil.copytree(served.models / "twice" / "1", served.models / "twice" / "2")
    document = tmp_path / "rollout.yaml"
    document.write_text(
        "apiVersion: turnout/v1\nkind: Rollout\nmetadata: {name: twice-2}\n"
        "spec:\n  model: twice\n  candidate: 2\n  watch: 0s\n"
        "  strategy: {canary: {steps: [{setWeight: 50%}, {analysis: {within: 5m}}, promote]}}\n"
        "  metrics: [{metric: request-failure, acceptable: 20%}]\n"
    )
    started = served.turnout("rollout", "start", str(document))
    assert started.returncode == 0, started.stderr
    _wait(lambda: ";split" in _route(served), 60)
    control = served.control()
    control.send_signal(signal.SIGKILL)
    control.wait(10)

    def promoted() -> bool:
        for _ in range(20):
            _route(served)
        return _route(served).startswith("2;") and _route(served).endswith(";static")

    _wait(promoted, 90)
    audit = served.turnout("audit", "recompute")
    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_when_ray_dies_the_command_starts_it_anew_and_nobody_is_refused_meanwhile(served: Served) -> None:
    before = served.processes()[1:]
    [daemon] = [each for each in served.processes() if each.name() == "gcs_server"]
    revision = json.loads(served.turnout("status", "--json").stdout)["revision"]
    ready = served.log.count("turnout: ready")
    daemon.kill()
    with Load(served.http) as load:
        _wait(lambda: served.log.count("turnout: ready") > ready, 120)
        there = load.answered
        _wait(lambda: load.answered > there + 50)
    assert [each for each in load.failures if "ConnectionRefused" in each.what] == []
    assert len(load.failures) <= CLIENTS, "what the old replicas were answering when they were ended"
    assert load.slowest_s < 25
    _wait(lambda: len(served.replicas()) == 1 and served.turnout("status").returncode == 0)
    assert psutil.wait_procs(before, timeout=10)[1] == []
    assert json.loads(served.turnout("status", "--json").stdout)["revision"] == revision
    assert served.turnout("pin", "twice", "1", "--why", "anew").returncode == 0


def test_a_second_gateway_on_the_same_port_says_so_at_once(served: Served) -> None:
    began_s = time.monotonic()
    said = _serve(served, [])
    assert said.returncode == 2
    assert f"cannot listen at 127.0.0.1:{served.http}: another program listens there" in said.stderr
    assert time.monotonic() - began_s < 60


def test_a_gateway_without_authentication_is_refused(served: Served) -> None:
    said = _serve(served, ["--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0"], RAY_AUTH_MODE="disabled")
    assert said.returncode == 2
    assert "RAY_AUTH_MODE=disabled" in said.stderr


def _serve(served: Served, more: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.cli", "serve", "--repository", str(served.models)]
    command += more or ["--http", f"127.0.0.1:{served.http}"]
    return subprocess.run(
        command,
        env={**served.launcher.environ(), **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_end_answers_what_is_in_flight_refuses_what_comes_and_leaves_nothing(served: Served) -> None:
    folder = Path(served.replicas()[0].environ()["RAY_AUTH_TOKEN_PATH"]).parent
    with Load(served.http) as load:
        stopped_s = time.monotonic()
        code, alive = served.stop()
    assert (code, alive) == (0, [])
    assert load.answered > 100
    assert [each for each in load.failures if each.opened_s < stopped_s] == []
    assert any("ConnectionRefused" in each.what for each in load.failures)
    assert not folder.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.http), timeout=5)


def _wait(true: object, s_max: float = 30.0) -> None:
    assert callable(true)
    until_s = time.monotonic() + s_max
    while not true():
        assert time.monotonic() < until_s, "it did not happen"
        time.sleep(0.02)
