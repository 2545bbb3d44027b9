"""Do clients that know nothing of V2 get through: curl, requests, urllib, http.client, in their own habits?"""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests

from tests.models import identity, place
from tests.running import Running

INFER = "/v2/models/echo/infer"
ROWS = np.arange(4 * 2000, dtype=np.float32).reshape(2000, 4)
curl_is_here = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("plain-clients")
    place(folder / "models", "echo", 1, identity("FP32", ["N", 4]))
    place(folder / "models", "flat", 1, identity("FP32", ["N"]))
    place(folder / "models", "words", 1, identity("BYTES", ["N"]))
    with Running(folder / "models", folder / "state") as running:
        yield running


def asked(rows: np.ndarray = ROWS) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
        ]
    }


def answered(document: dict[str, Any], rows: np.ndarray = ROWS) -> bool:
    (output,) = document["outputs"]
    return bool(output["shape"] == list(rows.shape) and output["data"] == rows.ravel().tolist())


# --- requests and urllib.


def test_requests_gets_its_gzip_without_asking_for_more(running):
    with requests.Session() as session:  # Its own Accept-Encoding is "gzip, deflate" and whatever it knows.
        for _ in range(3):
            got = session.post(f"http://{running.http}{INFER}", json=asked(), timeout=10)
            assert got.status_code == 200 and got.headers["content-encoding"] == "gzip"
            assert answered(got.json())
        small = session.post(f"http://{running.http}{INFER}", json=asked(ROWS[:1]), timeout=10)
        assert "content-encoding" not in small.headers and answered(small.json(), ROWS[:1])


def test_requests_sends_a_generator_in_chunks(running):
    body = json.dumps(asked()).encode()
    pieces = (body[at : at + 1000] for at in range(0, len(body), 1000))
    got = requests.post(f"http://{running.http}{INFER}", data=pieces, timeout=10)
    assert got.status_code == 200 and answered(got.json())


def test_requests_sends_gzip(running):
    body = gzip.compress(json.dumps(asked()).encode())
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "identity"}
    got = requests.post(f"http://{running.http}{INFER}", data=body, headers=headers, timeout=10)
    assert got.status_code == 200 and "content-encoding" not in got.headers and answered(got.json())


def test_an_error_is_a_document_with_one_field(running):
    for path, body, status in (
        ("/v2/models/nobody/infer", asked(), 404),
        (INFER, {"inputs": []}, 400),
        (INFER, asked(ROWS[:, :3]), 400),
        ("/v1/models/echo:predict", {}, 404),
    ):
        got = requests.post(f"http://{running.http}{path}", json=body, timeout=10)
        assert got.status_code == status, got.text
        assert got.headers["content-type"] == "application/json"
        assert list(got.json()) == ["error"] and got.json()["error"]


def test_a_method_that_is_not_there_says_which_are(running):
    got = requests.get(f"http://{running.http}{INFER}", timeout=10)
    assert got.status_code == 405 and got.headers["allow"] == "POST" and "POST" in got.json()["error"]
    assert requests.head(f"http://{running.http}/v2", timeout=10).status_code == 200
    assert requests.head(f"http://{running.http}/v2", timeout=10).content == b""


def test_urllib_reads_gzip_that_it_asked_for(running):
    request = urllib.request.Request(
        f"http://{running.http}{INFER}", json.dumps(asked()).encode(), {"Accept-Encoding": "gzip"}
    )
    with urllib.request.urlopen(request, timeout=10) as got:
        assert got.headers["Content-Encoding"] == "gzip"
        assert answered(json.loads(gzip.decompress(got.read())))


def test_urllib_raises_the_error_with_its_document(running):
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"http://{running.http}/v2/models/nobody", timeout=10)
    with raised.value as error:
        assert error.code == 404 and "nobody" in json.loads(error.read())["error"]


# --- Raw binary: the whole body is the one input.


def _raw(running: Running, model: str, body: bytes) -> tuple[int, bytes, bytes]:
    """Post raw bytes; return the status, the JSON part and the bytes behind it."""
    connection = http.client.HTTPConnection(running.http, timeout=10)
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    try:
        connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        got = connection.getresponse()
        everything = got.read()
        cut = int(got.headers.get("Inference-Header-Content-Length", len(everything)))
        return got.status, everything[:cut], everything[cut:]
    finally:
        connection.close()


