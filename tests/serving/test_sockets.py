"""Listening sockets that outlive the processes that accept on them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.config import ConfigError
from serving.sockets import Holder, bound_at, fetch, listen, private_folder, reserve


@pytest.fixture
def folder() -> Iterator[Path]:
    made = private_folder()
    yield made
    for each in made.iterdir():
        each.unlink()
    made.rmdir()


@pytest.fixture
def held(folder: Path) -> Iterator[Holder]:
    holder = Holder(folder, {"http": listen("127.0.0.1:0"), "metrics": listen("127.0.0.1:0")}, "first")
    yield holder
    holder.close()


def _ask(at: str) -> bytes:
    """Connect and say x; return the answer of whoever accepts."""
    host, _, port = at.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as line:
        line.sendall(b"x")
        return line.recv(16)


def _answer_one(bound: socket.socket, answer: bytes) -> None:
    bound.settimeout(5)
    line, _ = bound.accept()
    with line:
        line.recv(1)
        line.sendall(answer)


ACCEPTOR = textwrap.dedent("""
    import sys
    from pathlib import Path
    from serving.sockets import fetch
    bound = fetch(Path(sys.argv[1]), "http")
    bound.setblocking(True)
    print("ready", flush=True)
    while True:
        line, _ = bound.accept()
        line.recv(1)
        line.sendall(sys.argv[2].encode())
        line.close()
""")


@contextlib.contextmanager
def _acceptor(folder: Path, answer: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that fetches the socket and answers on it."""
    command = [sys.executable, "-c", ACCEPTOR, str(folder), answer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def test_connections_made_between_two_processes_wait_for_the_second(folder: Path, held: Holder) -> None:
    with fetch(folder, "http") as ours:
        at = bound_at(ours)
    with _acceptor(folder, "one") as first:
        assert _ask(at) == b"one"
        first.send_signal(signal.SIGKILL)
        first.wait()
    answers: list[bytes] = []
    waiting = [threading.Thread(target=lambda: answers.append(_ask(at))) for _ in range(20)]
    for each in waiting:
        each.start()
    with _acceptor(folder, "two"):
        for each in waiting:
            each.join(5)
    assert answers == [b"two"] * 20
    assert held.path.exists()


def test_a_duplicate_outlives_its_holder_and_hands_itself_on(folder: Path) -> None:
    first = Holder(folder, {"http": listen("127.0.0.1:0")}, "first")
    second = Holder(folder, {"http": fetch(folder, "http")}, "second")
    first.close()
    try:
        with fetch(folder, "http") as got:
            thread = threading.Thread(target=_answer_one, args=(got, b"still"))
            thread.start()
            assert _ask(bound_at(got)) == b"still"
            thread.join(5)
    finally:
        second.close()


def test_a_socket_is_gone_only_when_its_last_holder_is(folder: Path) -> None:
    holder = Holder(folder, {"http": listen("127.0.0.1:0")}, "only")
    got = fetch(folder, "http")
    at = bound_at(got)
    holder.close()
    socket.create_connection(got.getsockname(), timeout=5).close()
    got.close()
    with pytest.raises(ConnectionRefusedError):
        _ask(at)
    with pytest.raises(LookupError, match="no holder is alive"):
        fetch(folder, "http")


def test_the_remains_of_a_killed_holder_are_passed_over_and_cleared(folder: Path, held: Holder) -> None:
    remains = folder / "a-killed-one.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(remains))
    fetch(folder, "http").close()
    assert not remains.exists()
    assert held.path.exists()


def test_a_visitor_that_says_nothing_does_not_stop_the_others(folder: Path, held: Holder) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(held.path))
        fetch(folder, "metrics").close()


def test_what_is_handed_out_listens_and_is_not_inherited_by_children(folder: Path, held: Holder) -> None:
    assert repr(held).startswith("<Holder first.sock: http 127.0.0.1:")
    with fetch(folder, "metrics") as got:
        assert got.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        assert not got.get_inheritable()
        assert got.gettimeout() == 0.0


