"""Who answers the signals and keeps the sockets while Ray comes and goes?

The launcher is the process that the user started: it listens, holds the sockets, and passes signals
on. Ray runs below a driver in a session of its own, because a signal to the whole process group
(`timeout`, a closed terminal) would end Ray's daemons before the replicas can drain.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

from serving import access
from serving.config import Config, ConfigError
from serving.rpc.engine import bind
from serving.sockets import Holder, bound_at, listen, private_folder

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
END_S_MAX = 30.0
"""What Ray may take to end beyond the time that requests in flight are given; then it is killed."""
KILLED_S_MAX = 5.0
"""How long what was killed may take to be gone, with the sockets that it held."""
DRIVER = "from serving.deploy import drive; drive()"

Announce = Callable[[str, str, str, str], None]


def say_ready(http: str, grpc: str, metrics: str, admin: str) -> None:
    """Print where HTTP, gRPC, metrics and the admin application are to be found."""
    print(
        f"turnout: ready on Ray at http://{http}, gRPC at {grpc or 'no port'}, "
        f"metrics at http://{metrics}/metrics, admin at http://{admin}",
        flush=True,
    )


def run(config: Config, announce: Announce = say_ready) -> None:
    """Serve on Ray until SIGINT, SIGTERM or SIGHUP; SIGUSR2 replaces the replicas one by one.

    Parameters
    ----------
    announce : callable, optional
        Told once where HTTP, gRPC, metrics and admin are to be found, when every replica is ready.

    Raises
    ------
    ConfigError
        If the configuration cannot be had on this machine: a port in use, a GPU that is not there.
    RuntimeError
        If Ray or the replicas cannot start, or Ray ended by itself.
    """
    from serving.control.desk import sole

    config = _absolute(config)
    config = with_admin_port(config)
    with _sockets(config) as (holder, at), sole(config), contextlib.ExitStack() as stack:
        folder, control = holder.path.parent, access.control_folder(config)
        url = f"http://{config.server.admin}"

        def ready() -> None:
            access.announce(control, url, str(config.repository.path))
            stack.callback(access.withdraw, control, url)
            announce(at["http"], at.get("grpc", ""), at["metrics"], config.server.admin)

        with _driver(config, folder) as (driver, news), _signals(driver):
            try:
                for line in news:
                    _tell(json.loads(line), ready)
            except KeyboardInterrupt:
                holder.close()  # What nobody will answer is better refused now.
                return
            raise RuntimeError(f"Ray's driver ended by itself, with code {driver.wait(END_S_MAX)}")


def with_admin_port(config: Config) -> Config:
    """Return `config` with a free port for the admin application where it leaves the choice.

    Serve's proxy binds it itself, later, so a port that is in use is said here.
    """
    with listen(config.server.admin) as probe:
        server = config.server.model_copy(update={"admin": bound_at(probe)})
    return config.model_copy(update={"server": server})


def _tell(said: dict[str, str], ready: Callable[[], None]) -> None:
    match said:
        case {"event": "ready"}:
            ready()
        case {"event": "mistake", "text": text}:
            raise ConfigError(text)
        case {"event": "failed", "text": text}:
            raise RuntimeError(text)
        case {"event": event, **rest}:
            print(f"turnout: {event}", *rest.values(), flush=True)


@contextlib.contextmanager
def _sockets(config: Config) -> Iterator[tuple[Holder, dict[str, str]]]:
    """Listen, before anything slow is begun, and hold the sockets in a folder of their own."""
    with contextlib.ExitStack() as stack:
        sockets = {}
        for name, at in (("http", config.server.http), ("metrics", config.server.metrics)):
            sockets[name] = stack.enter_context(listen(at))
        rpc = bind(config)
        if rpc is not None:
            sockets["grpc"] = stack.enter_context(rpc)
        folder = private_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        holder = stack.enter_context(contextlib.closing(Holder(folder, sockets, "launcher")))
        yield holder, {name: bound_at(each) for name, each in sockets.items()}


@contextlib.contextmanager
def _driver(config: Config, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], IO[str]]]:
    """Start the driver; what it has to say comes as lines of JSON, and their end is its end."""
    (folder / "config.json").write_text(config.model_dump_json())
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as news:
        command = [sys.executable, "-c", DRIVER, str(folder), str(writing)]
        driver = subprocess.Popen(
            command,
            env=environment(config, folder),
            stdin=subprocess.DEVNULL,
            pass_fds=[writing],
            start_new_session=True,
        )
        os.close(writing)
        try:
            yield driver, news
        finally:
            _end(driver, config.server.drain_s_max + END_S_MAX)


def _absolute(config: Config) -> Config:
    """Return `config` with paths that mean the same wherever Ray starts a process."""
    repository, server = config.repository, config.server
    paths = {"path": repository.path.absolute(), "state": repository.state.absolute()}
    tls = {"tls_certificate": server.tls_certificate, "tls_key": server.tls_key}
    tls_paths = {name: path and path.absolute() for name, path in tls.items()}
    sections = {
        "repository": repository.model_copy(update=paths),
        "server": server.model_copy(update=tls_paths),
    }
    return config.model_copy(update=sections)


def _end(driver: subprocess.Popen[bytes], s_max: float) -> None:
    """Ask the driver to drain and end, kill it when that takes too long, and all that it leaves."""
    if driver.poll() is None:
        driver.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        driver.wait(s_max)
    # It leads its session. Stopped halfway, Ray forgets some processes, each of which has a group of its own:
    # replicas that would go on to hold the sockets, so that nobody could start the gateway again.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    until_s = time.monotonic() + KILLED_S_MAX
    while (left := session(driver.pid)) and time.monotonic() < until_s:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def session(leader: int) -> list[int]:
    """Return the processes of a session that have not ended; none where there is no ``/proc``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (comm) state ppid pgrp session: proc_pid_stat(5); a name may have blanks and brackets.
            state, _, _, sid, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(sid) == leader and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


