"""Is what real servers answer counted to the last request, shown, and told to the control?"""

from __future__ import annotations

import re
import signal
import urllib.request

import numpy as np

from router.table import Route, RoutingTable, Shadow, everything_to
from tests.models import constant, mlp, place, spinning
from tests.running import Running
from tests.stage import staged
from tests.talking import Client, eventually, in_json

DRIFT = {"enabled": True, "queue_bytes": 1 << 20}


def shown(running: Running, family: str, **labels: str) -> float:
    """Return what the metrics say of a family, added up."""
    with urllib.request.urlopen(f"http://{running.metrics}/metrics", timeout=10) as answer:
        lines = re.findall(rf"^{family}\{{(.*)\}} (\S+)$", answer.read().decode(), re.MULTILINE)
    wanted = {f'{name}="{value}"' for name, value in labels.items()}
    return sum(float(value) for said, value in lines if wanted <= set(said.split(",")))


def follow(running: Running, route: Route) -> None:
    async def now() -> None:
        running.gateway.traffic.follow(RoutingTable(2, {"m": route}), 1, {"m": 2})

    running.do(now())


def test_every_row_that_a_version_ran_is_counted_and_shown(tmp_path):
    for version in (7, 8):
        place(tmp_path / "models", "m", version, mlp(), "version_policy { all { } }")
    with Running(tmp_path / "models", tmp_path / "state", {"drift": DRIFT}) as running:
        follow(running, Route(everything_to("7").shares, (Shadow("8", 10_000),)))
        assert eventually(lambda: shown(running, "turnout_shadow_running") == 1, 100)
        rng = np.random.default_rng(1)
        sent = 0
        with Client(running) as client:
            for rows in range(1, 40):
                values = rng.standard_normal((rows % 5 + 1, 16)).astype(np.float32)
                assert client.ask(in_json("m", values)).status == 200
                sent += len(values)
                assert client.ask(in_json("m", values[:, :7])).status == 400
        for role, version in (("live", "7"), ("shadow", "8")):
            for tensor in ("x", "y"):
                labels = {"model": "m", "version": version, "role": role, "tensor": tensor}
                assert eventually(lambda of=labels: shown(running, "turnout_drift_rows_total", **of) == sent)
                assert shown(running, "turnout_drift_dropped_total", **labels) == 0
        assert running.gateway.watch._process.ready


def test_nothing_is_counted_of_what_failed(tmp_path):
    place(tmp_path / "models", "m", 1, spinning())
    settings = {"drift": DRIFT, "queue": {"timeout_s_max": 0.3}}
    with Running(tmp_path / "models", tmp_path / "state", settings) as running, Client(running) as client:
        assert client.ask(in_json("m", np.full((1, 4), 1e18, np.float32))).status == 504
    counts = running.gateway.watch.flows.counts()
    assert {each.rows for each in counts.values()} == {0}


def test_what_replicas_counted_to_their_last_request_is_told_to_the_control(tmp_path):
    place(tmp_path / "models", "m", 7, constant(7))
    with staged(tmp_path, tmp_path / "models", 2, drift=DRIFT) as stage:
        for value in range(60):
            stage.infer("m", [float(value)] * 4)
        for name in ("r0", "r1"):
            stage.replicas[name].send_signal(signal.SIGTERM)
            assert stage.replicas.pop(name).wait(60) == 0

        def told() -> set[tuple[str, int, int]]:
            status, report = stage.ask("GET", "/v2/models/m/drift")
            assert status == 200
            streams = report["versions"][0]["streams"]
            return {(each["tensor"], each["rows"], each["dropped"]) for each in streams}

        assert eventually(lambda: told() == {("x", 60, 0), ("y", 60, 0)}), told()
