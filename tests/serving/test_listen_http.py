"""How much, and how long, does a client get? Limits, deadlines, draining and TLS, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import gzip
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from serving import listen_http
from serving.errors import Unavailable
from serving.listen_http import Bodies
from tests import models
from tests.running import Running
from tests.talking import (
    Client,
    binary_body,
    chunked,
    eventually,
    give_back_memory,
    in_binary,
    in_json,
    request,
    rows,
)

LIVE = request("GET /v2/health/live")
ECHO = "POST /v2/models/echo/infer"
ENDLESS = np.full((1, 4), 1e18, np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listen")
    models.place(folder / "models", "echo", 1, models.identity("FP32"))
    models.place(folder / "models", "spin", 1, models.spinning())
    yield folder
    give_back_memory()


def serve(folder, **settings: Any) -> Running:
    return Running(folder / "models", folder / "state", settings)


# --- Limits of size and count.

TIGHT = {
    "head_bytes_max": 1000,
    "headers_max": 8,
    "body_bytes_max": 100_000,
    "bodies_bytes_max": 150_000,
    "answer_bytes_max": 50_000,
    "chunks_max": 50,
    "json_depth_max": 8,
    "tensors_max": 2,
    "elements_max": 20_000,
    "connections_max": 20,
}


@pytest.fixture(scope="module")
def tight(folder) -> Iterator[Running]:
    with serve(folder, limits=TIGHT) as running:
        yield running


def headers(count: int) -> list[str]:
    return [f"X-{index}: y" for index in range(count)]


def nested(depth: int) -> bytes:
    """Return an inference whose data nest so that all nests `depth` deep."""
    levels = depth - 3
    shape = ",".join(["1"] * levels)
    data = "[" * levels + "1" + "]" * levels
    return f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{shape}],"data":{data}}}]}}'.encode()


def tensors(count: int) -> bytes:
    tensor = '{"name":"x%d","datatype":"FP32","shape":[1],"data":[1]}'
    return f'{{"inputs":[{",".join(tensor % index for index in range(count))}]}}'.encode()


def shape(*sizes: int) -> bytes:
    return f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":{list(sizes)},"data":[]}}]}}'.encode()


BOMB = gzip.compress(bytes(10_000_000))
BEYOND = {
    "head_bytes_max": (request("GET /v2", "X: " + "y" * 1000), 431, False),
    "head_bytes_max, endless": (b"GET /v2 HTTP/1.1\r\nX: " + b"y" * 2000, 431, False),
    "headers_max": (request("GET /v2", *headers(8)), 431, False),
    "body_bytes_max": (request(ECHO, "Content-Length: 100001"), 413, False),
    "body_bytes_max, chunked": (chunked(ECHO, [b"x" * 60_000, b"x" * 60_000]), 413, False),
    "body_bytes_max, announced": (
        request(ECHO, "Transfer-Encoding: chunked") + b"FFFFFFFFFF\r\n",
        413,
        False,
    ),
    "body_bytes_max, gzip": (request(ECHO, "Content-Encoding: gzip", body=BOMB), 413, True),
    "body_bytes_max, deflate": (
        request(ECHO, "Content-Encoding: deflate", body=zlib.compress(bytes(500_000))),
        413,
        True,
    ),
    "chunks_max": (chunked(ECHO, [b"x"] * 51), 413, False),
    "head_bytes_max, trailers": (
        chunked(ECHO, [b"x"], end=b"0\r\nA: " + b"b" * 1000 + b"\r\n\r\n"),
        431,
        False,
    ),
    "json_depth_max": (request(ECHO, body=nested(9)), 400, True),
    "tensors_max": (request(ECHO, body=tensors(3)), 413, True),
    "elements_max": (request(ECHO, body=shape(20_001)), 413, True),
    "elements_max, overflow": (request(ECHO, body=shape(*[1 << 62] * 60)), 413, True),
    "answer_bytes_max": (in_binary("echo", rows(1, 12_600)), 413, True),
}
WITHIN = {
    "head_bytes_max": request("GET /v2", "X: " + "y" * 900),
    "headers_max": request("GET /v2", *headers(7)),
    "body_bytes_max": request("GET /v2", body=b"x" * 100_000),
    "chunks_max": chunked("GET /v2", [b"x"] * 50),
    "json_depth_max": request(ECHO, body=nested(8).replace(b"[[[[[1]]]]]", b"[[[[[1]]]]]")),
    "answer_bytes_max": in_binary("echo", rows(1, 12_400)),
}


@pytest.mark.parametrize("limit", BEYOND)
def test_what_passes_a_limit_is_refused_by_the_limits_name(tight, limit):
    data, status, goes_on = BEYOND[limit]
    with Client(tight) as client:
        answer = client.ask(data)
        assert answer.status == status
        assert answer.error
        assert ("connection" not in answer.headers) == goes_on
        if goes_on:
            assert client.ask(LIVE).status == 200
        else:
            assert answer.headers["connection"] == "close" and client.is_ended()
    assert eventually(lambda: tight.listener.bodies.bytes_now == 0)


@pytest.mark.parametrize("limit", WITHIN)
def test_what_just_fits_a_limit_is_served(tight, limit):
    with Client(tight) as client:
        answer = client.ask(WITHIN[limit])
        assert answer.status == (400 if limit == "json_depth_max" else 200), answer
        assert "deep" not in str(answer.body)


@pytest.mark.parametrize("way", ["binary", "JSON", "compressed", "last"])
def test_an_answer_beyond_its_limit_says_so_and_costs_only_itself(tight, way):
    """The setting was there, and nothing heeded it."""
    large, fine = rows(1, 12_600), rows(1, 10)
    before = tight.listener.rejections["too_large"]
    with Client(tight) as client:
        match way:
            case "binary":
                answer = client.ask(in_binary("echo", large))
            case "JSON":
                answer = client.ask(in_json("echo", large[:, :9000]))
            case "compressed":
                answer = client.ask(in_binary("echo", large, "Accept-Encoding: gzip"))
            case "last":
                answer = client.ask(in_binary("echo", large, "Connection: close"))
        assert answer.status == 413 and "limits.answer_bytes_max is 50000" in answer.error
    with Client(tight) as client:
        assert client.ask(in_binary("echo", fine)).status == 200
    assert tight.listener.rejections["too_large"] == before + 1


def test_connections_beyond_the_limit_are_told_and_closed(tight):
    with Client(tight) as first:
        assert first.ask(LIVE).status == 200
        others = [Client(tight) for _ in range(19)]
        assert all(each.ask(LIVE).status == 200 for each in others)
        with Client(tight) as refused:
            answer = refused.ask(LIVE)
            assert answer.status == 503 and answer.error and answer.headers["retry-after"] == "1"
            assert refused.is_ended()
        assert first.ask(LIVE).status == 200
        for each in others:
            each.socket.close()
        assert eventually(lambda: tight.listener.connections == 1)
        with Client(tight) as again:
            assert again.ask(LIVE).status == 200


def test_a_crowd_beyond_the_limit_of_connections_is_cut_off_without_a_word(tight, monkeypatch):
    monkeypatch.setattr(listen_http, "REFUSED_MAX", 5)
    crowd = [Client(tight) for _ in range(40)]
    assert eventually(lambda: tight.listener.connections <= 25)
    for each in crowd:
        each.socket.close()
    assert eventually(lambda: tight.listener.connections == 0)


@pytest.mark.parametrize("way", ["length", "chunks", "inflated"])
def test_bodies_beyond_what_may_be_in_memory_are_refused_for_now(tight, way):
    """Chunked and compressed bodies did not count."""
    body, json_bytes = binary_body(rows(1, 20_000))
    length = f"Inference-Header-Content-Length: {json_bytes}"
    with Client(tight) as holder, Client(tight) as client:
        holder.send(request(ECHO, length, f"Content-Length: {len(body)}"), body[:-1])
        assert eventually(lambda: tight.listener.bodies.bytes_now >= len(body))
        match way:
            case "length":
                data = request(ECHO, length, body=body)
            case "chunks":
                data = chunked(ECHO, [body], length)
            case "inflated":
                data = request(ECHO, length, "Content-Encoding: gzip", body=gzip.compress(body))
        answer = client.ask(data)
        assert answer.status == 503 and answer.error and answer.headers["retry-after"] == "1"
        with Client(tight) as small:
            assert small.ask(in_binary("echo", rows(1, 100))).status == 200
        assert holder.send(body[-1:]).answer().status in (200, 413)
    assert eventually(lambda: tight.listener.bodies.bytes_now == 0)


def test_bodies_refused_while_they_are_sent_are_refused_in_peace(tight):
    """The client can send all it has and then read why."""
    with Client(tight) as client:
        answer = client.send(chunked(ECHO, [b"x" * 60_000] * 5)).answer()
        assert answer.status == 413
        assert client.is_ended()


# --- Buffers.

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["take", "adopt", "done", "left"]), st.integers(1, 5000)), max_size=40
)


@given(OPERATIONS)
def test_bodies_count_what_is_held_and_never_share_a_buffer(operations):
    bodies, bytes_max = Bodies(20_000), 20_000
    held: list[memoryview] = []
    left: list[memoryview] = []
    for kind, size in operations:
        try:
            match kind:
                case "take":
                    held.append(bodies.take(size))
                case "adopt":
                    held.append(bodies.adopt(bytearray(size)))
                case "done" if held:
                    bodies.give_back(held.pop(size % len(held)), read=False)
                case "left" if held:
                    left.append(held.pop(size % len(held)))
                    bodies.give_back(left[-1], read=True)
        except Unavailable:
            assert sum(map(len, (*held, *left))) + size > bytes_max
        assert bodies.bytes_now == sum(map(len, (*held, *left))) <= bytes_max
        for mark, buffer in enumerate((*held, *left)):
            buffer[:] = bytes([mark % 256]) * len(buffer)
        assert all(set(buffer) == {mark % 256} for mark, buffer in enumerate((*held, *left)))
    del held
    left.clear()


def test_a_buffer_that_a_run_may_still_read_is_neither_reused_nor_forgotten():
    bodies = Bodies(1000)
    body = bodies.take(600)
    view = np.frombuffer(body, np.uint8)[10:]
    bodies.give_back(body, read=True)
    del body
    assert bodies.bytes_now == 600
    with pytest.raises(Unavailable):
        bodies.take(600)
    del view
    gc.collect()
    assert bodies.bytes_now == 0
    assert len(bodies.take(600)) == 600


def test_the_spare_buffers_are_bounded():
    bodies = Bodies(1 << 40)
    taken = [bodies.take(8 << 20) for _ in range(20)]
    for each in taken:
        bodies.give_back(each, read=False)
    assert bodies.bytes_now == 0
    assert bodies._spare_bytes <= Bodies.SPARE_BYTES_MAX


# --- Time.


@pytest.fixture(scope="module")
def impatient(folder) -> Iterator[Running]:
    limits = {"receive_s_max": 0.6, "idle_s_max": 1.2, "send_s_max": 1.0}
    threaded = {"inline_us_max": 0}
    with serve(folder, limits=limits, engine=threaded) as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr(listen_http, "LOOK_S", 0.1)
        running.do(hurry(running))
        yield running


async def hurry(running: Running) -> None:
    """Have the listener look at its connections more often than once a second."""
    listener = running.listener
    listener._looking.cancel()
    listener._looking = asyncio.get_running_loop().create_task(listener._look())


def trickle(client: Client, data: bytes, until_s: float) -> None:
    """Send a byte every now and then until the server hangs up."""
    for at in range(len(data)):
        if time.monotonic() > until_s:
            return
        try:
            client.socket.sendall(data[at : at + 1])
        except OSError:
            return
        time.sleep(0.05)


SLOW = {
    "head": (b"", b"GET /v2/health/live HTTP/1.1\r\nX: " + b"y" * 1000),
    "nothing but a CR": (b"", b"\r"),
    "small body": (request(ECHO, "Content-Length: 2000"), b"x" * 1000),
    "large body": (request(ECHO, "Content-Length: 2000000") + b"x" * 100_000, b"x" * 1000),
    "chunks": (request(ECHO, "Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 1000),
    "trailers": (chunked(ECHO, [b"x"], end=b"0\r\n"), b"A: b\r\n" * 1000),
    "behind a good one": (LIVE, b"GET /v2 HTTP/1.1\r\nX: " + b"y" * 1000),
}


def test_a_request_that_trickles_is_given_up_in_time(impatient):
    clients = {name: Client(impatient) for name in SLOW}
    began_s = time.monotonic()
    threads = []
    for name, client in clients.items():
        first, slow = SLOW[name]
        client.send(first)
        threads.append(threading.Thread(target=trickle, args=(client, slow, began_s + 60)))
        threads[-1].start()
    for name, client in clients.items():
        answer = client.answer()
        if name == "behind a good one":
            assert answer.status == 200
            answer = client.answer()
        assert answer.status == 408, name
        assert answer.headers["connection"] == "close" and answer.error
        assert time.monotonic() - began_s < 30, name
    with Client(impatient) as good:
        assert good.ask(LIVE).status == 200
    for client in clients.values():
        client.socket.shutdown(socket.SHUT_WR)
    for thread in threads:
        thread.join()
    for client in clients.values():
        client.socket.close()
    assert eventually(lambda: impatient.listener.connections == impatient.listener.bodies.bytes_now == 0)


def test_a_body_that_is_complete_just_after_it_was_given_up_is_dropped(impatient, caplog):
    """Its receiver went on filling a buffer that was no longer there."""
    with Client(impatient) as client:
        client.send(request(ECHO, "Content-Length: 300000") + b"x" * 100_000)
        assert client.answer().status == 408
        client.send(b"x" * 200_000)
        assert client.is_ended()
    assert eventually(lambda: impatient.listener.connections == impatient.listener.bodies.bytes_now == 0)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_refused_client_that_goes_on_sending_is_cut_off(impatient):
    with Client(impatient) as client:
        began_s = time.monotonic()
        assert client.ask(b"nonsense\r\n\r\n").status == 400
        with contextlib.suppress(OSError):
            while time.monotonic() - began_s < 60:
                client.socket.sendall(b"more")
                time.sleep(0.05)
        assert time.monotonic() - began_s < 30


def test_a_connection_that_is_idle_is_closed_and_one_in_use_is_not(impatient):
    with Client(impatient) as idle, Client(impatient) as used:
        began_s = time.monotonic()
        assert idle.ask(LIVE).status == 200
        while time.monotonic() - began_s < 2.4:
            assert used.ask(LIVE).status == 200
            time.sleep(0.2)
        assert idle.is_ended()


def test_a_client_that_waits_for_its_answer_is_not_idle(impatient):
    with Client(impatient) as client:
        began_s = time.monotonic()
        answer = client.ask(in_binary("spin", ENDLESS, "X-Request-Timeout-Seconds: 2.2"))
        assert answer.status == 504
        assert time.monotonic() - began_s > 2


def test_a_client_that_never_reads_is_cut_off(impatient):
    """And meanwhile it holds one answer, not those to all that it asks."""
    with Client(impatient) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        values = rows(1, 1_000_000)
        began_s = time.monotonic()
        client.socket.settimeout(60)
        with contextlib.suppress(OSError):
            while time.monotonic() - began_s < 60:
                client.send(in_binary("echo", values))
                for connection in list(impatient.listener._connections):
                    assert connection.transport.get_write_buffer_size() < 2 * values.nbytes
        assert time.monotonic() - began_s < 30
    assert eventually(lambda: impatient.listener.connections == impatient.listener.bodies.bytes_now == 0)


def test_answers_that_nobody_reads_are_bounded_together(folder):
    """Who has not read for longest goes first; one who reads gets all of it."""
    values = rows(1, 3_000_000)  # Far more than the 4 MiB that the kernel may take of each.
    bound = 3 * values.nbytes
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(serve(folder, limits={"bodies_bytes_max": bound}))
        silent = [stack.enter_context(Client(running)) for _ in range(6)]
        for client in silent:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.send(in_binary("echo", values))
        unread = running.listener.unread
        assert eventually(lambda: unread.cut >= 3)
        assert unread.bytes_now <= bound
        with Client(running) as reading:
            assert len(reading.ask(in_binary("echo", values)).raw) == values.nbytes
    assert eventually(lambda: unread.bytes_now == 0)


def test_a_slow_reader_of_its_last_answer_gets_all_of_it(folder):
    """It was cut off after the two seconds that are meant for clients who were refused."""
    with serve(folder, limits={"send_s_max": 20}) as running, Client(running) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        values = rows(1, 5_000_000)
        client.send(in_binary("echo", values, "Connection: close"))
        time.sleep(4.2)
        assert len(client.answer().raw) == values.nbytes
        assert client.is_ended()


def test_one_that_closes_idle_with_an_unread_answer_is_cut_off(impatient):
    """Its close waited for ever for what the client did not read."""
    with Client(impatient) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        for size in (500_000, 12_000, 12_000, 12_000):
            client.send(in_binary("echo", rows(1, size)))
        assert eventually(lambda: impatient.listener.connections == 0)


# --- Deadlines.


@pytest.fixture(scope="module", params=["inline", "in a thread"])
def engine(request, folder) -> Iterator[Running]:
    settings = {} if request.param == "inline" else {"engine": {"inline_us_max": 0}}
    with serve(folder, queue={"timeout_s_max": 1.0, "requests_max": 4}, **settings) as running:
        yield running


@pytest.mark.parametrize("way", ["header", "parameter", "server"])
def test_a_model_that_never_returns_is_a_504_at_the_deadline(engine, way):
    values = np.full((1, 4), 1e18, np.float32)
    match way:
        case "header":
            data, s = in_binary("spin", values, "X-Request-Timeout-Seconds: 0.3"), 0.3
        case "parameter":
            data, s = in_json("spin", values, parameters={"timeout": 300_000}), 0.3
        case "server":
            data, s = in_binary("spin", values, "X-Request-Timeout-Seconds: 100"), 1.0
    with Client(engine) as client:
        began_s = time.monotonic()
        answer = client.ask(data)
        took_s = time.monotonic() - began_s
        assert answer.status == 504 and answer.error
        assert s <= took_s < s + 20  # The run itself has no end.
        assert client.ask(in_binary("spin", rows(1, 4))).status == 200


def test_one_whose_deadline_passes_while_it_waits_hears_so_in_time(engine):
    if engine.config.engine.inline_us_max:
        pytest.skip("inline nothing waits but in the tick")
    with Client(engine) as first, Client(engine) as second:
        first.send(in_binary("spin", ENDLESS))
        assert eventually(lambda: any(track.batch for track in spin_lane(engine)._tracks))
        began_s = time.monotonic()
        answer = second.ask(in_binary("spin", rows(1, 4), "X-Request-Timeout-Seconds: 0.2"))
        assert answer.status == 504 and "waited" in answer.error
        assert time.monotonic() - began_s < 0.95  # The one that it waits for has a second.
        assert first.answer().status == 504


def test_a_full_queue_is_a_429_with_retry_after(engine):
    if engine.config.engine.inline_us_max:
        pytest.skip("inline nothing waits but in the tick")
    # The run of the test before may still be ending, although its caller was told.
    assert eventually(lambda: not any(track.batch for track in spin_lane(engine)._tracks))
    clients = [Client(engine) for _ in range(8)]
    clients[0].send(in_binary("spin", ENDLESS))
    assert eventually(lambda: any(track.batch for track in spin_lane(engine)._tracks))
    for client in clients[1:]:
        client.send(in_binary("spin", rows(1, 4)))
    answers = [client.answer() for client in clients]
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == 3
    assert all(answer.error and answer.headers["retry-after"] == "1" for answer in refused)
    assert sum(answer.status == 504 for answer in answers) + len(refused) <= 8
    for client in clients:
        assert client.ask(in_binary("spin", rows(1, 4))).status == 200
        client.socket.close()


def spin_lane(running: Running):
    return running.gateway.shelf.loaded.servables["spin"]["1"].lane


# --- The end.


def test_draining_finishes_what_is_under_way_and_turns_away_the_rest(folder):
    settings = {"engine": {"inline_us_max": 0}, "server": {"drain_s_max": 40}}
    with serve(folder, **settings) as running:
        busy, idle, half = Client(running), Client(running), Client(running)
        with busy, idle, half:
            assert idle.ask(LIVE).status == half.ask(LIVE).status == 200
            busy.send(in_binary("spin", np.full((1, 4), 600_000, np.float32)) + LIVE)
            half.send(in_binary("echo", rows(1, 4))[:-1])
            assert eventually(lambda: len(spin_lane(running)) == 1)
            drained = threading.Thread(target=running.drain)
            began_s = time.monotonic()
            drained.start()
            assert eventually(lambda: running.listener.draining)
            with pytest.raises(OSError), Client(running, 2) as late:
                late.ask(LIVE)
            ready = half.send(in_binary("echo", rows(1, 4))[-1:]).answer()
            assert ready.status == 200 and ready.headers["connection"] == "close" and half.is_ended()
            last = busy.answer()
            assert last.status == 200 and last.headers["connection"] == "close" and busy.is_ended()
            assert idle.is_ended()
            drained.join(60)
            assert time.monotonic() - began_s < 30


def test_draining_says_not_ready_on_connections_that_are_open(folder):
    with serve(folder) as running, Client(running) as client:
        assert client.ask(request("GET /v2/health/ready")).status == 200
        running.gateway.draining = True
        answer = client.ask(request("GET /v2/health/ready"))
        assert answer.status == 503 and "draining" in answer.error and answer.headers["retry-after"]
        assert client.ask(LIVE).status == 200


def test_draining_waits_no_longer_than_it_may(folder):
    settings = {
        "engine": {"inline_us_max": 0},
        "server": {"drain_s_max": 0.5},
        "queue": {"timeout_s_max": 30},
    }
    with serve(folder, **settings) as running, Client(running) as endless, Client(running) as slow:
        endless.send(in_binary("spin", ENDLESS))
        slow.send(b"GET /v2 HT")
        assert eventually(lambda: len(spin_lane(running)) == 1)
        began_s = time.monotonic()
        running.drain()
        assert time.monotonic() - began_s < 20
        assert endless.is_ended() and slow.is_ended()
        assert running.listener.connections == 0


# --- TLS.


@pytest.fixture(scope="module")
def secured(folder, certificate) -> Iterator[tuple[Running, ssl.SSLContext]]:
    cert, key = certificate
    with serve(folder, server={"tls_certificate": str(cert), "tls_key": str(key)}) as running:
        yield running, ssl.create_default_context(cafile=cert)


@pytest.fixture(scope="module")
def certificate(folder):
    """Make a throw-away certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def secure(gateway: Running, context: ssl.SSLContext) -> Client:
    client = Client(gateway)
    client.socket = context.wrap_socket(client.socket, server_hostname="127.0.0.1")
    return client


