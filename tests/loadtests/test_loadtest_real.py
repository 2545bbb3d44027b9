"""A whole load test against real processes: a gateway that is well gets its yes, and broken ones a no."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest

from loadtests.bench.server import free_port
from tests.conftest import ROOT
from tests.talking import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PROMISES = "[[promise]]\nstale = 0\nerror_rate = 0.005\nanswers_min = 100\n"
DISTURBED = '[[promise]]\nphase = "kill"\nerror_rate = 0.05\n'


MARK = "LOAD_TEST_OF"
"""In the environment of all that a load test starts."""


def loadtest(demo: Path, folder: Path, promises: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "slo.toml").write_text(promises)
    where = ["--demo", str(demo), "--into", str(folder / "out"), "--slo", str(folder / "slo.toml")]
    command = [sys.executable, "-m", "loadtests.loadtest", *where, *words]
    marked = {**os.environ, MARK: str(folder)}
    return subprocess.run(command, cwd=ROOT, env=marked, capture_output=True, text=True, timeout=110)


def left_over(folder: Path) -> list[str]:
    """Return what still runs of what a load test started."""
    every = psutil.process_iter(["environ", "cmdline"])
    return [
        str(each.info["cmdline"]) for each in every if (each.info["environ"] or {}).get(MARK) == str(folder)
    ]


def test_a_gateway_that_is_well_gets_a_yes_in_all_phases_and_all_three_ways(demo_folder, tmp_path):
    promises = '[[promise]]\nstale = 0\nanswers_min = 100\n[[promise]]\nphase = "each"\nerror_rate = 0\n'
    done = loadtest(demo_folder, tmp_path, promises + DISTURBED, "--seconds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("load test: YES: ")
    assert not [line for line in lines if line.startswith("broken: ")]
    document = json.loads((tmp_path / "out" / "results.json").read_bytes())
    names = ["steady", "split", "shadow", "unshadow", "rollback", "load", "unload", "kill"]
    assert [each["name"] for each in document["phases"]] == names
    assert [each["phase"] for each in document["changes"]] == names
    assert {each["version"] for each in document["totals"] if each["phase"] == "split"} >= {"7", "8"}
    assert left_over(tmp_path) == []


ALL = "broken: all models, all phases: "
BROKEN = {
    "slow": ("p999_ms = 450", "p99.9 "),
    "failing": ("error_rate = 0.005", "error rate "),
    "silent": ("error_rate = 0.002", "error rate "),
    "stale": ("stale = 0", "stale answers "),
}
"""By defect: the promise that is meant for it, and alone here, because machines are slow at times; and its line."""


@pytest.mark.parametrize("defect", BROKEN)
def test_a_gateway_that_is_broken_gets_a_no_and_a_line_that_says_why(demo_folder, tmp_path, defect):
    promise, line = BROKEN[defect]
    words = ["--seconds", "2", "--step", "steady", "--step", "split", "--step", "rollback"]
    done = loadtest(demo_folder, tmp_path, f"[[promise]]\n{promise}\n", *words, "--defect", defect)
    assert done.returncode == 1, done.stdout + done.stderr
    *_, broken, verdict = done.stdout.splitlines()
    assert broken.startswith(ALL + line)
    assert verdict.startswith("load test: NO: 0 of 1 promises kept")
    suite = ET.parse(tmp_path / "out" / "junit.xml").getroot()
    assert suite.get("failures") == "1"


def test_a_proxy_that_does_nothing_takes_no_promise_from_a_gateway_that_is_well(demo_folder, tmp_path):
    words = ["--seconds", "1", "--step", "steady", "--step", "split", "--defect", "none"]
    done = loadtest(demo_folder, tmp_path, PROMISES, *words)
    assert done.returncode == 0, done.stdout + done.stderr


def asked(url: str, form: bytes | None = None) -> tuple[int, str]:
    """Return the status and the text of a page, 0 if nobody answers."""
    try:
        with urllib.request.urlopen(url, form, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def test_the_scenario_is_played_from_the_web_interface_and_its_report_is_there_afterwards(
    demo_folder, tmp_path
):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = ["--demo", str(demo_folder), "--into", str(tmp_path), "--seconds", "0.5", "--step", "steady"]
    command = [sys.executable, "-m", "loadtests.loadtest", "--ui", "--ui-port", str(port), *words]
    marked = {**os.environ, MARK: str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=marked, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert eventually(lambda: asked(url)[0] == 200, 60)
            assert asked(f"{url}/turnout")[0] == 404
            assert asked(f"{url}/swarm", b"user_count=3&spawn_rate=3")[0] == 200
            assert eventually(lambda: asked(f"{url}/turnout")[0] == 200, 30)
            assert "<svg" in asked(f"{url}/turnout")[1]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stdout is not None
        assert process.stdout.read().splitlines()[-1].startswith("load test: NO: ")
    assert left_over(tmp_path) == []


def test_locusts_own_command_line_finds_the_three_users():
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert set((done.stdout + done.stderr).split()) >= {"HttpJsonUser", "HttpBinaryUser", "GrpcUser"}


def test_a_gateway_that_does_not_start_is_no_verdict(tmp_path):
    (tmp_path / "rows").mkdir()
    done = loadtest(tmp_path, tmp_path, PROMISES)
    assert done.returncode == 2
    assert "load test: could not be run: " in done.stderr
    assert "load test: NO" not in done.stdout
