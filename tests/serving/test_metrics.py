"""Does a scrape show what was counted, under the names that people know, to whoever asks and however?"""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Thread

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser
from prometheus_client.openmetrics import parser as strict_parser

from kernels.histogram import MARKS_NS
from kernels.tally import AGREED, CLASSED, COUNTS
from serving import errors, family, listen_metrics, metrics
from serving.drift.reading import Drop as Uncounted
from serving.family import LABELS
from serving.keeper import Death
from serving.ledger import Cause, Ledger, Reason
from serving.metrics import FAMILIES, Kind, Reading, ServerReading, VersionReading
from serving.shadow.comparison import Drop, Output, Pair, ShadowReading

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
US = 1000
MS = 1_000_000


class FakeEngine:
    """Two versions of one model, of which the second has done nothing."""

    def __init__(self) -> None:
        self.ledgers = {("digits", "7"): Ledger(64), ("digits", "8"): Ledger(64)}
        self.reads = 0

    def read(self):
        self.reads += 1
        versions = {
            key: VersionReading(ledger.snapshot(), 5, 3, {"cpu": 4096}, 0.25)
            for key, ledger in self.ledgers.items()
        }
        return Reading(versions, ServerReading(2, 1000, {"too_large": 4, "made_up": 9}))

    def infer(self):
        """Two requests in one batch of 3 rows: the earlier one waited 2 ms, the later 50 µs, then 40 µs more."""
        taken = 10**15
        arrived = [taken - 2 * MS, taken - 50 * US]
        self.ledgers["digits", "7"].batch(arrived, taken, taken + 5 * US, taken + 35 * US, taken + 40 * US, 3)


@pytest.fixture
def engine():
    engine = FakeEngine()
    engine.infer()
    return engine


@pytest.fixture
def endpoint(engine):
    sock = socket.create_server(("127.0.0.1", 0))
    server = listen_metrics.serve(sock, metrics.registry(engine.read))
    yield sock.getsockname()
    server.close()


def get(address, path="/metrics", method="GET", headers=()):
    connection = HTTPConnection(*address, timeout=5)
    try:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def exposed(engine, accept=""):
    return listen_metrics.expose(metrics.registry(engine.read), accept)[0].decode()