def test_tls_carries_small_and_large_requests(secured):
    running, context = secured
    with secure(running, context) as client:
        for size in (4, 30_000, 2_000_000, 10, 1_000_000):
            answer = client.ask(in_binary("echo", rows(1, size)))
            assert answer.raw == rows(1, size).tobytes()
            assert client.ask(LIVE).status == 200
    assert eventually(lambda: running.listener.connections == running.listener.bodies.bytes_now == 0)


def test_tls_carries_pipelined_and_cut_requests(secured):
    running, context = secured
    with secure(running, context) as client:
        small, large = in_binary("echo", rows(1, 4)), in_binary("echo", rows(1, 50_000))
        client.send(small + LIVE + large + small)
        assert [client.answer().status for _ in range(4)] == [200] * 4
        client.send(large[:100], large[100:5000], large[5000:150_000], large[150_000:] + LIVE, pause_s=0.01)
        assert client.answer().raw == rows(1, 50_000).tobytes()
        assert client.answer().status == 200


def test_tls_says_goodbye_after_an_error(secured):
    running, context = secured
    with secure(running, context) as client:
        answer = client.ask(request(ECHO, "Content-Length: 1" + "0" * 15))
        assert answer.status == 413 and answer.headers["connection"] == "close"
        assert client.is_ended()
    with secure(running, context) as client:
        assert client.ask(request("GET /v2/health/live", "Connection: close")).status == 200
        assert client.is_ended()
    assert eventually(lambda: running.listener.connections == 0)


def test_tls_and_plain_text_do_not_mix(secured):
    running, _ = secured
    with Client(running) as client:
        client.send(LIVE)
        assert not client.socket.recv(1000).startswith(b"HTTP")
    assert eventually(lambda: running.listener.connections == 0)
