"""The launcher, with a driver that only pretends to have Ray."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    """Have signals do what they do in a terminal, also where whoever runs the tests ignores some of them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
    until_s = time.monotonic() + 60
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


def _count(tmp_path: Path) -> str:
    """Return code that counts how often the driver was started, in `count`, and writes its process down."""
    runs = str(tmp_path / "runs")
    return (
        f"open({runs!r}, 'a').write(f'{{os.getpid()}} {{sys.argv[1]}}\\n')\n"
        f"count = len(open({runs!r}).readlines())\n"
    )


def _runs(tmp_path: Path) -> list[tuple[int, Path]]:
    runs = tmp_path / "runs"
    lines = runs.read_text().splitlines(keepends=True) if runs.exists() else []
    whole = [each.split() for each in lines if each.endswith("\n")]
    return [(int(pid), Path(folder)) for pid, folder in whole]


def test_a_gateway_that_was_ready_and_loses_ray_starts_it_anew_while_connections_wait(
    monkeypatch, tmp_path, capsys, config
):
    """The first driver leaves a child behind, and the second answers what came in between."""
    _drive(
        monkeypatch,
        _count(tmp_path)
        + "import socket, subprocess; from pathlib import Path; from serving.sockets import fetch\n"
        "if count == 1:\n"
        f"    child = subprocess.Popen(['sleep', '60'], process_group=0); go = Path({str(tmp_path / 'go')!r})\n"
        f"    Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "    say(event='ready', text='')\n"
        "    while not go.exists(): time.sleep(0.01)\n"
        "    say(event='failed', text='a daemon has died'); os._exit(1)\n"
        "http = fetch(Path(sys.argv[1]), 'http'); http.setblocking(True)\n"
        "say(event='ready', text='')\n"
        "line, _ = http.accept(); line.sendall(b'here')\n"
        "time.sleep(60)",
    )
    told: list[tuple[str, ...]] = []
    lines: list[socket.socket] = []

    def announce(*places: str) -> None:
        told.append(places)
        assert [each.url for each in access.running()] == [f"http://{places[3]}"]
        host, port = places[0].split(":")
        if len(told) == 1:
            lines.append(socket.create_connection((host, int(port)), 30))
            (tmp_path / "go").touch()
        else:
            assert lines[0].recv(4) == b"here"
            assert not _lives(int((tmp_path / "child").read_text()))
            os.kill(os.getpid(), signal.SIGTERM)

    launch.run(config, announce)
    lines[0].close()
    assert told[0] == told[1] and len(told) == 2
    [(_, first), (_, second)] = _runs(tmp_path)
    assert first != second and not first.exists() and not second.exists()
    assert "turnout: a daemon has died; Ray is started anew" in capsys.readouterr().out


def test_a_gateway_that_does_not_get_ready_again_is_given_up(monkeypatch, tmp_path, config):
    _drive(
        monkeypatch,
        _count(tmp_path) + "if count in (1, 3): say(event='ready', text='')\nos._exit(count)",
    )
    monkeypatch.setattr(launch, "PAUSES_S", (0.0, 0.0, 0.01))
    with pytest.raises(RuntimeError, match="code 6"):
        launch.run(config)
    assert len(_runs(tmp_path)) == 6, "once that was not enough, and three times since it was ready"


def test_a_mistake_that_is_made_only_anew_is_the_last_word(monkeypatch, tmp_path, config):
    _drive(
        monkeypatch,
        _count(tmp_path)
        + "say(**(dict(event='ready') if count == 1 else dict(event='mistake', text='no GPU')))",
    )
    monkeypatch.setattr(launch, "PAUSES_S", (0.0,))
    with pytest.raises(ConfigError, match="no GPU"):
        launch.run(config)


def test_a_signal_in_the_pause_between_two_rays_ends_the_command_without_error(monkeypatch, tmp_path, config):
    _drive(monkeypatch, _count(tmp_path) + "say(event='ready', text='')")
    monkeypatch.setattr(launch, "PAUSES_S", (60.0,))

    def interrupt() -> None:
        while not _runs(tmp_path) or _runs(tmp_path)[0][1].exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    beside = threading.Thread(target=interrupt)
    beside.start()
    launch.run(config)
    beside.join()
    assert len(_runs(tmp_path)) == 1


def test_a_signal_while_a_dead_ray_is_tidied_up_leaves_nothing_of_it(monkeypatch, tmp_path, config):
    _drive(
        monkeypatch,
        _count(tmp_path) + "import subprocess; child = subprocess.Popen(['sleep', '60'], process_group=0)\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "say(event='ready', text=''); os._exit(1)",
    )
    tidy = launch.end

    def end(driver: Any, s_max: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        tidy(driver, s_max)

    monkeypatch.setattr(launch, "end", end)
    launch.run(config)
    [(pid, folder)] = _runs(tmp_path)
    assert not folder.exists() and not _lives(pid)
    assert not _lives(int((tmp_path / "child").read_text()))


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
