"""`turnout bench` asks a real gateway, tells what came of it, and its exit code is a verdict."""

from __future__ import annotations

import argparse
import json
import threading
import time

import numpy as np
import pytest

from serving import cli_bench
from serving.bench.load import Load
from serving.bench.shown import second
from serving.bench.tally import Recent
from serving.mistake import Mistake
from tests.e2e.test_tls import _certificate
from tests.models import constant, identity, mlp, place
from tests.running import Running
from tests.stage import staged
from tests.talking import eventually

ALL = "version_policy { all { } }"
FAST = ("--rate", "200/s", "--seconds", "0.5", "--warm", "0")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benched")
    place(folder / "models", "small", 1, mlp(), ALL)
    place(folder / "models", "small", 2, mlp(1))
    place(folder / "models", "fixed", 1, mlp(batch=3))
    place(folder / "models", "wide", 1, identity("FP32", ("N", "M")))
    place(folder / "models", "words", 1, identity("BYTES", ("N", 2)))
    place(folder / "models", "numbers", 1, identity("INT16", ("N", 2)))
    with Running(folder / "models", folder / "state") as running:
        yield running


def read(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser("turnout")
    verbs = parser.add_subparsers(required=True)

    def add(name, answer, purpose):
        verb = verbs.add_parser(name, help=purpose)
        verb.set_defaults(answer=answer)
        return verb

    cli_bench.add_bench(add)
    return parser.parse_args(["bench", *words])


@pytest.fixture
def bench(gateway, capsys):
    """Run the verb; return its exit code and what it said."""

    def run(*words: str) -> tuple[int, str]:
        where = () if "--url" in words else ("--http", gateway.http)
        arguments = read(*words, *where)
        return arguments.answer(arguments), capsys.readouterr().out

    return run


def said(answer: tuple[int, str]) -> dict:
    return json.loads(answer[1])


@pytest.mark.parametrize("encoding", ["binary", "json"])
@pytest.mark.parametrize("model", ["small", "fixed", "words", "numbers"])
def test_a_gateway_answers_what_is_made_of_its_own_metadata(bench, model, encoding):
    found = said(bench(model, *FAST, "--encoding", encoding, "--arrivals", "constant", "--json"))
    assert found["outcomes"] == {"200": 100}
    assert found["latency"]["count"] == found["service"]["count"] == 100
    assert found["latency"]["p50_ms"] >= found["service"]["p50_ms"] * 0.9 > 0


def test_a_version_is_asked_alone_and_told_by_the_answers(bench):
    assert list(said(bench("small@1", *FAST, "--json"))["versions"]) == ["1"]
    assert list(said(bench("small", *FAST, "--json"))["versions"]) == ["2"]


@pytest.mark.parametrize("model", ["small", "fixed", "words", "numbers"])
def test_a_gateway_answers_over_grpc_what_is_made_of_its_own_metadata(bench, gateway, model):
    url = f"grpc://{gateway.grpc}"
    found = said(bench(model, *FAST, "--url", url, "--arrivals", "constant", "--streams", "4", "--json"))
    assert found["outcomes"] == {"OK": 100} and found["protocol"] == "grpc"
    assert found["latency"]["count"] == found["service"]["count"] == 100


def test_a_version_is_asked_alone_over_grpc_and_told_by_the_answers(bench, gateway):
    url = f"grpc://{gateway.grpc}"
    assert list(said(bench("small@1", *FAST, "--url", url, "--json"))["versions"]) == ["1"]
    code, page = bench("small", *FAST, "--url", url)
    assert code == 0 and page.startswith(f"small at {url}: ") and "versions  2 " in page


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A gateway over TLS, and the file that its certificate is in."""
    folder = tmp_path_factory.mktemp("sealed")
    place(folder / "models", "small", 1, mlp())
    certificate, key = _certificate(folder)
    server = {"tls_certificate": str(certificate), "tls_key": str(key)}
    with Running(folder / "models", folder / "state", {"server": server}) as running:
        yield running, certificate


@pytest.mark.parametrize(("scheme", "good"), [("https", "200"), ("grpcs", "OK")])
def test_over_tls_a_gateway_is_believed_by_its_certificate(bench, sealed, scheme, good):
    running, certificate = sealed
    at = running.http if scheme == "https" else running.grpc
    words = ("small", *FAST, "--arrivals", "constant", "--json", "--url", f"{scheme}://{at}")
    trusting = said(bench(*words, "--ca", str(certificate)))
    assert trusting["outcomes"] == {good: 100} and trusting["protocol"] == scheme
    assert said(bench(*words, "--insecure"))["outcomes"] == {good: 100}
    with pytest.raises(Mistake, match="certificate verify failed"):
        bench(*words)


def test_a_certificate_for_another_name_is_not_believed(bench, sealed):
    running, certificate = sealed
    port = running.http.rsplit(":", 1)[1]
    with pytest.raises(Mistake, match="[Hh]ostname mismatch"):
        bench("small", "--url", f"https://localhost:{port}", "--ca", str(certificate))


def test_who_asks_without_tls_where_it_is_spoken_hears_of_it(bench, sealed):
    running, _ = sealed
    with pytest.raises(Mistake, match="no gateway answers at"):
        bench("small", "--url", f"grpc://{running.grpc}")


def test_the_configuration_says_whom_to_ask(tmp_path):
    (tmp_path / "turnout.toml").write_text('[server]\nhttp = "127.0.0.1:1"\ngrpc = "127.0.0.1:2"\n')
    for protocol, port in (("http", 1), ("grpc", 2)):
        arguments = read("small", "--config", str(tmp_path / "turnout.toml"), "--protocol", protocol)
        with pytest.raises(Mistake, match=f"no gateway answers at 127.0.0.1:{port}"):
            arguments.answer(arguments)


def test_people_read_a_page(bench):
    code, page = bench("small", *FAST, "--requests", "40", "--arrivals", "constant", "--rows", "3")
    assert code == 0
    assert "40 requests, constant at 200/s for 0.5 s" in page
    assert "since due" in page and "outcomes  200 40 (100%)" in page and "versions  2 40 (100%)" in page


def test_the_most_that_it_takes_is_asked_with_max(bench):
    found = said(
        bench("small", "--rate", "max", "--seconds", "0.5", "--warm", "0", "--json", "--connections", "2")
    )
    assert found["arrivals"] == "closed" and found["count"] > 50 and found["errors"] == 0


@pytest.mark.parametrize(("promise", "code"), [("p99=10s,errors=0%", 0), ("p50=1us", 1)])
def test_the_exit_code_is_the_verdict(bench, promise, code):
    answer = bench("small", *FAST, "--slo", promise, "--json")
    assert (answer[0], said(answer)["ok"]) == (code, code == 0)
    assert [each["promise"] for each in said(answer)["broken"]] == ([promise] if code else [])


def test_a_search_names_a_rate_that_keeps_the_promise(bench):
    words = ("--rate", "50", "--seconds", "0.2", "--warm", "0", "--timeout", "0.5", "--within", "4", "--json")
    found = said(bench("small", "--search", "p50=10s,errors=1%", *words))
    assert found["rate_per_s"] >= 50 and found["trials"][0]["kept"]
    assert found["cut"] == (not found["ok"])
    code, page = bench("small", "--search", "p50=1us", *words[:-1])
    assert code == 1 and "no rate that was tried keeps the promises" in page


def test_rows_come_from_a_file(bench, tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).random((30, 7), np.float32))
    assert said(bench("wide", *FAST, "--from", str(tmp_path / "rows.npz"), "--json"))["errors"] == 0
    (tmp_path / "few.csv").write_text("a,b\n1,2\n")
    with pytest.raises(Mistake, match="fewer rows than --rows"):
        bench("numbers", *FAST, "--from", str(tmp_path / "few.csv"), "--rows", "2")


def test_callers_and_headers_are_sent(gateway):
    arguments = read("small", "--callers", "x-user-id=3", "--header", "x-a: b", "--http", gateway.http)
    questions = cli_bench.planned(arguments).questions
    assert all(b"\r\nx-a: b\r\n" in each.content for each in questions)
    assert {bytes(each.content.split(b"x-user-id: ")[1][:14]) for each in questions} == {
        b"caller-%07d" % number for number in range(3)
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nosuch",), "no model 'nosuch'"),
        (("small@9",), "9"),
        (("sm all",), "names no model"),
        (("wide",), "--from FILE.npz"),
        (("fixed", "--rows", "2"), "--rows has to be 1"),
        (("small", "--from", "nowhere.npz"), "nowhere.npz"),
        (("small", "--slo", "p99"), "is no promise"),
        (("small", "--search", "p99=5ms", "--rate", "max"), "begins at a rate"),
        (("small", "--protocol", "grpc"), "--url grpc://ADDRESS:PORT"),
        (("small", "--url", "grpc://127.0.0.1:1", "--protocol", "http"), "contradicts --url"),
        (("small", "--url", "127.0.0.1:8000"), "is no URL of a gateway"),
        (("small", "--url", "http://127.0.0.1:99999"), "is no URL of a gateway"),
        (("small", "--url", "http://127.0.0.1:1", "--insecure"), "are about TLS"),
        (("small", "--url", "https://127.0.0.1:1", "--ca", "nowhere.pem"), "--ca nowhere.pem: "),
        (("small", "--url", "http://a..b:1"), "a..b: "),
        (("small", "--url", "grpc://127.0.0.1:1"), "no gateway answers at 127.0.0.1:1: .*refused"),
    ],
)
def test_a_mistake_is_said_in_words(bench, words, message):
    with pytest.raises(Mistake, match=message):
        bench(*words)


def test_a_second_is_told_on_one_line():
    recent = Recent(count=1200, errors=3)
    recent.latency.record(2_000_000, 1200)
    recent.versions.update({"7": 900, "8": 297, "": 0})
    line = "   3 s  1,200 done  p50 2 ms  p99 2 ms  errors 3  7 900 (75.19%)  8 297 (24.81%)"
    assert second(3, recent) == line
    assert second(4, Recent()) == "   4 s  0 done  p50 - ms  p99 - ms  errors 0"


def test_nobody_there_is_said_in_words():
    arguments = read("small", "--http", "127.0.0.1:1")
    with pytest.raises(Mistake, match="no gateway answers at 127.0.0.1:1"):
        arguments.answer(arguments)


IMPOSSIBLE = (
    *(("--rate", rate) for rate in ("0", "fast", "nan", "2e6")),
    *(("--seconds", seconds) for seconds in ("0", "nan", "9999")),
    *(("--header", header) for header in ("no", "a: b\r\nc: d")),
    *(("--callers", callers) for callers in ("x-user-id", "x=99999")),
    ("--connections", "0"),
    ("--slo", "p99=1s", "--search", "p99=1s"),
)


@pytest.mark.parametrize("words", IMPOSSIBLE)
def test_an_option_that_cannot_be_is_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        read("small", *words)
    assert ended.value.code == 2 and "error:" in capsys.readouterr().err


def test_no_answer_is_stale_after_a_confirmed_change_and_a_change_that_was_not_made_is_missed(tmp_path):
    for version in (1, 2):
        place(tmp_path / "models", "m", version, constant(version))
    (tmp_path / "models" / "m" / "config.pbtxt").write_text(ALL)
    with staged(tmp_path, tmp_path / "models", 1) as stage:
        first = stage.change("m", "split", weights={"1": "100%"})["revision"]
        words = ("--rate", "300", "--seconds", "60", "--warm", "0", "--http", stage.http)
        load = Load(cli_bench.planned(read("m", *words)))
        thread = threading.Thread(target=load.run)
        thread.start()

        def asks_on() -> bool:
            before = load.asked
            return eventually(lambda: load.asked > before + 100)

        assert asks_on()
        second = stage.change("m", "split", weights={"2": "100%"})["revision"]
        load.tally.changed(time.perf_counter_ns(), "m", second)
        assert asks_on()
        load.tally.changed(time.perf_counter_ns(), "m", second + 1, "only said")
        assert asks_on()
        load.stop()
        thread.join(30)
    assert second > first
    totals = {version: total for (_, version), total in load.tally.totals.items()}
    assert totals["1"].count > 50 and totals["1"].stale == 0 == load.tally.whole().errors
    assert 20 < totals["2"].stale < totals["2"].count
