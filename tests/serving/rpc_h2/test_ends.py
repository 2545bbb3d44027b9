"""How do connections end on our own HTTP/2: drained, cut off, closed, and freed?"""

from __future__ import annotations

import gc
import os
import random
import socket
import ssl
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from serving.http2.errors import Code
from tests.e2e.test_tls import _certificate
from tests.serving.http2.calling import (
    INFER,
    LIVE,
    STREAM,
    WATCH,
    Caller,
    framed,
    question,
    said,
)
from tests.serving.rpc_h2.serving_h2 import LARGE, SLOW, X, serve
from tests.talking import eventually

# --- The end.


def test_a_drain_answers_what_is_under_way_and_says_goodbye(folder):
    with serve(folder) as running, Caller(running.grpc) as caller, Caller(running.grpc) as idle:
        assert idle.ask(LIVE, b"").status == 0
        id_ = caller.open(INFER)
        caller.send(id_, framed(question("spin", SLOW)))
        stream = caller.open(STREAM)
        caller.send(stream, framed(question("echo", X)), ended=False)
        watched = caller.open(WATCH)
        caller.send(watched, framed(b""), ended=False)
        assert eventually(lambda: len(running.gateway.find("spin").lane) == 1)
        draining = threading.Thread(target=running.drain)
        draining.start()
        idle.wait_closed()
        assert [each.error_code for each in idle.gone] == [Code.NO_ERROR] * 2
        assert caller.wait(id_).status == 0
        assert caller.wait(stream).status in (0, 14)
        assert len(caller.calls[stream].messages) == 1
        assert caller.wait(watched).status in (0, 14)
        caller.wait_closed()
        assert [each.last_stream_id for each in caller.gone] == [2**31 - 1, watched]
        draining.join(10)
        with pytest.raises(OSError):
            Caller(running.grpc)


# --- Hostile clients over a socket.


def test_what_clients_are_cut_off_for_is_counted_and_told(running):
    before = dict(running.rpc.faults)
    with Caller(running.grpc) as caller:
        caller.socket.sendall(
            b"\0\0\x08\x06\0\0\0\0\0" + bytes(8) + (b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)) * 2000
        )
        caller.wait_closed()
        assert caller.gone[-1].error_code == Code.ENHANCE_YOUR_CALM
        assert b"PING" in caller.gone[-1].additional_data
    with Caller(running.grpc) as caller:
        for _ in range(600):
            id_ = caller.open(LIVE)
            caller.h2.reset_stream(id_)
            try:
                caller.flush()
            except OSError:
                break
        caller.wait_closed()
    assert running.rpc.faults["ENHANCE_YOUR_CALM"] == before["ENHANCE_YOUR_CALM"] + 2


def test_garbage_harms_nobody_else(running, caller):
    rng = random.Random(7)
    host, port = running.grpc.rsplit(":", 1)
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    for number in range(60):
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall((greeting if number % 3 else b"") + rng.randbytes(rng.randrange(1, 3000)))
            if number % 2:
                client.shutdown(socket.SHUT_WR)
    assert np.array_equal(said(caller.ask(INFER, question("echo", X)).messages[0][1]), X)
    assert eventually(lambda: running.rpc.connections == 1)


def test_tls_without_http_2_is_refused(folder, tmp_path):
    certificate, key = _certificate(tmp_path)
    server = {"tls_certificate": str(certificate), "tls_key": str(key)}
    context = ssl.create_default_context(cafile=str(certificate))
    with serve(folder, server=server) as running:
        with Caller(running.grpc, tls=context) as caller:
            caller.wait_closed()
            assert caller.gone[-1].error_code == Code.INADEQUATE_SECURITY
        context.set_alpn_protocols(["h2"])
        with Caller(running.grpc, tls=context) as caller:
            assert np.array_equal(said(caller.ask(INFER, question("echo", LARGE)).messages[0][1]), LARGE)
        context.set_alpn_protocols(["http/1.1"])
        with Caller(running.grpc, tls=context) as caller:
            caller.wait_closed()


def test_a_connection_that_is_closed_is_freed_without_the_garbage_collector(running):
    caller = Caller(running.grpc)
    for path, message in (
        (LIVE, b""),
        (INFER, question("echo", X)),
        (INFER, b"?"),
        (STREAM, question("echo", X)),
    ):
        caller.ask(path, message)
    caller.open(INFER)
    caller.send(caller.open(STREAM), framed(question("echo", X)), ended=False)
    caller.send(caller.open(WATCH), framed(b""), ended=False)
    (known,) = [weakref.ref(each) for each in running.rpc._connections]
    gc.disable()
    try:
        caller.socket.close()
        assert eventually(lambda: known() is None)
    finally:
        gc.enable()


def test_an_idle_connection_costs_little_memory(running):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    host, port = running.grpc.rsplit(":", 1)
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    before, clients = resident(), []
    for _ in range(400):
        client = socket.create_connection((host, int(port)), timeout=5)
        client.sendall(greeting)
        clients.append(client)
    assert eventually(lambda: running.rpc.connections >= 400)
    grown = resident() - before
    for client in clients:
        client.close()
    assert grown / 400 < 32 * 1024
