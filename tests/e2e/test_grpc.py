"""Do gRPC's own clients get what V2 promises: tritonclient sync, async, aio and streaming, and plain stubs?"""

from __future__ import annotations

import asyncio
import queue
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Self

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc import service_pb2 as v2
from tritonclient.utils import InferenceServerException

from serving.errors import HTTP_STATUS
from serving.rpc.messages import SERVICES
from serving.rpc.status import GRPC_STATUS
from serving.rpc.stream_infer import TURNS_MAX
from tests.e2e import asking
from tests.e2e.asking import same
from tests.e2e.talking_rpc import ENGINES, ask, given, message, stub, wanted
from tests.models import constant, identity, mlp, place, spinning
from tests.running import Running

X: NDArray[np.float32] = np.arange(8, dtype=np.float32).reshape(2, 4)
ROUNDS = 30_000
"""Rounds of `spinning` for some 30 ms."""
SPIN: NDArray[np.float32] = np.full((1, 4), ROUNDS, np.float32)
SLOW: NDArray[np.float32] = np.full((1, 4), 100 * ROUNDS, np.float32)


@pytest.fixture(scope="module", params=ENGINES)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("grpc")
    models = folder / "models"
    place(models, "fraud", 7, constant(7), "version_policy { all {} }")
    place(models, "fraud", 8, constant(8))
    place(models, "mlp", 1, mlp())
    place(models, "slow", 1, spinning())
    place(models, "words", 1, identity("BYTES", ["N"]))
    place(models, "echo", 1, identity("FP32", ["N", "M"]))
    place(models, "broken", 1, mlp())
    (models / "broken" / "1" / "model.onnx").write_bytes(b"no model at all")
    settings = {
        "grpc": {"engine": request.param},
        "engine": {"inline_us_max": 0},
        "limits": {"body_bytes_max": 8 << 20, "answer_bytes_max": 6 << 20},
    }
    with Running(models, folder / "state", settings) as running:
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(running.grpc) as client:
        yield client


def _code(error: InferenceServerException) -> str:
    return str(error.status()).removeprefix("StatusCode.")


# --- Everything but inference.


def test_health_and_metadata_are_those_of_http(client, running):
    with tritonclient.http.InferenceServerClient(running.http) as http:
        assert client.is_server_live() and client.is_server_ready()
        said = client.get_server_metadata(as_json=True)
        assert said == http.get_server_metadata()
        shown = http.get_model_metadata("fraud")
        assert client.get_model_metadata("fraud", as_json=True) == {
            **shown,
            **{
                side: [{**each, "shape": [str(size) for size in each["shape"]]} for each in shown[side]]
                for side in ("inputs", "outputs")
            },
        }
        got = client.get_model_repository_index()
        assert [
            {"name": each.name, "version": each.version, "state": each.state, "reason": each.reason}
            for each in got.models
        ] == http.get_model_repository_index()
        config = client.get_model_config("fraud").config
        assert (config.name, config.platform) == ("fraud", "onnxruntime_onnx")
        assert list(config.input[0].dims) == http.get_model_config("fraud")["input"][0]["dims"]


def test_a_model_is_ready_if_it_can_be_served_and_no_error_if_it_cannot(client):
    assert client.is_model_ready("fraud") and client.is_model_ready("fraud", "7")
    for model, version in (("fraud", "9"), ("nobody", ""), ("broken", ""), ("../x", ""), ("fraud", "latest")):
        assert not client.is_model_ready(model, version)


def test_what_is_not_offered_is_refused_as_over_http(client):
    for refused in (
        client.get_trace_settings,
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        lambda: client.register_system_shared_memory("r", "/x", 8),
        client.unregister_cuda_shared_memory,
    ):
        with pytest.raises(InferenceServerException, match="does not offer") as raised:
            refused()
        assert _code(raised.value) == "UNIMPLEMENTED"
    for refused in (lambda: client.load_model("mlp"), lambda: client.unload_model("mlp")):
        with pytest.raises(InferenceServerException, match="for the operator alone") as raised:
            refused()
        assert _code(raised.value) == "UNAUTHENTICATED"


def test_there_is_no_rpc_but_those_that_there_are(running):
    with grpc.insecure_channel(running.grpc) as channel:
        for path in ("/inference.GRPCInferenceService/Nothing", "/no.Service/ModelInfer"):
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(path)(b"", timeout=10)
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_client_that_speaks_something_else_is_counted(running):
    if running.config.grpc.engine != "h2":
        pytest.skip("grpcio does not tell")
    before = faults(running)["protocol_error"]
    host, _, port = running.grpc.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while client.recv(4096):
            pass
    after = faults(running)
    assert after["protocol_error"] == before + 1
    assert {"enhance_your_calm", "refused_stream"} < after.keys()