@contextlib.contextmanager
def _signals(driver: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let the first signal to end interrupt whatever is done, and no second one the cleaning up."""

    def end(_number: int, _frame: FrameType | None) -> None:
        for each in ENDINGS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    def replace(_number: int, _frame: FrameType | None) -> None:
        driver.send_signal(signal.SIGUSR2)

    before = {each: signal.getsignal(each) for each in (*ENDINGS, signal.SIGUSR2)}
    signal.signal(signal.SIGUSR2, replace)
    for each in ENDINGS:
        if before[each] is not signal.SIG_IGN:  # As nohup leaves SIGHUP.
            signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def environment(config: Config, folder: Path) -> dict[str, str]:
    """Return the environment of the driver, which Ray's daemons and the replicas inherit from it.

    Raises
    ------
    ConfigError
        If this process's environment turns Ray's authentication off.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        raise ConfigError(f"RAY_AUTH_MODE={mode}: whoever reaches Ray may run code; only `token` is allowed")
    settings = {
        **os.environ,
        **replica_environment(),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's workers begin at 15, behind all else on the machine; loading could not yield to serving.
        "RAY_worker_niceness": "0",
        # Serve looks every 10 s, three times, whether the proxy before the admin application has died.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    }
    if config.ray.address == "auto":
        return settings
    # A token of this run, and no other: the one that Ray makes, ~/.ray/auth_token, all may read.
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    settings["RAY_AUTH_TOKEN_PATH"] = str(token)
    for name in ("RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        settings.pop(name, None)
    # Clusters of several machines are off: then all of Ray binds 127.0.0.1.
    settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    settings["RAY_enable_metrics_collection"] = "0"
    return settings


def replica_environment() -> dict[str, str]:
    """Return what a replica's process must find in its environment: this code, and patience in malloc."""
    from serving.cli import MALLOC_THRESHOLDS

    here = str(Path(__file__).parents[1])
    before = os.environ.get("PYTHONPATH")
    return {**MALLOC_THRESHOLDS, "PYTHONPATH": f"{here}{os.pathsep}{before}" if before else here}


def outlive_nobody() -> None:
    """Have the kernel end this process with SIGTERM when its parent dies, however it dies."""
    import ctypes

    pr_set_pdeathsig = 1
    libc: Any = ctypes.CDLL(None)
    parent = os.getppid()
    if libc.prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0) != 0 or os.getppid() != parent:
        raise OSError("the launcher has ended already")
