"""What does a client get, however it sends its requests? Over real sockets, from a whole gateway."""

from __future__ import annotations

import contextlib
import gc
import gzip
import itertools
import json
import time
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.body_receiver import SKIPPED_BYTES_MAX
from serving.connection import GATHER_BYTES_MAX, INLINE_BYTES_MAX
from tests import models
from tests.running import Running
from tests.talking import (
    Answer,
    Client,
    binary_body,
    chunked,
    document,
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
BIG = rows(64, 1024)
"""256 KiB: a buffer of its own, and more than one read."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("connection")
    models.place(folder / "models", "echo", 1, models.identity("FP32"))
    models.place(folder / "models", "mlp", 1, models.mlp())
    models.place(folder / "models", "spin", 1, models.spinning())
    yield folder
    give_back_memory()


@pytest.fixture(scope="module")
def gateway(folder) -> Iterator[Running]:
    with Running(folder / "models", folder / "state") as running:
        yield running


@pytest.fixture(scope="module")
def threaded(folder) -> Iterator[Running]:
    """Return a gateway on which every model has a thread, so that its loop is free while one runs."""
    with Running(folder / "models", folder / "state", {"engine": {"inline_us_max": 0}}) as running:
        yield running


@pytest.fixture
def client(gateway) -> Iterator[Client]:
    with Client(gateway) as client:
        yield client


def echoed(answer: Answer) -> np.ndarray:
    """Return what the model echo answered."""
    assert answer.status == 200, answer
    (output,) = answer.json["outputs"]
    if "data" in output:
        return np.array(output["data"], np.float32).reshape(output["shape"])
    return np.frombuffer(answer.raw, np.float32).reshape(output["shape"])


def at_rest(gateway: Running) -> bool:
    """Say whether no connection is left, and no body in memory."""
    listener = gateway.listener
    return eventually(lambda: listener.connections == 0 and listener.bodies.bytes_now == 0)


# --- One after the other.


def mixed() -> tuple[list[bytes], list[int]]:
    """Return requests of every kind, and the statuses of their answers."""
    empty = request("POST /v2/repository/index", body=b"")
    asked = [
        (in_json("echo", rows(1, 3), id="a"), 200),
        (LIVE, 200),
        (request("GET /v2/models/nobody"), 404),
        (in_binary("echo", rows(2, 5), id="b"), 200),
        (request("DELETE /v2/health/live"), 405),
        (in_json("echo", rows(1, 3), datatype="FP64"), 400),
        (in_json("nobody", rows(1, 3)), 404),
        (chunked(ECHO, [b'{"id":"c",', document(rows(1, 2))[1:]]), 200),
        (b"\r\n" + LIVE, 200),
        (empty, 200),
        (in_json("echo", rows(1, 3), "Content-Encoding: br"), 415),
        (request(ECHO, "Content-Encoding: gzip", body=gzip.compress(document(rows(3, 1), id="d"))), 200),
        (in_binary("echo", rows(10, 500), id="e"), 200),
        (LIVE, 200),
    ]
    return [data for data, _ in asked], [status for _, status in asked]


@pytest.fixture(scope="module")
def alone(gateway) -> list[Answer]:
    """Return the answers to the mixed requests, each of which was sent on a connection of its own."""
    answers = []
    for data in mixed()[0]:
        with Client(gateway) as client:
            answers.append(client.ask(data))
    return answers


def test_the_mixed_requests_get_what_they_should(alone):
    assert [answer.status for answer in alone] == mixed()[1]


def test_hundreds_of_requests_in_one_send_are_answered_in_order(client, alone):
    requests, _ = mixed()
    client.send(b"".join(requests * 30))
    for _ in range(30):
        assert [client.answer() for _ in requests] == alone
    assert client.ask(LIVE).status == 200


def test_a_request_cut_at_any_byte_is_answered_alike(gateway, alone):
    requests, _ = mixed()
    stream = b"".join(requests[:12])
    for cut in range(1, len(stream)):
        with Client(gateway) as client:
            client.send(stream[:cut], stream[cut:], pause_s=0.0003)
            assert [client.answer() for _ in requests[:12]] == alone[:12], cut


@given(st.lists(st.integers(1, 25_000), max_size=12), st.booleans())
@settings(max_examples=40)
def test_any_split_of_a_stream_of_requests_gives_the_same_answers(gateway, alone, cuts, pause):
    requests, _ = mixed()
    stream = b"".join(requests)
    edges = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    pieces = [stream[start:stop] for start, stop in itertools.pairwise(edges)]
    with Client(gateway) as client:
        client.send(*pieces, pause_s=0.001 if pause else 0.0)
        assert [client.answer() for _ in requests] == alone


def test_a_byte_at_a_time_is_enough(client, alone):
    requests, _ = mixed()
    few = [0, 1, 7]
    for data in (requests[index] for index in few):
        client.send(*(data[at : at + 1] for at in range(len(data))))
    assert [client.answer() for _ in few] == [alone[index] for index in few]


def test_a_client_that_pipelines_does_not_hold_up_the_others(gateway):
    flood = LIVE * 20_000
    with Client(gateway) as many, Client(gateway) as one:
        many.socket.setblocking(False)
        many.socket.send(flood)
        began_s = time.monotonic()
        for _ in range(20):
            assert one.ask(LIVE).status == 200
        assert time.monotonic() - began_s < 20


def test_pipelined_requests_wait_in_the_socket_and_not_in_memory(threaded):
    """Each answer made the connection read on, whatever it had in stock: a flood grew without bound."""
    with Client(threaded) as client:
        client.socket.settimeout(1.0)
        data = in_binary("echo", rows(1, 4)) * 20_000
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < len(data):
                sent += client.socket.send(data[sent : sent + 65536])
        (connection,) = threaded.listener._connections
        assert len(connection._tail) <= threaded.listener.tail_bytes_max + 256 * 1024
    assert at_rest(threaded)


def test_a_flood_of_empty_lines_is_refused(client):
    """They were skipped one by one, each at the cost of copying the rest."""
    assert client.ask(b"\r\n" * 50_000).status == 400
    assert client.is_ended()


def test_one_empty_line_before_a_request_is_forgiven(client):
    assert client.ask(b"\r\n" + LIVE).status == 200
    client.send(b"\r\n")
    time.sleep(0.05)
    assert client.ask(LIVE).status == 200


# --- How long a connection lasts.


def test_http_1_1_is_kept_alive_until_one_side_says_close(client):
    first = client.ask(LIVE)
    assert first.status == 200 and "connection" not in first.headers
    last = client.ask(request("GET /v2/health/live", "Connection: close"))
    assert last.headers["connection"] == "close"
    assert client.is_ended()


def test_the_last_inference_of_a_connection_says_so(client):
    last = client.ask(in_json("echo", rows(1, 2), "Connection: close"))
    assert last.status == 200 and last.headers["connection"] == "close"
    assert client.is_ended()


def test_http_1_0_ends_after_the_answer(client):
    answer = client.ask(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert answer.status == 200 and answer.headers["connection"] == "close"
    assert client.is_ended()


def test_http_1_0_that_asks_to_go_on_is_told_that_it_may(client):
    """It was kept open without a word, for which such clients (ab -k) wait until it closes."""
    old = b"GET /v2/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    body = document(rows(1, 2))
    infer = b"%b HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n" % (
        ECHO.encode(),
        len(body),
    )
    for data in (old, infer + body, old):
        answer = client.ask(data)
        assert answer.status == 200 and answer.headers["connection"] == "keep-alive"


def test_what_follows_the_last_request_is_not_answered(client):
    client.send(request("GET /v2/health/live", "Connection: close") + LIVE)
    assert client.answer().status == 200
    assert client.is_ended()


def test_after_an_error_whose_end_is_known_the_connection_goes_on(client):
    for data, status in [
        (request("GET /nowhere"), 404),
        (in_json("echo", rows(1, 1), datatype="INT7"), 400),
        (request("PUT /v2", body=b"x" * 1000), 405),
        (in_json("echo", rows(1, 1), "X-Request-Timeout-Seconds: soon"), 400),
    ]:
        assert client.ask(data).status == status
        assert client.ask(LIVE).status == 200


def test_a_refused_body_that_comes_later_is_skipped(client):
    body = b"GET /v2/health/live HTTP/1.1\r\nHost: smuggled\r\n\r\n" * 200
    head = request("POST /nowhere", f"Content-Length: {len(body)}")
    assert client.ask(head).status == 404
    assert client.send(body[:100], body[100:]).ask(LIVE).status == 200
    assert client.read == b""


def test_a_refused_body_that_is_long_ends_the_connection(client):
    answer = client.ask(request("POST /nowhere", f"Content-Length: {SKIPPED_BYTES_MAX + 1}"))
    assert answer.status == 404 and answer.headers["connection"] == "close"
    assert client.is_ended()


def test_a_head_that_cannot_be_read_is_answered_and_ends_the_connection(client):
    answer = client.ask(b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1")
    assert answer.status == 400 and "content-length" in answer.error.lower()
    assert answer.headers["connection"] == "close"
    assert client.is_ended()


def test_the_error_after_a_head_request_has_its_body(client):
    """It had none: the connection still thought of the HEAD."""
    assert client.ask(request("HEAD /v2"), "HEAD").status == 200
    assert client.ask(b"nonsense\r\n\r\n").error


# --- Bodies.


def test_head_has_the_head_of_get_and_no_body(client):
    for path in ("/v2", "/v2/models/echo", "/v2/nowhere", "/v2/models/echo/config"):
        got = client.ask(request(f"GET {path}"))
        head = client.ask(request(f"HEAD {path}"), "HEAD")
        assert (head.status, head.headers) == (got.status, got.headers) and got.body


def test_json_may_come_in_chunks_of_one_byte(client):
    body = document(rows(2, 3), id="c")
    pieces = [body[at : at + 1] for at in range(len(body))]
    assert np.array_equal(echoed(client.ask(chunked(ECHO, pieces))), rows(2, 3))
    assert np.array_equal(
        echoed(client.ask(chunked(ECHO, pieces, end=b"0\r\nTrailer: x\r\n\r\n"))), rows(2, 3)
    )


@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 20])
def test_binary_data_may_come_in_chunks(client, piece):
    values = rows(3, 100) if piece < 100 else BIG
    body, json_bytes = binary_body(values)
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
    data = chunked(ECHO, pieces, f"Inference-Header-Content-Length: {json_bytes}")
    assert np.array_equal(echoed(client.ask(data)), values)
    assert client.ask(LIVE).status == 200


def test_a_chunked_body_may_be_compressed(client):
    body = gzip.compress(document(BIG))
    assert len(body) > INLINE_BYTES_MAX
    data = chunked(ECHO, [body[:1000], body[1000:]], "Content-Encoding: gzip")
    assert np.array_equal(echoed(client.ask(data)), BIG)


@pytest.mark.parametrize("values", [rows(1, 4), BIG], ids=["small", "large"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_client_that_expects_100_continue_gets_it_and_then_its_answer(client, values, framing):
    body, json_bytes = binary_body(values)
    headers = (f"Inference-Header-Content-Length: {json_bytes}", "Expect: 100-continue")
    if framing == "length":
        client.send(request(ECHO, f"Content-Length: {len(body)}", *headers))
    else:
        client.send(request(ECHO, "Transfer-Encoding: chunked", *headers))
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert client.answer().status == 100
    assert np.array_equal(echoed(client.send(body[:50], body[50:], pause_s=0.02).answer()), values)
    assert client.ask(LIVE).status == 200


def test_a_client_that_does_not_wait_for_100_continue_is_answered_once(client):
    body = document(rows(1, 2))
    answer = client.ask(request(ECHO, "Expect: 100-continue", body=body))
    assert np.array_equal(echoed(answer), rows(1, 2))
    assert client.ask(LIVE).status == 200


@pytest.mark.parametrize(
    ("line", "length", "status"), [("POST /nowhere", 100, 404), (ECHO, 1 << 40, 413)], ids=["404", "413"]
)
def test_a_client_that_expects_100_continue_hears_no_before_it_sends(client, line, length, status):
    answer = client.ask(request(line, f"Content-Length: {length}", "Expect: 100-continue"))
    assert answer.status == status and answer.headers["connection"] == "close"
    assert client.is_ended()


def deflate_raw(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize("values", [rows(2, 3), BIG], ids=["inline", "aside"])
@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", deflate_raw)]
)
def test_requests_may_be_compressed(client, coding, compress, values):
    body, json_bytes = binary_body(values)
    packed = compress(body)
    assert (len(packed) > INLINE_BYTES_MAX) == (values is BIG)
    headers = (f"Content-Encoding: {coding}", f"Inference-Header-Content-Length: {json_bytes}")
    assert np.array_equal(echoed(client.ask(request(ECHO, *headers, body=packed))), values)


@pytest.mark.parametrize("length", [100, 3000, 40_000], ids=["kept", "inline", "aside"])
@pytest.mark.parametrize(("coding", "inflate"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_answers_are_compressed_where_the_client_takes_it_and_it_pays(client, coding, inflate, length):
    values = rows(1, length // 4)
    answer = client.ask(in_binary("echo", values, f"Accept-Encoding: {coding}"))
    assert answer.headers.get("content-encoding") == (None if length == 100 else coding)
    plain = answer if length == 100 else answer._replace(body=inflate(answer.body))
    assert np.array_equal(echoed(plain), values)
    assert client.ask(LIVE).status == 200


def test_answers_compressed_aside_keep_their_order(client):
    requests = [in_binary("echo", rows(1, 20_000, start=at), "Accept-Encoding: gzip") for at in range(5)]
    client.send(b"".join(each + LIVE for each in requests))
    for at in range(5):
        answer = client.answer()
        assert echoed(answer._replace(body=gzip.decompress(answer.body)))[0, 0] == at
        assert client.answer().body == b""


def test_a_client_that_leaves_while_its_answer_is_compressed_harms_nobody(gateway):
    for _ in range(5):
        with Client(gateway) as client:
            client.send(in_binary("echo", rows(1, 200_000), "Accept-Encoding: gzip"))
            time.sleep(0.002)
    assert at_rest(gateway)


def test_a_request_behind_one_that_is_inflated_aside_waits_for_it(client):
    """It was served at once, in the other's place, since a body's receiver left the connection free."""
    body, json_bytes = binary_body(rows(250, 2000))
    packed = zlib.compress(body, 9)
    headers = ("Content-Encoding: deflate", f"Inference-Header-Content-Length: {json_bytes}")
    small = in_binary("echo", rows(1, 2), id="second")
    assert client.ask(small).status == 200  # So that its head is remembered.
    large = request(ECHO, *headers, body=packed)
    client.send(large[:1000])
    time.sleep(0.05)
    client.send(large[1000:])
    client.send(small)
    first, second = client.answer(), client.answer()
    assert first.json["outputs"][0]["shape"] == [250, 2000]
    assert second.json["id"] == "second"


def test_large_bodies_behind_each_other_are_never_mixed_up(gateway):
    sizes = [300_000, 5_000, 1_200_000, 300_000, 4100, 700_000, 1_200_000]
    for _ in range(2):
        with Client(gateway) as one, Client(gateway) as other:
            sent = [rows(1, size, start=at) for at, size in enumerate(sizes)]
            for values in sent:
                one.send(in_binary("echo", values))
                other.send(in_binary("echo", values + 1))
                assert np.array_equal(echoed(other.answer()), values + 1)
                assert np.array_equal(echoed(one.answer()), values)
    assert at_rest(gateway)


def test_large_bodies_may_be_pipelined(client):
    sent = [rows(1, size, start=size) for size in (500_000, 100, 500_000, 40_000)]
    data = b"".join(in_binary("echo", values) + LIVE for values in sent)
    client.socket.setblocking(False)
    for values in sent:
        answer, data = exchange_both_ways(client, data)
        assert np.array_equal(echoed(answer), values)
        answer, data = exchange_both_ways(client, data)
        assert answer.status == 200


def exchange_both_ways(client: Client, data: bytes) -> tuple[Answer, bytes]:
    """Send while reading one answer, as a client must who sends more than sockets hold."""
    until_s = time.monotonic() + 10
    while time.monotonic() < until_s:
        with contextlib.suppress(BlockingIOError):
            data = data[client.socket.send(data[: 1 << 18]) :] if data else data
        try:
            client.read += client.socket.recv(1 << 20)
        except BlockingIOError:
            time.sleep(0.001)
        head, found, rest = client.read.partition(b"\r\n\r\n")
        if found and len(rest) >= int(head.lower().split(b"content-length: ")[-1].split()[0]):
            return client.answer(), data
    raise TimeoutError


def test_a_raw_binary_request_is_all_tensor(client):
    values = rows(1, 16)
    answer = client.ask(
        request("POST /v2/models/mlp/infer", "Inference-Header-Content-Length: 0", body=values.tobytes())
    )
    assert answer.status == 200 and len(answer.raw) == 8


def test_a_request_for_a_plain_resource_may_have_a_body(client):
    for body in (b"x", b"x" * (GATHER_BYTES_MAX + 1), b"x" * 300_000):
        assert client.ask(request("GET /v2/health/live", body=body)).status == 200
    client.send(request("GET /v2", f"Content-Length: {300_000}"))
    time.sleep(0.02)
    assert client.ask(b"x" * 300_000).json["name"] == "turnout"


def test_a_head_that_is_remembered_serves_other_bodies(client):
    for at in range(5):
        values = rows(1, 4, start=at)
        assert np.array_equal(echoed(client.ask(in_binary("echo", values))), values)
    wrong = in_binary("echo", rows(1, 4)).replace(b"FP32", b"FP99")
    assert client.ask(wrong).status == 400
    assert np.array_equal(echoed(client.ask(in_binary("echo", rows(1, 4)))), rows(1, 4))


def test_an_id_in_the_header_is_the_answers_unless_the_request_has_its_own(client):
    assert client.ask(in_json("echo", rows(1, 1), "X-Request-Id: 9f3c")).json["id"] == "9f3c"
    assert client.ask(in_json("echo", rows(1, 1), "X-Request-Id: 9f3c", id="own")).json["id"] == "own"
    assert "id" not in client.ask(in_json("echo", rows(1, 1))).json


# --- Clients that leave.


def test_a_client_that_closes_its_half_is_answered_what_needs_no_waiting(client):
    client.send(LIVE + request("GET /v2/models/echo"))
    client.socket.shutdown(1)
    assert client.answer().status == 200
    assert client.answer().json["name"] == "echo"
    assert client.is_ended()


def spin_lane(gateway: Running):
    return gateway.gateway.shelf.loaded.servables["spin"]["1"].lane


@pytest.mark.parametrize("leave", ["close", "half", "reset"])
def test_work_that_nobody_waits_for_is_dropped(threaded, leave):
    lane = spin_lane(threaded)
    clients = [Client(threaded) for _ in range(5)]
    for client in clients:
        client.send(in_binary("spin", ENDLESS))
    assert eventually(lambda: len(lane) == 5)
    for client in clients:
        match leave:
            case "close":
                client.socket.close()
            case "half":
                client.socket.shutdown(1)
            case "reset":
                client.reset()
    assert eventually(lambda: len(lane) == 0), len(lane)
    for client in clients:
        client.socket.close()
    assert at_rest(threaded)
    with Client(threaded) as client:
        assert client.ask(in_json("spin", rows(1, 4))).status == 200


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize(
    "leave", [Client.reset, lambda client: client.socket.close()], ids=["reset", "close"]
)
def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_nothing_behind(gateway, leave, framing):
    for _ in range(3):
        client = Client(gateway)
        if framing == "length":
            client.send(request(ECHO, "Content-Length: 5000000") + b"x" * 100_000)
        else:
            client.send(chunked(ECHO, [b"x" * 100_000], end=b""))
        assert eventually(lambda: gateway.listener.bodies.bytes_now >= 100_000)
        leave(client)
        assert at_rest(gateway)


def test_a_large_body_that_waits_in_a_queue_counts_until_it_does_not(threaded):
    """It counted no longer when its client left, although the queue still held it: memory without a bound."""
    lane = spin_lane(threaded)
    with Client(threaded) as first, Client(threaded) as second:
        first.send(in_binary("spin", ENDLESS))
        assert eventually(lambda: len(lane) == 1)
        second.send(in_binary("spin", np.zeros((60, 4), np.float32), "X-Pad: " + "x" * 500))
        large = np.zeros((60_000, 4), np.float32)
        with Client(threaded) as third:
            third.send(in_binary("spin", large))
            assert eventually(lambda: len(lane) == 3)
            counted = threaded.listener.bodies.bytes_now
            assert counted > large.nbytes
        assert eventually(lambda: threaded.listener.connections == 2)
        time.sleep(0.05)
        held = lane.waiting and any(any(r.dropped for r in level) for level in lane.waiting._levels)
        assert threaded.listener.bodies.bytes_now == (counted if held else 0)
    assert eventually(lambda: len(lane) == 0)
    assert at_rest(threaded)


def test_a_connection_that_goes_on_keeps_nothing_of_a_body_that_failed(threaded):
    """The transport remembers its last buffered protocol, and so did it the body."""
    with Client(threaded) as client:
        endless = np.full((60_000, 4), 1e18, np.float32)
        assert client.ask(in_binary("spin", endless, "X-Request-Timeout-Seconds: 0.2")).status == 504
        assert (
            client.ask(in_binary("spin", rows(1, 4))).status == 200
        )  # The thread knows its last batch until then.
        gc.collect()
        assert eventually(lambda: threaded.listener.bodies.bytes_now == 0)


def test_an_answer_that_cannot_be_written_is_the_only_one_that_fails(gateway, monkeypatch):
    def broken(*_args: object) -> None:
        raise MemoryError

    monkeypatch.setattr("serving.connection.frame", broken)
    with Client(gateway) as client:
        answer = client.ask(in_json("echo", rows(1, 2)))
        assert answer.status == 500 and answer.error == "an internal error; it was logged"
        monkeypatch.undo()
        assert client.ask(in_json("echo", rows(1, 2))).status == 200


def test_json_that_cannot_be_an_answer_is_an_error_and_the_next_request_is_served(client):
    body, json_bytes = binary_body(np.array([[np.nan]], np.float32))
    parsed = json.loads(body[:json_bytes])
    text = json.dumps({"inputs": parsed["inputs"]}).encode()
    data = request(ECHO, f"Inference-Header-Content-Length: {len(text)}", body=text + body[json_bytes:])
    assert "NaN" in client.ask(data).error
    assert client.ask(LIVE).status == 200


def test_a_head_that_comes_in_two_reads_is_not_taken_for_the_one_before(client):
    """The buffer of the request before still held its head, and the rest was never looked at."""
    good = in_binary("echo", BIG)
    other = good.replace(b"/models/echo/", b"/models/nope/")
    for _ in range(3):
        assert client.ask(good).status == 200
    client.send(other[:8], pause_s=0.2)
    answer = client.send(other[8:]).answer()
    assert answer.status == 404 and "nope" in answer.error
    assert client.ask(good).status == 200


def test_every_large_request_that_asks_whether_to_go_on_is_told_so(client):
    """The second one was received in one piece with its head, and its client waited in vain."""
    whole = in_binary("echo", BIG, "Expect: 100-continue")
    end = whole.index(b"\r\n\r\n") + 4
    for _ in range(3):
        assert client.send(whole[:end]).answer().status == 100
        assert client.send(whole[end:]).answer().status == 200
