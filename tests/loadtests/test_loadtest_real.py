"""A whole load test against real processes: a gateway that is well gets its yes, and broken ones a no."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest

from loadtests.bench.server import free_port
from loadtests.locusts.gateway import configuration, started
from serving import access
from tests.conftest import ROOT
from tests.talking import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MARK = "LOAD_TEST_OF"
"""In the environment of all that a load test starts."""
SOON = ("--warm", "0.3")


def loadtest(demo: Path, folder: Path, promises: str, *words: str) -> End:
    folder.mkdir(exist_ok=True)
    slo = folder / "slo.toml"
    slo.write_text(promises)
    where = ["--demo", str(demo), "--into", str(folder / "out"), "--slo", str(slo)]
    command = [sys.executable, "-m", "loadtests.loadtest", *where, *SOON, *words]
    marked = {**os.environ, MARK: str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=marked, capture_output=True, text=True, timeout=240)
    return folder / "out", done.returncode, done.stdout.splitlines(), done.stderr


def left_over(folder: Path) -> list[str]:
    """Return what still runs of what a load test started."""
    every = psutil.process_iter(["environ", "cmdline"])
    return [
        str(each.info["cmdline"]) for each in every if (each.info["environ"] or {}).get(MARK) == str(folder)
    ]


PROMISES = '[[promise]]\nstale = 0\nanswers_min = 100\n[[promise]]\nphase = "each"\nerror_rate = 0\n'
DISTURBED = '[[promise]]\nphase = "kill"\nerror_rate = 0.05\n'
NAMES = ["steady", "split", "shadow", "unshadow", "rollback", "load", "unload", "kill"]
ALL = "broken: all models, all phases: "
BROKEN = {
    "slow": ("p999_ms = 450", "p99.9 "),
    "failing": ("error_rate = 0.005", "error rate "),
    "silent": ("error_rate = 0.002", "error rate "),
    "stale": ("stale = 0", "stale answers "),
}
"""By defect: the promise that is meant for it, and alone here, because machines are slow at times; and its line."""
SOUND = "[[promise]]\nstale = 0\nerror_rate = 0.005\nanswers_min = 100\n"
ASKED = ("--users", "20", "--seconds", "1.5", "--step", "steady")
TRIALS_AT_ONCE = 3
End = tuple[Path, int, list[str], str]
"""Where the reports of a load test are, its exit code, its lines and what it complained of."""


@pytest.fixture(scope="module")
def standing(tmp_path_factory, demo_folder) -> Iterator[list[str]]:
    """Start a gateway for several load tests; return the words that name it."""
    folder = tmp_path_factory.mktemp("standing")
    with started(demo_folder / "models", folder) as gateway:
        config = configuration(demo_folder / "models", folder / "state")
        token = access.control_folder(config) / access.TOKEN
        yield ["--http", gateway.http, "--admin", gateway.admin._where, "--token-file", str(token)]


@pytest.fixture(scope="module")
def trials(standing, demo_folder, tmp_path_factory) -> Iterator[dict[str, Future[End]]]:
    """Begin all load tests that end by themselves, a few at a time; return their ends by their names.

    "well" starts its gateway; all others, by the defects of their proxies, ask the one that stands.
    """
    folder = tmp_path_factory.mktemp("trials")

    def behind(defect: str, *steps: str) -> End:
        promises = f"[[promise]]\n{BROKEN[defect][0]}\n" if defect in BROKEN else SOUND
        words = (*standing, *ASKED, *steps, "--defect", defect)
        return loadtest(demo_folder, folder / defect, promises, *words)

    def stale() -> End:
        none.result()  # Both change traffic.
        return behind("stale", "--step", "split", "--step", "rollback")

    with ThreadPoolExecutor(TRIALS_AT_ONCE) as pool:
        whole = ("--seconds", "0.4", "--users", "18")
        well = pool.submit(loadtest, demo_folder, folder / "well", PROMISES + DISTURBED, *whole)
        none = pool.submit(behind, "none", "--step", "split")
        steady = {defect: pool.submit(behind, defect) for defect in ("slow", "failing", "silent")}
        yield {"well": well, "none": none, **steady, "stale": pool.submit(stale)}


def test_a_gateway_that_is_well_gets_a_yes_in_all_phases_and_all_three_ways(trials):
    into, code, lines, complaints = trials["well"].result()
    assert code == 0, "\n".join(lines) + complaints
    assert lines[-1].startswith("load test: YES: ")
    assert not [line for line in lines if line.startswith("broken: ")]
    document = json.loads((into / "results.json").read_bytes())
    assert [each["name"] for each in document["phases"]] == NAMES
    assert [each["phase"] for each in document["changes"]] == NAMES
    assert {each["version"] for each in document["totals"] if each["phase"] == "split"} >= {"7", "8"}
    assert left_over(into.parent) == []


@pytest.mark.parametrize("defect", BROKEN)
def test_a_gateway_that_is_broken_gets_a_no_and_a_line_that_says_why(trials, defect):
    into, code, lines, complaints = trials[defect].result()
    assert code == 1, "\n".join(lines) + complaints
    *_, broken, verdict = lines
    assert broken.startswith(ALL + BROKEN[defect][1])
    assert verdict.startswith("load test: NO: 0 of 1 promises kept")
    assert ET.parse(into / "junit.xml").getroot().get("failures") == "1"


def test_a_proxy_that_does_nothing_takes_no_promise_from_a_gateway_that_is_well(trials):
    _, code, lines, complaints = trials["none"].result()
    assert code == 0, "\n".join(lines) + complaints


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
    command = [sys.executable, "-m", "loadtests.loadtest", "--ui", "--ui-port", str(port), *words, *SOON]
    marked = {**os.environ, MARK: str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=marked, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert eventually(lambda: asked(url)[0] == 200, 150)
            assert asked(f"{url}/turnout")[0] == 404
            assert asked(f"{url}/swarm", b"user_count=3&spawn_rate=3")[0] == 200
            assert eventually(lambda: asked(f"{url}/turnout")[0] == 200, 60)
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
    _, code, lines, complaints = loadtest(tmp_path, tmp_path, PROMISES)
    assert code == 2
    assert "load test: could not be run: " in complaints
    assert not [line for line in lines if line.startswith("load test: NO")]