@given(name=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200))
@settings(max_examples=30, deadline=None)
def test_only_names_that_are_held_are_handed_out(name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as made:
        folder = Path(made)
        holder = Holder(folder, {"http": listen("127.0.0.1:0")}, "only")
        try:
            if name == "http":
                fetch(folder, name).close()
            else:
                with pytest.raises(LookupError, match="held here: http"):
                    fetch(folder, name)
        finally:
            holder.close()


def test_the_door_is_for_its_user_alone(folder: Path, held: Holder) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert held.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_turned_away_even_if_the_door_stands_open(folder: Path, held: Holder) -> None:
    folder.chmod(0o711)
    held.path.chmod(0o666)
    with socket.socket(socket.AF_UNIX) as visitor:
        os.seteuid(65534)
        try:
            visitor.connect(str(held.path))
        finally:
            os.seteuid(0)
        visitor.settimeout(5)
        assert socket.recv_fds(visitor, 99, 1)[:2] == (b"-not for this user", [])


def test_a_folder_that_others_can_enter_is_refused(folder: Path) -> None:
    folder.chmod(0o755)
    with pytest.raises(PermissionError, match="mode 0700"):
        Holder(folder, {}, "any")
    with pytest.raises(PermissionError, match="mode 0700"):
        fetch(folder, "http")


def test_a_path_too_long_for_a_unix_socket_says_so(folder: Path) -> None:
    with pytest.raises(OSError, match="107 bytes"):
        Holder(folder, {}, "x" * 100)


def test_the_private_folder_is_short_however_long_the_temporary_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("deep" * 20)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    made = private_folder()
    assert len(str(made)) <= 40
    assert made.stat().st_mode & 0o777 == 0o700
    made.rmdir()


def test_a_port_in_use_is_one_line_that_says_what_would_work() -> None:
    with listen("127.0.0.1:0") as taken:
        at = bound_at(taken)
        with pytest.raises(ConfigError) as caught:
            listen(at)
    assert str(caught.value) == (
        f"cannot listen at {at}: another program listens there; stop it, or choose another port"
    )


def _shared(at: str) -> socket.socket:
    """Listen at an address as grpcio does."""
    host, _, port = at.rpartition(":")
    sharing = socket.socket()
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        sharing.setsockopt(socket.SOL_SOCKET, option, 1)
    sharing.bind((host, int(port)))
    sharing.listen()
    return sharing


def test_a_reserved_address_is_for_those_who_share_it_and_for_no_other_gateway() -> None:
    with reserve("127.0.0.1:0") as reserved:
        at = bound_at(reserved)
        with _shared(at) as one, _shared(at) as other:
            for _ in range(20):
                with socket.create_connection(one.getsockname(), timeout=5):
                    ready, _, _ = select.select([one, other], [], [], 5)
                    ready[0].accept()[0].close()
        for take in (listen, reserve):
            with pytest.raises(ConfigError, match=f"cannot listen at {at}: another program listens there"):
                take(at)
    with reserve(at):
        pass
    with listen(at):
        pass


def test_what_lingers_of_an_earlier_gateway_s_connections_does_not_keep_an_address_from_being_reserved() -> (
    None
):
    with listen("127.0.0.1:0") as earlier:
        client = socket.create_connection(earlier.getsockname(), timeout=5)
        earlier.setblocking(True)
        line, _ = earlier.accept()
        line.close()  # First, so that the state is ours.
        client.recv(1)
        client.close()
        at = bound_at(earlier)
    with reserve(at), _shared(at):
        pass


def test_an_address_of_another_machine_is_one_line() -> None:
    with pytest.raises(ConfigError, match="this machine has no such address"):
        listen("203.0.113.7:0")


@pytest.mark.parametrize("at", ["127.0.0.1:0", "[::1]:0"])
def test_the_bound_address_reads_as_it_is_configured(at: str) -> None:
    if at.startswith("[") and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with listen(at) as bound:
        assert bound_at(bound).startswith(at[:-1])
        assert not bound_at(bound).endswith(":0")
        listening = bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    assert listening == 1
