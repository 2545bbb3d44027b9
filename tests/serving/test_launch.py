"""The launcher, with a driver that only pretends to have Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from serving import access, launch
from serving.config import Config, ConfigError, parse
from serving.control import desk

PLACES = ("http", "grpc", "metrics", "admin")
SERVER = {**dict.fromkeys(PLACES, "127.0.0.1:0"), "drain_s_max": 0}
SAY = "import json, os, sys, time\nsay = lambda **k: os.write(int(sys.argv[2]), (json.dumps(k) + '\\n').encode())\n"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A gateway of its own, whose traffic nobody else moves."""
    return parse({"server": SERVER, "repository": {"path": str(tmp_path), "state": str(tmp_path / "state")}})


def _drive(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(launch, "DRIVER", SAY + code)


def _send_soon(number: int) -> threading.Timer:
    timer = threading.Timer(0.5, os.kill, (os.getpid(), number))
    timer.start()
    return timer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_announces_where_it_listens_and_ends_without_error_at_a_signal(monkeypatch, number, config):
    _drive(monkeypatch, "say(event='ready', text='')\ntime.sleep(60)")
    told: list[tuple[str, ...]] = []

    def announce(*places: str) -> None:
        told.append(places)
        assert [each.url for each in access.running()] == [f"http://{places[3]}"]
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    launch.run(config, announce)
    [places] = told
    assert all(each.startswith("127.0.0.1:") for each in places)
    assert len(set(places)) == 4
    assert "127.0.0.1:0" not in places
    assert access.running() == []
    assert signal.getsignal(number) is before


def test_the_drivers_mistake_is_the_users(monkeypatch, config):
    _drive(monkeypatch, "say(event='mistake', text='no such thing')")
    with pytest.raises(ConfigError, match="no such thing"):
        launch.run(config)


def test_a_driver_that_ends_by_itself_is_an_error(monkeypatch, config):
    _drive(monkeypatch, "sys.exit(3)")
    with pytest.raises(RuntimeError, match="code 3"):
        launch.run(config)


def test_a_driver_that_will_not_end_is_killed_with_all_that_it_started(monkeypatch, tmp_path, config):
    _drive(
        monkeypatch,
        "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "say(event='ready', text='')\ntime.sleep(60)",
    )
    monkeypatch.setattr(launch, "END_S_MAX", 0.3)
    launch.run(config, lambda *_places: os.kill(os.getpid(), signal.SIGTERM))
    pids = [int(each) for each in (tmp_path / "pids").read_text().split()]
    until_s = time.monotonic() + 5
    while alive := [each for each in pids if _lives(each)]:
        assert time.monotonic() < until_s, alive
        time.sleep(0.02)


def test_what_a_dead_driver_leaves_in_groups_of_their_own_is_gone_when_the_command_ends(
    monkeypatch, tmp_path, config
):
    """Ray's workers once lived on for two seconds with the sockets, and the next start was refused."""
    _drive(
        monkeypatch,
        "import subprocess; child = subprocess.Popen(['sleep', '60'], process_group=0)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "say(event='failed', text='a daemon has died'); os._exit(1)",
    )
    with pytest.raises(RuntimeError, match="a daemon has died"):
        launch.run(config)
    assert not _lives(int((tmp_path / "pid").read_text()))


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_request_to_restart_reaches_the_driver(monkeypatch, capsys, config):
    _drive(
        monkeypatch,
        "import signal; signal.signal(signal.SIGUSR2, lambda *_: say(event='replicas replaced'))\n"
        "say(event='ready', text='')\ntime.sleep(60)",
    )
    timer = _send_soon(signal.SIGTERM)
    launch.run(config, lambda *_places: os.kill(os.getpid(), signal.SIGUSR2))
    timer.join()
    assert "replicas replaced" in capsys.readouterr().out


def test_a_second_gateway_of_the_same_repository_is_told_of_the_first(monkeypatch, config):
    _drive(monkeypatch, "say(event='ready', text='')\ntime.sleep(60)")
    with desk.sole(config), pytest.raises(ConfigError, match=rf"another gateway \(process {os.getpid()}\)"):
        launch.run(config)


def test_nothing_of_a_run_is_left_in_the_temporary_folder(monkeypatch, tmp_path, config):
    _drive(monkeypatch, f"open({str(tmp_path / 'seen')!r}, 'w').write(sys.argv[1]); sys.exit(0)")
    with pytest.raises(RuntimeError, match="code 0"):
        launch.run(config)
    seen = Path((tmp_path / "seen").read_text())
    assert seen.name.startswith("turnout-")
    assert not seen.exists()


def test_a_cluster_of_our_own_has_a_token_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.7:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "everybody knows it")
    settings = launch.environment(Config(), tmp_path)
    token = Path(settings["RAY_AUTH_TOKEN_PATH"])
    assert len(token.read_text()) == 64
    assert token.stat().st_mode & 0o077 == 0
    assert settings["RAY_AUTH_MODE"] == "token"
    assert settings.keys().isdisjoint({"RAY_ADDRESS", "RAY_AUTH_TOKEN"})


def test_ray_without_authentication_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match="only `token` is allowed"):
        launch.environment(Config(), tmp_path)
