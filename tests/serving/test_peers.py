"""Does a scrape of any replica show what all have counted, whoever drained, died or fell silent?"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import config, listen_metrics, metrics, peers
from serving.drift.reading import DriftReading, StreamCounts, Verdict
from serving.evidence.reading import ArmReading
from serving.labels.quality import Quality, Seen
from serving.labels.reading import LabelsReading, LossReading
from serving.ledger import Snapshot
from serving.local import Serving
from serving.metrics import Reading, ServerReading, VersionReading
from serving.peers import Peers
from serving.shadow.comparison import Pair, ShadowReading
from serving.sockets import Holder, bound_at, fetch, listen, private_folder
from tests.models import constant, place
from tests.running import post

KEY = ("digits", "7")


class Replica:
    """A replica that has counted what a test says."""

    def __init__(self, folder: Path, name: str, counted: int = 0) -> None:
        self.counted = counted
        self.peers = Peers(folder, name)
        self.peers.open(self.read)

    def read(self) -> Reading:
        version = VersionReading(Snapshot(requests=self.counted), 2, 1, {"cpu": 4096}, 0.25)
        shadows = {KEY: ShadowReading({"6": Pair(self.counted)}, running=1)}
        streams = {(*KEY, "live", "x"): StreamCounts(self.counted, {"full": 1})}
        drift = DriftReading(streams, {(*KEY, "live", "x"): Verdict(True, 0.5, 9.0, 1)}, 1, {"hung": 1})
        server = ServerReading(
            3, 1000, {"too_large": self.counted}, 2, 64, {"invalid": self.counted}, {"CANCEL": self.counted}
        )
        evidence = {(*KEY, "split"): ArmReading(self.counted, {"failure": 1})}
        seen, quality = {(*KEY, "live"): Seen(self.counted)}, {(*KEY, "live"): Quality(self.counted)}
        losses = {(*KEY, "live"): LossReading(degraded=True)}
        labels = LabelsReading(seen, quality, 5, 100, losses)
        return Reading({KEY: version}, server, shadows, drift, evidence, labels)

    def scraped(self) -> int:
        """Return the total as seen here."""
        return requests(self.peers.total())

    def kill(self) -> None:
        """End as a process does that is killed: the socket's name stays, and nothing is written."""
        self.peers._left = True
        self.peers._door.shutdown(socket.SHUT_RDWR)
        self.peers._door.close()


def requests(total: Reading) -> int:
    counted = total.versions[KEY].counts.requests if KEY in total.versions else 0
    assert total.server.rejections.get("too_large", 0) == counted
    return counted