def samples(text):
    """Return name and labels to value, as written on the wire."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines)}


SEVEN = '{model="digits",version="7"}'


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_triton_s_names_are_exactly_triton_s_in_either_format(engine, accept):
    got = samples(exposed(engine, accept))
    assert got["nv_inference_request_success" + SEVEN] == 2
    assert got["nv_inference_count" + SEVEN] == 3
    assert got["nv_inference_exec_count" + SEVEN] == 1
    assert got["nv_inference_request_duration_us" + SEVEN] == 2040 + 90
    assert got["nv_inference_queue_duration_us" + SEVEN] == 2050
    assert got["nv_inference_compute_input_duration_us" + SEVEN] == 10
    assert got["nv_inference_compute_infer_duration_us" + SEVEN] == 60
    assert got["nv_inference_compute_output_duration_us" + SEVEN] == 10
    assert got["nv_inference_pending_request_count" + SEVEN] == 5
    assert got["nv_model_load_duration_secs" + SEVEN] == 0.25
    assert not [name for name in got if name.startswith("nv_") and "_total" in name]


def test_triton_s_counters_are_counters_in_prometheus_own_format(engine):
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposed(engine), re.MULTILINE))
    for each in FAMILIES:
        assert types[each.name] == each.kind


def test_failures_and_rejections_are_shown_by_every_reason_of_the_closed_set(engine):
    engine.ledgers["digits", "7"].reject(Cause.TIMEOUT)
    got = samples(exposed(engine))
    for reason in Reason:
        key = f'nv_inference_request_failure{{model="digits",reason="{reason}",version="7"}}'
        assert got[key] == (reason is Reason.REJECTED)
    for cause in Cause:
        key = f'turnout_queue_rejected_total{{model="digits",reason="{cause}",version="7"}}'
        assert got[key] == (cause is Cause.TIMEOUT)


def test_buckets_hold_what_is_at_or_below_their_edge(engine):
    got = samples(exposed(engine))

    def bucket(name, edge):
        return got[f'{name}_bucket{{le="{edge}",model="digits",version="7"}}']

    queue = "nv_inference_queue_duration_histogram_us"
    assert [bucket(queue, edge) for edge in ("50.0", "1000.0", "2500.0", "+Inf")] == [1, 1, 2, 2]
    assert (got[f"{queue}_count{SEVEN}"], got[f"{queue}_sum{SEVEN}"]) == (2, 2050)
    request = "turnout_request_duration_seconds"
    assert [bucket(request, edge) for edge in ("5e-05", "0.0001", "0.001", "0.0025", "60.0")] == [
        0,
        1,
        1,
        2,
        2,
    ]
    assert got[f"{request}_sum{SEVEN}"] == pytest.approx(2130e-6)
    rows = "turnout_batch_rows"
    assert [bucket(rows, edge) for edge in ("2.0", "4.0", "4096.0", "+Inf")] == [0, 1, 1, 1]
    assert got[f"{rows}_sum{SEVEN}"] == 3


@given(st.lists(st.integers(0, 200 * 10**9), max_size=30))
def test_every_bucket_is_exact(waits_ns):
    engine = FakeEngine()
    engine.ledgers["digits", "8"].batch([10**15 - wait for wait in waits_ns], *([10**15] * 4), 1)
    got = samples(exposed(engine))
    edges = [
        got[
            f'nv_inference_queue_duration_histogram_us_bucket{{le="{family._edge(mark / 1000)}",model="digits",version="8"}}'
        ]
        for mark in MARKS_NS
    ]
    assert edges == [sum(wait <= mark for wait in waits_ns) for mark in MARKS_NS]


def test_a_version_that_did_nothing_shows_zeros(engine):
    got = samples(exposed(engine))
    assert got['nv_inference_request_success{model="digits",version="8"}'] == 0
    assert got['turnout_batch_rows_count{model="digits",version="8"}'] == 0


def test_the_servers_own_gauges_and_those_of_the_process_are_shown(engine):
    got = samples(exposed(engine))
    assert got["turnout_http_connections"] == 2
    assert got["turnout_http_bodies_bytes"] == 1000
    assert got['turnout_version_memory_bytes{device="cpu",model="digits",version="7"}'] == 4096
    assert got["turnout_queue_depth" + SEVEN] == 3
    assert got["process_resident_memory_bytes"] > 1 << 20
    assert got["process_open_fds"] > 2
    assert any(name.startswith("python_info{") for name in got)


def test_both_formats_are_well_formed(engine):
    plain = {family.name for family in parser.text_string_to_metric_families(exposed(engine))}
    strict = list(strict_parser.text_string_to_metric_families(exposed(engine, OPENMETRICS)))
    for each in FAMILIES:
        assert each.name.removesuffix("_total") in plain
        assert each.name.removesuffix("_total") in {family.name for family in strict}
    assert exposed(engine, OPENMETRICS).endswith("# EOF\n")


def test_http_rejections_are_counted_by_the_class_of_the_error_and_nothing_else(engine):
    reasons = re.findall(r'turnout_http_rejected_total{reason="(\w+)"}', exposed(engine))
    assert sorted(reasons) == sorted(set(metrics.REASONS.values()))
    assert {"too_large", "head_too_large", "invalid"} < set(reasons)
    assert "made_up" not in reasons
    assert samples(exposed(engine))['turnout_http_rejected_total{reason="too_large"}'] == 4


def test_an_error_of_any_class_has_a_reason():
    class Worse(errors.TooLarge):
        """A class that came later."""

    assert metrics.reason(errors.HeadTooLarge("")) == "head_too_large"
    assert metrics.reason(Worse("")) == "too_large"
    assert metrics.reason(errors.TurnoutError("")) == "failed"


def test_2000_unknown_models_leave_the_exposition_as_long_as_it_was(engine, endpoint):
    # A request for an unknown model reaches no ledger: all there is to count is the class of its error.
    rejections = dict.fromkeys(metrics.REASONS.values(), 0)

    def read():
        return Reading(engine.read().versions, ServerReading(rejections=rejections))

    before = samples(listen_metrics.expose(metrics.registry(read))[0].decode())
    for index in range(2000):
        rejections[metrics.reason(errors.Unknown(f"no model 'made-up-{index}'"))] += 1
    after = samples(listen_metrics.expose(metrics.registry(read))[0].decode())
    assert before.keys() == after.keys()
    assert after['turnout_http_rejected_total{reason="unknown"}'] == 2000
    for index in range(20):
        assert get(endpoint, f"/metrics/made-up-{index}?model=made-up-{index}")[0] == 404
    assert b"made-up" not in get(endpoint, "/metrics?model=made-up-1")[2]


def test_a_label_cannot_break_out_of_its_line(engine):
    engine.ledgers['a"} 1\nnv_fake 7', "1"] = Ledger()
    assert not re.search(r"^nv_fake", exposed(engine), re.MULTILINE)


def test_readings_of_replicas_add_up_and_survive_json(engine):
    one = engine.read()
    two = one + Reading.from_json(orjson.loads(orjson.dumps(one.to_json())))
    seven = two.versions["digits", "7"]
    assert (seven.counts.requests, seven.pending_requests, seven.queue_requests) == (4, 10, 6)
    assert (seven.memory_bytes, seven.load_s) == ({"cpu": 8192}, 0.25)
    assert two.server == ServerReading(4, 2000, {"too_large": 8, "made_up": 18})
    alone = Reading({("wine", "1"): VersionReading()})
    assert (one + alone).versions.keys() == {("digits", "7"), ("digits", "8"), ("wine", "1")}


def test_a_shadow_is_shown_against_each_version_that_answered():
    counts = [0] * COUNTS
    counts[CLASSED], counts[AGREED] = 4, 3
    pair = Pair(4, {"full": 2}, {"y": Output(tuple(counts))})
    reading = Reading(shadows={("digits", "9"): ShadowReading({"7": pair}, {Death.HUNG: 1}, 1)})
    got = samples(listen_metrics.expose(metrics.registry(lambda: reading), "")[0].decode())
    nine = 'model="digits",primary="7"'
    assert got[f'turnout_shadow_rows_total{{{nine},version="9"}}'] == 4
    assert got[f'turnout_shadow_dropped_total{{{nine},reason="full",version="9"}}'] == 2
    assert got['turnout_shadow_disagreement_ratio{model="digits",output="y",primary="7",version="9"}'] == 0.25
    assert got['turnout_shadow_restarts_total{model="digits",reason="hung",version="9"}'] == 1
    assert got['turnout_shadow_running{model="digits",version="9"}'] == 1
    assert not [name for name in got if "difference" in name]  # Labels have none, which is not zero.


def test_names_are_unique_and_follow_prometheus():
    names = [each.name for each in FAMILIES]
    assert len(set(names)) == len(names)
    for each in FAMILIES:
        assert re.fullmatch(r"(nv|turnout)_[a-z_]+", each.name)
        assert each.help.endswith(".")
        if each.name.startswith("turnout_"):
            assert each.name.endswith("_total") == (each.kind is Kind.COUNTER)
        assert each.labels in {*LABELS.values()}


def test_every_metric_and_no_other_is_documented():
    page = (Path(__file__).parents[2] / "docs/reference/metrics.md").read_text()
    documented = re.findall(r"^\| `((?:nv|turnout)_\w+)", page, re.MULTILINE)
    assert sorted(documented) == sorted(each.name for each in FAMILIES)
    for each in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in (*each.labels, *filter(None, [each.over]))) or "–"
        assert re.search(rf"^\| `{each.name}` \| {each.kind} \| {labels} \|", page, re.MULTILINE), each.name
    for value in (*Reason, *Cause, *Drop, *Uncounted, *Death, *metrics.REASONS.values()):
        assert f"`{value}`" in page, value


def test_the_endpoint_answers_scrapers_of_all_kinds(endpoint):
    status, headers, body = get(endpoint)
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
    assert b"\nnv_inference_request_success" in body
    status, headers, zipped = get(endpoint, headers={"accept": OPENMETRICS, "accept-encoding": "gzip"})
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(zipped).endswith(b"# EOF\n")
    status, headers, empty = get(endpoint, method="HEAD")
    assert (status, empty) == (200, b"")
    assert int(headers["content-length"]) > 1000
    assert "ython" not in headers["Server"]


def test_other_paths_and_methods_get_the_one_shape_of_error(endpoint):
    status, _, body = get(endpoint, "/nothing")
    assert (status, json.loads(body)) == (404, {"error": "nothing is here; the metrics are at /metrics"})
    status, headers, body = get(endpoint, method="POST")
    assert (status, headers["allow"], json.loads(body)) == (405, "GET, HEAD", {"error": "use GET or HEAD"})
    status, _, body = get(endpoint, "/")
    assert (status, b"/metrics" in body) == (200, True)
    with socket.create_connection(endpoint, 5) as raw:
        raw.sendall(b'nonsense "\xff\r\n\r\n')
        answer = raw.makefile("rb").read()
    assert set(json.loads(answer.rpartition(b"\r\n")[2])) == {"error"}


def test_a_reading_that_fails_is_a_500_and_says_nothing_of_why(caplog):
    def read():
        raise RuntimeError("a secret")

    sock = socket.create_server(("127.0.0.1", 0))
    failing = [True]
    server = listen_metrics.serve(sock, metrics.registry(lambda: read() if failing else Reading()))
    try:
        status, _, body = get(sock.getsockname())
        assert (status, json.loads(body)) == (500, {"error": "the metrics could not be collected"})
        assert "a secret" in caplog.text
        failing.clear()
        assert get(sock.getsockname())[0] == 200
    finally:
        server.close()


def test_scrapes_beyond_the_bound_are_turned_away_and_slow_ones_cut_off(endpoint, monkeypatch):
    monkeypatch.setattr(listen_metrics, "SCRAPE_S_MAX", 1.0)
    idle = [socket.create_connection(endpoint, 5) for _ in range(listen_metrics.CONNECTIONS_MAX)]
    try:
        time.sleep(0.2)
        with socket.create_connection(endpoint, 5) as more:
            assert more.makefile("rb").read().startswith(b"HTTP/1.0 503 ")
        for _ in range(8):  # One byte at a time never falls silent.
            time.sleep(0.2)
            for each in idle:
                try:
                    each.sendall(b"G")
                except OSError:
                    continue
        assert get(endpoint)[0] == 200
    finally:
        for each in idle:
            each.close()


def test_a_socket_that_others_hold_too_outlives_the_server(engine):
    ours = socket.create_server(("127.0.0.1", 0))
    theirs = ours.dup()
    first = listen_metrics.serve(ours, metrics.registry(engine.read))
    second = listen_metrics.serve(theirs, metrics.registry(engine.read))
    assert not ours.getblocking()  # Who loses the race for a connection must not wait for the next one.
    for _ in range(20):
        assert get(theirs.getsockname())[0] == 200
    first.close()
    first.close()
    for _ in range(5):
        assert get(theirs.getsockname())[0] == 200
    address = theirs.getsockname()
    second.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 1)


def test_closing_waits_for_the_scrape_that_is_being_answered(engine):
    begun, go_on, got = Event(), Event(), []

    def read():
        if go_on.is_set() or begun.is_set():
            return engine.read()
        begun.set()
        go_on.wait(5)
        return engine.read()

    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    server = listen_metrics.serve(sock, metrics.registry(read))
    scraper = Thread(target=lambda: got.append(get(address)[0]))
    scraper.start()
    assert begun.wait(5)
    closer = Thread(target=server.close)
    closer.start()
    closer.join(2 * listen_metrics.POLL_S)
    assert closer.is_alive()
    go_on.set()
    closer.join(5)
    scraper.join(5)
    assert got == [200]


def test_ipv6_is_served_too(engine):
    try:
        sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    server = listen_metrics.serve(sock, metrics.registry(engine.read))
    try:
        assert get(sock.getsockname()[:2])[0] == 200
    finally:
        server.close()