def faults(running: Running) -> dict[str, int]:
    """Return what the metrics say of HTTP/2's faults, by their code."""
    with urllib.request.urlopen(f"http://{running.metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    told = re.findall(r'^turnout_grpc_faults_total{reason="(\w+)"} (\S+)$', text, re.MULTILINE)
    return {name: int(float(count)) for name, count in told}


def test_a_message_that_is_none_is_the_client_s_fault(running):
    with grpc.insecure_channel(running.grpc) as channel:
        for rpc in ("ModelInfer", "ModelMetadata", "ModelReady"):
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(f"/inference.GRPCInferenceService/{rpc}")(b"\xff\xff", timeout=10)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert f"the message is no {rpc}Request" in raised.value.details()


# --- Inference.


@pytest.mark.parametrize("id_", ["", "7", 'π/ü \\ "quoted"', "x" * 500])
def test_the_answer_says_who_answered_what_and_why(client, id_):
    for version, answers in (("", "8"), ("7", "7"), ("8", "8")):
        said = ask(client, "fraud", {"x": X}, "y", model_version=version, request_id=id_)
        response = said.get_response()
        assert (response.model_name, response.model_version, response.id) == ("fraud", answers, id_)
        reason = "named" if version else "default"
        assert response.parameters["turnout_route"].string_param == f"{answers};0;{reason}"
        assert same(said.as_numpy("y"), np.full((2, 4), float(answers), np.float32))


def test_the_route_is_in_the_trailing_metadata(running):
    with stub(running.grpc) as v2_stub:
        _, call = v2_stub.ModelInfer.with_call(message("fraud", {"x": X}))
        assert dict(call.trailing_metadata())["turnout-route"] == "8;0;default"


def test_typed_contents_are_answered_like_raw_ones(running, client):
    with stub(running.grpc) as v2_stub:
        got = v2_stub.ModelInfer(message("fraud", {"x": X}, id="a"))
    assert got == ask(client, "fraud", {"x": X}, request_id="a").get_response()


def test_a_version_may_be_named_by_metadata_and_by_parameters(running, client):
    for more in (
        {"headers": {"x-turnout-version": "7"}},
        {"parameters": {"turnout_version": "7"}},
    ):
        assert ask(client, "fraud", {"x": X}, **more).get_response().model_version == "7"
    said = ask(client, "fraud", {"x": X}, headers={"x-request-id": "17"}).get_response()
    assert said.id == "17"
    for headers, says in (
        ({"x-turnout-alias": "nobody"}, "no alias 'nobody'"),
        ({"x-turnout-alias": "a", "x-turnout-version": "1"}, "both x-turnout-version and x-turnout-alias"),
        ({"x-turnout-version": "x"}, "x-turnout-version header is malformed"),
    ):
        with pytest.raises(InferenceServerException, match=says):
            ask(client, "fraud", {"x": X}, headers=headers)


def test_many_requests_at_once_are_not_mixed_up(client):
    answers: queue.Queue[Any] = queue.Queue()
    for n in range(64):
        client.async_infer(
            "echo", given({"x": X + n}), lambda result, error: answers.put((result, error)), request_id=str(n)
        )
    for _ in range(64):
        result, error = answers.get(timeout=30)
        assert error is None
        assert same(result.as_numpy("y"), X + int(result.get_response().id))


def test_aio_gets_the_same_answers(running):
    async def talk() -> None:
        async with tritonclient.grpc.aio.InferenceServerClient(running.grpc) as client:
            assert await client.is_server_ready() and await client.is_model_ready("fraud", "7")
            results = await asyncio.gather(
                *[client.infer("echo", given({"x": X + n}), request_id=str(n)) for n in range(32)]
            )
            for n, result in enumerate(results):
                assert result.get_response().id == str(n)
                assert same(result.as_numpy("y"), X + n)
            with pytest.raises(InferenceServerException, match="nobody"):
                await client.infer("nobody", given({"x": X}))

    asyncio.run(talk())


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_request_means_the_same(client, coding):
    rows = np.arange(4 * 5000, dtype=np.float32).reshape(5000, 4)
    for x in (X, rows):
        assert same(ask(client, "echo", {"x": x}, compression_algorithm=coding).as_numpy("y"), x)


def _refused(ask_it: Callable[[], Any]) -> InferenceServerException:
    with pytest.raises(InferenceServerException) as raised:
        ask_it()
    return raised.value


WRONG: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "no such model": ({"model_name": "nobody"}, None, None),
    "no such version": ({"model_version": "9"}, None, None),
    "no such version spelling": ({"model_version": "latest"}, None, None),
    "a broken model": ({"model_name": "broken"}, None, None),
    "a wrong datatype": ({}, {"x": X.astype(np.float64)}, None),
    "a wrong shape": ({}, {"x": X[:, :3]}, None),
    "a wrong rank": ({}, {"x": X[0]}, None),
    "an unknown input": ({}, {"x": X, "z": X}, None),
    "no inputs": ({}, {}, None),
    "an unknown output": ({}, None, ["z"]),
    "a sequence": ({"sequence_id": 5, "sequence_start": True}, None, None),
    "not UTF-8": ({"model_name": "words"}, {"x": np.array([b"\xff\xfe"], object)}, None),
    "a reserved parameter": ({"parameters": {"turnout_version": "1", "turnout_alias": "a"}}, None, None),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_request_hears_of_it_in_the_words_of_http_and_the_next_is_answered(client, running, what):
    about, arrays, outputs = WRONG[what]
    arrays = {"x": X} if arrays is None else arrays
    rest = {"model_name": "fraud", **about}
    there = {"inputs": asking.given(arrays), "outputs": asking.wanted(*outputs) if outputs else None}
    with tritonclient.http.InferenceServerClient(running.http) as http:
        over_http = _refused(lambda: http.infer(**there, **rest))
    here = {"inputs": given(arrays), "outputs": wanted(*outputs) if outputs else None}
    refused = _refused(lambda: client.infer(**here, **rest))
    # The place in the request may have another name, but what is said of it is the same.
    assert refused.message().split(" - at ")[0] == over_http.message().split(" - at ")[0]
    (error,) = [each for each, (status, _) in HTTP_STATUS.items() if str(status) == over_http.status()]
    assert _code(refused) == GRPC_STATUS[error][1]
    assert same(ask(client, "fraud", {"x": X}).as_numpy("y"), np.full((2, 4), 8, np.float32))


def test_shared_memory_is_refused_as_over_http(client):
    shared = given({"x": X})[0]
    shared.set_shared_memory("region", 32)
    with pytest.raises(InferenceServerException, match="shared memory is not offered") as raised:
        client.infer("fraud", [shared])
    assert _code(raised.value) == "UNIMPLEMENTED"


def test_messages_beyond_the_limit_are_refused_and_the_connection_goes_on(client):
    with pytest.raises(InferenceServerException) as raised:
        ask(client, "echo", {"x": np.zeros((9, 1 << 18), np.float32)})
    assert _code(raised.value) == "RESOURCE_EXHAUSTED"
    with pytest.raises(InferenceServerException, match="limits.answer_bytes_max") as raised:
        ask(client, "echo", {"x": np.zeros((7, 1 << 18), np.float32)})
    assert _code(raised.value) == "RESOURCE_EXHAUSTED"
    fits = np.zeros((5, 1 << 18), np.float32)
    assert same(ask(client, "echo", {"x": fits}).as_numpy("y"), fits)


def test_a_compressed_message_beyond_the_limit_is_refused_too(client):
    with pytest.raises(InferenceServerException) as raised:
        ask(client, "echo", {"x": np.zeros((64, 1 << 18), np.float32)}, compression_algorithm="gzip")
    assert _code(raised.value) == "RESOURCE_EXHAUSTED"


# --- Deadlines, and clients that go away.


def _wait(true: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.005)


def _pending(running: Running) -> int:
    return len(running.gateway.find("slow").lane)


def _idle(running: Running) -> None:
    _wait(lambda: _pending(running) == 0)


def test_a_deadline_ends_the_call_and_the_run(client, running):
    began_s = time.monotonic()
    with pytest.raises(InferenceServerException) as raised:
        ask(client, "slow", {"x": SLOW}, client_timeout=0.3)
    assert _code(raised.value) == "DEADLINE_EXCEEDED"
    assert time.monotonic() - began_s < 60
    _idle(running)
    assert same(ask(client, "slow", {"x": SPIN}).as_numpy("y"), SPIN)


def test_the_timeout_parameter_is_a_deadline_too(client, running):
    with pytest.raises(InferenceServerException, match="deadline|in time") as raised:
        ask(client, "slow", {"x": SLOW}, timeout=300_000)
    assert _code(raised.value) == "DEADLINE_EXCEEDED"
    _idle(running)


def test_a_call_that_is_cancelled_leaves_nothing_behind(running):
    with stub(running.grpc) as v2_stub:
        calls = [v2_stub.ModelInfer.future(message("slow", {"x": SLOW})) for _ in range(3)]
        _wait(lambda: _pending(running) == 3)
        for call in calls:
            call.cancel()
    _idle(running)


# --- Streams.


class Talk:
    """One ModelStreamInfer call through tritonclient."""

    def __init__(self, running: Running, **more: Any) -> None:
        self.answers: queue.Queue[Any] = queue.Queue()
        self.client = InferenceServerClient(running.grpc)
        self.client.start_stream(lambda result, error: self.answers.put((result, error)), **more)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def ask(self, model: str, x: NDArray[Any], id_: str = "", **more: Any) -> None:
        self.client.async_stream_infer(model, given({"x": x}), request_id=id_, **more)

    def hear(self) -> tuple[Any, Any]:
        return self.answers.get(timeout=60)


def test_a_stream_s_answers_come_in_the_order_of_its_requests(running):
    with Talk(running) as talk:
        for n in range(40):
            if n % 10 == 3:
                talk.ask("slow", SPIN, str(n))
            else:
                talk.ask("echo", X + n, str(n), enable_empty_final_response=bool(n % 2))
        for n in range(40):
            result, error = talk.hear()
            assert error is None
            response = result.get_response()
            assert response.id == str(n)
            assert response.parameters["triton_final_response"].bool_param
            assert response.parameters["turnout_route"].string_param == "1;0;default"
            assert same(result.as_numpy("y"), SPIN if n % 10 == 3 else X + n)


def test_an_error_is_one_request_s_and_the_stream_goes_on(running):
    with Talk(running) as talk:
        talk.ask("echo", X)
        talk.ask("nobody", X)
        talk.ask("fraud", X[:, :3])
        talk.ask("echo", X + 1)
        heard = [talk.hear() for _ in range(4)]
        assert [error is None for _, error in heard] == [True, False, False, True]
        assert "no model 'nobody'" in heard[1][1].message()
        assert "expected shape" in heard[2][1].message()
        assert same(heard[3][0].as_numpy("y"), X + 1)


def test_the_answer_with_an_error_has_the_request_s_id(running):
    with stub(running.grpc) as v2_stub:
        asked = iter([message("nobody", {"x": X}, id="17")])
        (said,) = v2_stub.ModelStreamInfer(asked)
        assert "nobody" in said.error_message
        assert said.infer_response.id == "17"


def test_with_triton_grpc_error_the_first_error_ends_the_stream_with_its_status(running):
    with stub(running.grpc) as v2_stub:
        asked = iter(
            [message("echo", {"x": X}), message("nobody", {"x": X})] + [message("echo", {"x": X})] * 3
        )
        answers = v2_stub.ModelStreamInfer(asked, metadata=(("triton_grpc_error", "true"),))
        with pytest.raises(grpc.RpcError) as raised:
            list(answers)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert "nobody" in raised.value.details()


def test_a_client_that_has_said_all_gets_all_its_answers(running):
    with stub(running.grpc) as v2_stub:
        count = 500
        answers = list(
            v2_stub.ModelStreamInfer(message("echo", {"x": X + n}, id=str(n)) for n in range(count))
        )
        assert [said.infer_response.id for said in answers] == list(map(str, range(count)))


def test_of_one_stream_a_bounded_number_of_requests_is_under_way(running):
    with stub(running.grpc) as v2_stub:
        answers = v2_stub.ModelStreamInfer(message("slow", {"x": SPIN / 10}) for _ in range(4 * TURNS_MAX))
        most = count = 0
        for _ in answers:
            count += 1
            most = max(most, _pending(running))
        assert count == 4 * TURNS_MAX
        assert TURNS_MAX // 2 < most <= TURNS_MAX


def test_a_stream_that_is_left_leaves_nothing_behind(running):
    with stub(running.grpc) as v2_stub:
        answers = v2_stub.ModelStreamInfer(iter([message("slow", {"x": SLOW})] * 3))
        _wait(lambda: _pending(running) == 3)
        answers.cancel()
    _idle(running)


def test_a_client_that_does_not_read_its_stream_makes_no_heap_of_answers(running):
    """It sends 400 requests of 1 MiB each and reads nothing; only a part of them is taken."""
    rows = np.zeros((1, 1 << 18), np.float32)
    sent: list[int] = []

    def requests() -> Iterator[Any]:
        for n in range(400):
            made = v2.ModelInferRequest(model_name="echo")
            made.inputs.add(name="x", datatype="FP32", shape=rows.shape)
            made.raw_input_contents.append(rows.tobytes())
            sent.append(n)
            yield made

    with stub(running.grpc, ("grpc.max_receive_message_length", -1)) as v2_stub:
        answers = v2_stub.ModelStreamInfer(requests())
        next(answers)
        before = 0
        while before != len(sent):
            before = len(sent)
            time.sleep(1.0)
        assert len(sent) < 200
        answers.cancel()


@pytest.mark.parametrize("engine", ENGINES)
def test_large_messages_count_while_they_are_looked_at_and_too_many_are_turned_away(tmp_path, engine):
    place(tmp_path / "models", "slow", 1, spinning())
    settings = {
        "grpc": {"engine": engine},
        "engine": {"inline_us_max": 0},
        "limits": {"bodies_bytes_max": 5 << 20},
    }
    x = np.zeros((1 << 16, 4), np.float32)  # 1 MiB.
    x[0] = 30 * ROUNDS
    made = v2.ModelInferRequest(
        model_name="slow", inputs=[{"name": "x", "datatype": "FP32", "shape": x.shape}]
    )
    made.raw_input_contents.append(x.tobytes())
    with Running(tmp_path / "models", tmp_path / "state", settings) as running, stub(running.grpc) as v2_stub:
        taken: list[Any] = []
        while not (taken and taken[-1].done()):
            taken.append(v2_stub.ModelInfer.future(made))
            _wait(lambda: taken[-1].done() or _pending(running) == len(taken))
        taken.pop()
        # While a message is gathered it may take more than its size.
        assert 2 <= len(taken) <= 5
        assert running.rpc.bytes_now >= len(taken) << 20
        for ask_it in (
            lambda: v2_stub.ModelInfer(made),
            lambda: list(v2_stub.ModelStreamInfer(iter([made]))),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                ask_it()
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "too many large requests at once" in raised.value.details()
            assert ("grpc-retry-pushback-ms", "1000") in raised.value.trailing_metadata()
        for call in taken:
            call.cancel()
        _wait(lambda: running.rpc.bytes_now == 0)


# --- Health and reflection.


def test_health_is_the_server_s_and_each_model_s(running):
    with grpc.insecure_channel(running.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def check(service: str) -> Any:
            return health.Check(health_pb2.HealthCheckRequest(service=service)).status

        serving, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        assert [check(each) for each in ("", "inference.GRPCInferenceService", "fraud")] == [serving] * 3
        assert check("broken") == not_serving
        with pytest.raises(grpc.RpcError) as raised:
            check("nobody")
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        watched = health.Watch(health_pb2.HealthCheckRequest(service="nobody"))
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watched.cancel()


def test_reflection_tells_what_the_services_are(running):
    with grpc.insecure_channel(running.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == set(SERVICES)
        theirs = database.FindFileByName("grpc_service.proto")
        assert theirs.SerializeToString() == v2.DESCRIPTOR.serialized_pb
        found = database.FindFileContainingSymbol("inference.ModelInferRequest.InferInputTensor")
        assert found.name == "grpc_service.proto"
        assert database.FindFileByName("model_config.proto").package == "inference"
        with pytest.raises(KeyError):
            database.FindFileContainingSymbol("no.such.Thing")


# --- The end.


@pytest.mark.parametrize("engine", ENGINES)
def test_draining_answers_what_is_under_way_and_tells_who_watches(tmp_path, engine):
    place(tmp_path / "models", "slow", 1, spinning())
    settings = {"grpc": {"engine": engine}, "engine": {"inline_us_max": 0}, "server": {"drain_s_max": 20}}
    with (
        Running(tmp_path / "models", tmp_path / "state", settings) as running,
        grpc.insecure_channel(running.grpc) as channel,
        stub(running.grpc) as v2_stub,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        x = np.full((1, 4), 5 * ROUNDS, np.float32)
        call = v2_stub.ModelInfer.future(message("slow", {"x": x}))
        _wait(lambda: _pending(running) == 1)
        ending = threading.Thread(target=running.drain)
        ending.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as raised:
            next(watch)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert call.result(30).model_name == "slow"
        ending.join(30)
        assert not ending.is_alive()


def test_what_was_refused_is_counted(running, client):
    before = running.rpc.rejections["unknown"]
    for _ in range(3):
        with pytest.raises(InferenceServerException):
            ask(client, "nobody", {"x": X})
    assert running.rpc.rejections["unknown"] == before + 3
    _wait(lambda: running.rpc.bytes_now == 0)