def files(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@contextlib.contextmanager
def node() -> Iterator[Path]:
    folder = private_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    with node() as folder:
        yield folder


@pytest.fixture
def pair(folder: Path) -> Iterator[tuple[Replica, Replica]]:
    both = Replica(folder, "a", 5), Replica(folder, "b", 7)
    yield both
    for each in both:
        each.peers.leave()


STEPS = st.lists(
    st.tuples(st.sampled_from(["count", "scrape", "start", "drain", "kill"]), st.integers(0, 9)), max_size=25
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_a_scrape_of_any_replica_is_exact_and_only_what_was_never_told_dies_with_a_killed_one(steps):
    with node() as folder:
        replicas = [Replica(folder, "r0")]
        told: dict[Replica, int] = {}
        gone = before = 0
        for number, (step, which) in enumerate(steps):
            chosen = replicas[which % len(replicas)]
            if step == "count":
                chosen.counted += 1 + which
            elif step == "start":
                replicas.append(Replica(folder, f"r{number + 1}"))
            elif step == "scrape":
                assert chosen.scraped() == gone + sum(each.counted for each in replicas) >= before
                told = {each: each.counted for each in replicas}
                before = gone + sum(told.values())
            elif len(replicas) > 1:
                replicas.remove(chosen)
                gone += chosen.counted if step == "drain" else told.get(chosen, 0)
                chosen.peers.leave() if step == "drain" else chosen.kill()
        assert replicas[-1].scraped() == gone + sum(each.counted for each in replicas) >= before
        alive = {f"{each.peers._name}{suffix}" for each in replicas for suffix in (".peer", ".counts")}
        assert set(files(folder)) <= alive | {"gone.json"}
        for each in replicas:
            each.peers.leave()


def test_no_scrape_counts_twice_or_not_at_all_while_replicas_leave_and_are_merged(folder):
    stay = [Replica(folder, f"stay{number}", 1) for number in range(2)]
    seen: list[int] = []
    over = threading.Event()

    def scrape(replica: Replica) -> None:
        while not over.is_set():
            seen.append(replica.scraped())

    leaving = [Replica(folder, f"leaves{number}", 10) for number in range(20)]
    assert stay[0].scraped() == 202
    scrapers = [threading.Thread(target=scrape, args=(each,)) for each in stay]
    for each in scrapers:
        each.start()
    for replica in leaving:
        replica.peers.leave()
        time.sleep(0.02)
    over.set()
    for each in scrapers:
        each.join(10)
    assert len(seen) > 10
    assert set(seen) == {202}
    for each in stay:
        each.peers.leave()


def test_gauges_add_up_while_replicas_live_and_go_with_them(pair):
    a, b = pair
    both = a.peers.total()
    all_counted = {"too_large": 12}, {"invalid": 12}, {"CANCEL": 12}
    assert both.server == ServerReading(6, 2000, all_counted[0], 4, 128, *all_counted[1:])
    assert both.versions[KEY].memory_bytes == {"cpu": 8192}
    assert both.versions[KEY].pending_requests == 4
    b.peers.leave()
    left = a.peers.total()
    assert left.server == ServerReading(3, 1000, all_counted[0], 2, 64, *all_counted[1:])
    assert left.versions[KEY].memory_bytes == {"cpu": 4096}
    assert left.versions[KEY].pending_requests == 2


def test_of_a_version_that_nobody_holds_any_more_the_counters_are_shown_and_no_gauge(folder):
    old = Replica(folder, "old", 5)
    new = Peers(folder, "new")
    new.open(Reading)
    old.peers.leave()
    text = listen_metrics.expose(metrics.registry(new.total))[0].decode()
    new.leave()
    assert re.search(r'^nv_inference_request_success\{model="digits",version="7"\} 5\.0$', text, re.MULTILINE)
    for each in metrics.FAMILIES:
        shown = re.search(rf'^{each.name}\w*\{{.*model="digits"', text, re.MULTILINE) is not None
        of_outputs = each.over == "output"  # And no output was compared.
        gauge = each.kind is metrics.Kind.GAUGE and each.of is metrics.Of.VERSION
        gauge |= each.of in (metrics.Of.VERDICT, metrics.Of.LOSS)  # Which those say who are there.
        assert shown == ("model" in each.labels and not gauge and not of_outputs), each.name
    assert re.search(r"^turnout_shadow_rows_total\{.*\} 5\.0$", text, re.MULTILINE)
    assert re.search(r"^turnout_shadow_running\{.*\} 0\.0$", text, re.MULTILINE)
    assert re.search(r"^turnout_drift_rows_total\{.*\} 5\.0$", text, re.MULTILINE)
    assert re.search(r"^turnout_evidence_requests_total\{.*\} 5\.0$", text, re.MULTILINE)
    assert re.search(r"^turnout_drift_running 0\.0$", text, re.MULTILINE)


def test_a_verdict_that_all_replicas_were_told_is_shown_as_it_is(pair):
    total = pair[0].peers.total().drift
    assert total.verdicts == {(*KEY, "live", "x"): Verdict(True, 0.5, 9.0, 1)}
    assert total.streams == {(*KEY, "live", "x"): StreamCounts(12, {"full": 2})}
    assert (total.running, total.restarts) == (2, {"hung": 2})


DYING = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from serving.ledger import Snapshot
    from serving.metrics import Reading, VersionReading
    from serving.peers import Peers
    reads = 0
    def read():
        global reads
        reads += 1
        return Reading({("digits", "7"): VersionReading(Snapshot(requests=40 + reads))})
    Peers(Path(sys.argv[1]), "dying").open(read)
    print("open", flush=True)
    time.sleep(60)
""")


def test_totals_do_not_go_down_when_a_process_is_killed_and_its_remains_are_cleared(folder):
    command = [sys.executable, "-c", DYING, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            ours = Peers(folder, "ours")
            ours.open(Reading)
            assert ours.total().versions[KEY].counts.requests == 41
            assert ours.total().versions[KEY].counts.requests == 42
        finally:
            process.kill()
    assert "dying.peer" in files(folder)
    (folder / "dying.counts.tmp").write_text("half of")
    for _ in range(3):
        assert ours.total().versions[KEY].counts.requests == 42
    assert files(folder) == ["gone.json", "ours.counts", "ours.peer"]
    ours.leave()


def test_replicas_that_die_without_any_scrape_leave_one_file_for_all(folder):
    for number in range(12):
        replica = Replica(folder, f"r{number}", 1)
        replica.peers._tell()
        replica.kill() if number % 2 else replica.peers.leave()
        assert len(files(folder)) <= 3  # The merged one, and a socket and a file of the latest.
    last = Replica(folder, "last")
    assert files(folder) == ["gone.json", "last.peer"]
    assert last.scraped() == 12
    last.peers.leave()


def test_a_silent_replica_counts_as_of_its_last_answer_is_named_once_and_costs_a_second_at_most(
    pair, folder, monkeypatch, caplog
):
    a, b = pair
    monkeypatch.setattr(peers, "ANSWERS_S_MAX", 0.2)
    assert a.scraped() == 12
    b.counted += 100
    with b.peers._telling, caplog.at_level(logging.WARNING):  # It goes on accepting, and says nothing.
        for _ in range(2):
            began_s = time.monotonic()
            total = a.peers.total()
            assert 0.2 <= time.monotonic() - began_s < 20
            assert requests(total) == 12
            assert total.server.connections == 3
    assert len(re.findall("event=replica_silent replica=b", caplog.text)) == 1
    assert a.scraped() == 112
    assert "b.peer" in files(folder)


def test_many_silent_replicas_are_waited_for_together(folder, monkeypatch):
    monkeypatch.setattr(peers, "ANSWERS_S_MAX", 0.5)
    ours = Replica(folder, "ours", 1)
    doors = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for number, door in enumerate(doors):
        door.bind(str(folder / f"mute{number}.peer"))
        door.listen(1)
    began_s = time.monotonic()
    assert ours.scraped() == 1
    assert time.monotonic() - began_s < 8  # One after the other they would take 10.
    for door in doors:
        door.close()
    ours.peers.leave()


@pytest.mark.parametrize(
    "said", [b"", b"{", b"[]", b'{"versions": 7}', b'{"versions": [], "server": {"new": 1}}']
)
def test_what_another_release_says_counts_nothing_and_breaks_nothing(folder, said):
    ours = Replica(folder, "ours", 3)
    (folder / "gone.json").write_bytes(said)
    (folder / "older.counts").write_bytes(said)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "newer.peer"))
        door.listen(8)
        answering = threading.Thread(target=_say, args=(door, said))
        answering.start()
        assert ours.scraped() == 3
        answering.join(60)
    assert ours.scraped() == 3
    assert "older.counts" not in files(folder)
    ours.peers.leave()


def _say(door: socket.socket, *said: bytes) -> None:
    line, _ = door.accept()
    with line, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for each in said:
            line.sendall(each)
            time.sleep(0.0001)


def test_an_answer_without_end_is_cut_off(folder, monkeypatch):
    monkeypatch.setattr(peers, "ANSWER_BYTES_MAX", 100_000)
    monkeypatch.setattr(peers, "ANSWERS_S_MAX", 30.0)
    ours = Replica(folder, "ours", 3)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "endless.peer"))
        door.listen(1)
        answering = threading.Thread(target=_say, args=(door, *[b" " * 10_000] * 100_000))
        answering.start()
        began_s = time.monotonic()
        assert ours.scraped() == 3
        assert time.monotonic() - began_s < 9, "a gigabyte was read"
        answering.join(60)
        assert not answering.is_alive()
    ours.peers.leave()


def test_who_was_merged_by_a_replica_that_died_over_it_is_not_merged_again(folder):
    Replica(folder, "gone", 9).peers.leave()
    kept = (folder / "gone.counts").read_bytes()
    ours = Replica(folder, "ours")
    assert files(folder) == ["gone.json", "ours.peer"]
    (folder / "gone.counts").write_bytes(kept)
    assert ours.scraped() == 9
    assert "gone.counts" not in files(folder)
    assert ours.scraped() == 9
    ours.peers.leave()


def test_nothing_is_merged_while_another_replica_does_and_the_total_is_right_all_the_same(folder):
    ours, gone = Replica(folder, "ours", 1), Replica(folder, "other", 2)
    gone.peers.leave()
    with peers._claimed(folder) as claimed:
        assert claimed
        assert ours.scraped() == 3
        assert "other.counts" in files(folder)
    assert ours.scraped() == 3
    assert "other.counts" not in files(folder)
    ours.peers.leave()


def test_the_versions_kept_of_those_that_are_gone_are_bounded_and_the_idle_ones_go_first(monkeypatch):
    monkeypatch.setattr(peers, "VERSIONS_MAX", 3)
    monkeypatch.setattr(peers, "NAMES_MAX", 2)
    merged = peers.Merged()
    for last_ns in (4, 1, 3, 2, 5):
        reading = Reading({("m", str(last_ns)): VersionReading(Snapshot(last_ns=last_ns))})
        merged = merged.plus({f"r{last_ns}": reading})
    assert {version for _, version in merged.reading.versions} == {"5", "4", "3"}
    assert merged.names == ("r2", "r5")
    assert peers.Merged.from_bytes(merged.to_bytes()) == merged


def test_a_replica_that_cannot_write_is_still_shown(folder, caplog):
    ours = Replica(folder, "ours", 4)
    (folder / "ours.counts.tmp").mkdir()
    assert ours.scraped() == 4
    assert "event=counts_not_written replica=ours" in caplog.text
    ours.peers.leave()
    ours.peers.leave()


def test_leaving_outlives_the_folder(folder):
    ours = Replica(folder, "ours", 4)
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()
    ours.peers.leave()
    folder.mkdir(0o700)


def test_a_scrape_of_one_that_has_left_is_right_and_leaves_nothing_behind(pair, folder):
    a, b = pair
    a.peers.leave()
    assert a.scraped() == b.scraped() == a.scraped() == 12
    assert files(folder) == ["b.counts", "b.peer", "gone.json"]


def test_who_never_opened_may_leave(folder):
    Peers(folder, "never").leave()
    assert files(folder) == []


def test_a_visitor_that_does_not_ask_or_read_holds_up_the_others_for_a_moment_only(pair, folder, monkeypatch):
    monkeypatch.setattr(peers, "VISIT_S_MAX", 0.1)
    a, b = pair
    # More than a socket holds.
    b.peers._read = lambda: Reading({("m", "x" * 4_000_000): VersionReading()})
    with socket.socket(socket.AF_UNIX) as mute, socket.socket(socket.AF_UNIX) as deaf:
        mute.connect(str(folder / "b.peer"))
        deaf.connect(str(folder / "b.peer"))
        deaf.sendall(peers.ASK)
        assert ("m", "x" * 4_000_000) in a.peers.total().versions


def test_all_is_for_this_user_alone(pair, folder):
    pair[0].peers.total()
    assert files(folder) == ["a.counts", "a.peer", "b.counts", "b.peer"]
    assert {each.stat().st_mode & 0o777 for each in folder.iterdir()} == {0o600}
    folder.chmod(0o755)
    with pytest.raises(PermissionError, match="mode 0700"):
        Peers(folder, "c")
    folder.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_told_nothing_even_if_the_door_stands_open(pair, folder):
    folder.chmod(0o711)
    (folder / "a.peer").chmod(0o666)
    with socket.socket(socket.AF_UNIX) as visitor:
        os.seteuid(65534)
        try:
            visitor.connect(str(folder / "a.peer"))
        finally:
            os.seteuid(0)
        visitor.settimeout(5)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            visitor.sendall(peers.ASK)
            assert visitor.recv(100) == b""


def test_who_looks_for_a_listening_socket_does_not_knock_here(pair, folder):
    holder = Holder(folder, {"http": listen("127.0.0.1:0")}, "launcher")
    fetch(folder, "http").close()
    with pytest.raises(LookupError, match="nobody hands out 'nothing': launcher.sock: no socket"):
        fetch(folder, "nothing")
    assert pair[0].scraped() == 12
    holder.close()


@contextlib.contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


def test_two_gateways_on_the_same_sockets_show_one_sum_even_when_one_has_drained(tmp_path, folder):
    place(tmp_path / "models", "three", 1, constant(3.0))
    settings = config.parse(
        {
            "repository": {"path": str(tmp_path / "models"), "state": str(tmp_path / "state")},
            "server": {"drain_s_max": 3},
        }
    )
    http, scrapes = listen("127.0.0.1:0"), listen("127.0.0.1:0")
    servings = [Serving(settings, http.dup(), scrapes.dup(), Peers(folder, name)) for name in "ab"]
    with http, scrapes, loop_in_a_thread() as first, loop_in_a_thread() as second:
        loops = [first, second]
        for serving, loop in zip(servings, loops, strict=True):
            asyncio.run_coroutine_threadsafe(serving.start(), loop).result(30)
        answered = 0
        while answered < 400 and (answered < 40 or 0 in map(_alone, servings)):
            answered += _infer(http)
        assert 0 not in map(_alone, servings), "each has answered some"
        assert {_success(scrapes) for _ in range(10)} == {answered}
        for serving, loop in zip(servings, loops, strict=True):
            asyncio.run_coroutine_threadsafe(serving.drain(), loop).result(30)
            if serving is servings[0]:
                answered += _infer(http)
                assert {_success(scrapes) for _ in range(3)} == {answered}


def _alone(serving: Serving) -> int:
    return sum(each.counts.requests for each in serving.read().versions.values())


def _infer(http: socket.socket) -> int:
    body = orjson.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}]}
    )
    with socket.create_connection(http.getsockname(), timeout=10) as line:
        line.sendall(post("/v2/models/three/infer", body))
        answer = line.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return 1


def _success(scrapes: socket.socket) -> int:
    with urllib.request.urlopen(f"http://{bound_at(scrapes)}/metrics", timeout=10) as got:
        [count] = re.findall(r"^nv_inference_request_success\{.*\} (.*)$", got.read().decode(), re.MULTILINE)
    return int(float(count))