def test_raw_binary_is_one_row_of_the_only_input(running):
    status, head, raw = _raw(running, "echo", ROWS[3].tobytes())
    assert status == 200 and raw == ROWS[3].tobytes()
    assert json.loads(head)["outputs"][0]["shape"] == [1, 4]


def test_raw_binary_of_a_string_is_the_string(running):
    status, head, raw = _raw(running, "words", "Zürich".encode())
    assert status == 200 and raw == len("Zürich".encode()).to_bytes(4, "little") + "Zürich".encode()
    assert json.loads(head)["outputs"][0]["shape"] == [1]


def test_raw_binary_of_a_wrong_size_says_the_right_one(running):
    status, head, _ = _raw(running, "echo", b"12345")
    assert status == 400 and "takes 16 bytes, got 5" in json.loads(head)["error"]


# --- curl.


def _curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["curl", "--silent", "--max-time", "20", *arguments], capture_output=True, timeout=30
    )


@curl_is_here
def test_curl_uploads_in_chunks(running, tmp_path):
    body = tmp_path / "body.json"
    body.write_text(json.dumps(asked()))
    got = _curl("-H", "Transfer-Encoding: chunked", "-d", f"@{body}", f"http://{running.http}{INFER}")
    assert got.returncode == 0 and answered(json.loads(got.stdout))


@curl_is_here
def test_curl_waits_for_100_continue_with_a_large_body_and_gets_it(running, tmp_path):
    rows = np.arange(4 * 60_000, dtype=np.float32).reshape(-1, 4)
    body = tmp_path / "body.json"
    body.write_text(json.dumps(asked(rows)))
    assert body.stat().st_size > 1 << 20
    # Without the interim answer curl would wait so long before it sends anything.
    got = _curl(
        "-v",
        "-H",
        "Expect: 100-continue",
        "--expect100-timeout",
        "15",
        "-d",
        f"@{body}",
        f"http://{running.http}{INFER}",
    )
    assert got.returncode == 0 and answered(json.loads(got.stdout), rows)
    assert b"HTTP/1.1 100 Continue" in got.stderr


@curl_is_here
def test_curl_is_spared_a_large_body_that_would_be_refused(running, tmp_path):
    body = tmp_path / "body.json"
    body.write_bytes(b" " * (2 << 20))
    arguments = ("-v", "-H", "Expect: 100-continue", "--expect100-timeout", "15", "-d", f"@{body}")
    got = _curl(*arguments, f"http://{running.http}/v2/models/nobody/nothing")
    assert b"100 Continue" not in got.stderr and b"no resource" in got.stdout


@curl_is_here
def test_curl_inflates_what_it_asked_to_be_compressed(running, tmp_path):
    body = tmp_path / "body.json"
    body.write_text(json.dumps(asked()))
    head = tmp_path / "head"
    got = _curl("--compressed", "-D", str(head), "-d", f"@{body}", f"http://{running.http}{INFER}")
    assert got.returncode == 0 and answered(json.loads(got.stdout))
    assert "content-encoding: gzip" in head.read_text().lower()


@curl_is_here
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_curl_sends_raw_binary_from_a_file(running, tmp_path, chunked):
    body, back = tmp_path / "body.bin", tmp_path / "back.bin"
    values = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)
    size = {"binary_data_size": values.nbytes}
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(values)], "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body.write_bytes(head + values.tobytes())
    more = ["-H", "Transfer-Encoding: chunked"] if chunked else []
    got = _curl(
        *more, "-H", f"Inference-Header-Content-Length: {len(head)}", "--data-binary", f"@{body}", "-o", str(back),
        f"http://{running.http}/v2/models/flat/infer",
    )  # fmt: skip
    assert got.returncode == 0 and back.read_bytes().endswith(values.tobytes())


@curl_is_here
def test_curl_keeps_one_connection_for_many_requests(running):
    urls = [f"http://{running.http}/v2/health/live"] * 5
    got = _curl("-w", "%{http_code} %{num_connects}\n", *urls)
    assert got.stdout.decode().split("\n")[:5] == ["200 1", "200 0", "200 0", "200 0", "200 0"]


def test_connections_that_their_clients_closed_are_forgotten(running):
    async def forgotten() -> int:
        for _ in range(50):
            if not running.listener.connections:
                break
            await asyncio.sleep(0.02)
        return int(running.listener.connections)

    assert running.do(forgotten()) == 0
