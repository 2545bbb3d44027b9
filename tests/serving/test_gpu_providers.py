"""Is a version that is said to be on the GPU there, with the options that were asked for, and nowhere else?"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from serving.config import Config, Repository
from serving.device import NoDevice, gpus
from serving.gpu import providers
from serving.gpu.assigned import CPU, NAME_CHARACTERS_MAX, RECORD, SHAPE_OPERATORS, Node, nodes, strays, told
from serving.gpu.driver import Driver, DriverError
from serving.gpu.providers import (
    CUDA,
    TENSORRT,
    FellBack,
    Wanted,
    apart,
    check,
    on_gpu,
    open_on_gpu,
    wanted,
)
from serving.gpu.settings import Gpu
from serving.model import ModelConfig
from serving.session import Session, Stop
from tests import models
from tests.cuda import FakeCuda

NO_GPU = pytest.mark.skipif(gpus() > 0, reason="there is a GPU, on which the provider starts")


def shaped() -> onnx.ModelProto:
    """Return a graph with two nodes that compute and four that only see to shapes."""
    made = [
        helper.make_node("Shape", ["x"], ["s"], "shape"),
        helper.make_node("Gather", ["s", "zero"], ["n"], "pick", axis=0),
        helper.make_node("Concat", ["n", "rest"], ["to"], "join", axis=0),
        helper.make_node("Reshape", ["x", "to"], ["flat"], "flatten"),
        helper.make_node("Softmax", ["flat"], ["p"], "soft"),
        helper.make_node("TopK", ["p", "one"], ["y", "at"], "best"),
    ]
    graph = helper.make_graph(
        made,
        "shaped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 2])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1]),
            helper.make_tensor_value_info("at", TensorProto.INT64, ["N", 1]),
        ],
        [
            helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
            helper.make_tensor("rest", TensorProto.INT64, [1], [4]),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def recorded(path: Path, proto: onnx.ModelProto) -> ort.InferenceSession:
    onnx.save(proto, path / "model.onnx")
    options = ort.SessionOptions()
    options.add_session_config_entry(RECORD, "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path / "model.onnx"), options, providers=[CPU])


def test_onnx_runtime_tells_which_provider_took_each_node(tmp_path):
    session = recorded(tmp_path, shaped())
    assert sorted((each.provider, each.operator, each.name) for each in nodes(session)) == sorted(
        (CPU, operator, name)
        for operator, name in [
            ("Shape", "shape"),
            ("Gather", "pick"),
            ("Concat", "join"),
            ("Reshape", "flatten"),
            ("Softmax", "soft"),
            ("TopK", "best"),
        ]
    )


def test_nodes_on_the_cpu_that_compute_more_than_shapes_are_an_error_that_names_them(tmp_path):
    session = recorded(tmp_path, shaped())
    with pytest.raises(FellBack) as caught:
        check(session, [CPU], allow_cpu=False)
    assert str(caught.value) == (
        "2 of 6 nodes would run on the CPU: Softmax ('soft'), TopK ('best'); gpu.allow_cpu = true lets them"
    )


def test_nodes_on_the_cpu_may_be_allowed_and_are_logged(tmp_path, caplog):
    check(recorded(tmp_path, shaped()), [CPU], allow_cpu=True)
    assert 'event=nodes_on_the_cpu reason="2 of 6 nodes' in caplog.text


def test_a_graph_that_only_sees_to_shapes_on_the_cpu_is_on_the_gpu(tmp_path):
    proto = shaped()
    del proto.graph.node[4:], proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", 4]))
    check(recorded(tmp_path, proto), [CPU], allow_cpu=False)


@given(
    st.lists(
        st.builds(
            Node,
            st.sampled_from([CPU, CUDA, TENSORRT]),
            st.sampled_from(["", "ai.onnx", "com.microsoft"]),
            st.sampled_from(["Shape", "Conv", "Add", "TopK"]),
            st.text(max_size=100),
        ),
        max_size=20,
    )
)
def test_a_node_strays_if_it_is_on_the_cpu_and_more_than_shapes_need(assigned):
    astray = strays(assigned)
    for each in assigned:
        shape = each.operator in SHAPE_OPERATORS and each.domain != "com.microsoft"
        assert (each in astray) == (each.provider == CPU and not shape)
    assert f"{len(astray)} of {len(assigned)} nodes" in told(astray, len(assigned))


def test_what_is_told_of_strays_has_a_bound():
    astray = [Node(CPU, "", f"Operator{number % 50}", "n" * 10_000) for number in range(10_000)]
    assert len(told(astray, 10_000)) < 8 * (NAME_CHARACTERS_MAX + 60) + 100
    assert told(astray, 10_000).endswith("and 42 other operators")


@pytest.mark.parametrize(
    ("names", "missing"),
    [([CUDA], CUDA), ([TENSORRT, CUDA], f"{TENSORRT} and {CUDA}"), ([CPU, CUDA], CUDA)],
)
def test_a_provider_that_did_not_start_is_an_error_that_names_it(tmp_path, names, missing):
    with pytest.raises(
        FellBack,
        match=rf"^ONNX Runtime's {missing} did not start, its log says why; .* go on with {CPU}\. They need CUDA 13",
    ):
        check(recorded(tmp_path, models.mlp()), names, allow_cpu=True)


@NO_GPU
def test_a_version_is_not_put_on_the_cpu_where_the_gpu_s_provider_does_not_start(tmp_path, monkeypatch):
    library = FakeCuda()
    monkeypatch.setattr(providers, "driver", lambda gpu: Driver(gpu, library))
    onnx.save(models.mlp(), tmp_path / "model.onnx")
    with pytest.raises(FellBack, match=f"{CUDA} did not start"):
        open_on_gpu(str(tmp_path / "model.onnx"), ort.SessionOptions(), Wanted(Gpu()))
    assert len(library.streams) == 1  # The driver's own: the session and its stream are gone.


@NO_GPU
def test_tensorrt_that_is_asked_for_and_not_installed_is_an_error(tmp_path, monkeypatch, capsys):
    library = FakeCuda()
    monkeypatch.setattr(providers, "driver", lambda gpu: Driver(gpu, library))
    onnx.save(models.mlp(), tmp_path / "model.onnx")
    with pytest.raises(FellBack, match=f"{TENSORRT} did not start: TensorRT is not installed"):
        open_on_gpu(str(tmp_path / "model.onnx"), ort.SessionOptions(), Wanted(Gpu(), tensorrt={}))
    assert len(library.streams) == 1
    assert "Falling back" not in capsys.readouterr().out


def test_a_gpu_whose_driver_does_not_work_is_said(tmp_path, monkeypatch):
    def broken(_gpu):
        raise DriverError("cuInit: CUDA_ERROR_SYSTEM_NOT_READY, system not yet initialized", 802)

    monkeypatch.setattr(providers, "driver", broken)
    with pytest.raises(NoDevice, match="GPU 2 cannot be used: cuInit: CUDA_ERROR_SYSTEM_NOT_READY"):
        open_on_gpu("model.onnx", ort.SessionOptions(), Wanted(Gpu(), 2))


class Inner:
    def run(self, *_arguments: Any) -> list[Any]:
        return []


class Opened:
    """A session on a GPU, as far as it is asked anything before its first run."""

    def __init__(self, provider: str) -> None:
        self._sess = Inner()
        self._provider = provider

    def get_providers(self) -> list[str]:
        return [self._provider, CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return []


class Made:
    """What makes sessions; `refusal` is what it says to graphs."""

    def __init__(self, refusal: str = "") -> None:
        self.refusal = refusal
        self.asked: list[dict[str, str]] = []

    def __call__(self, _path: str, _options: Any, asked: list[Any], *, enable_fallback: int) -> Any:
        assert enable_fallback == 0
        assert asked[-1] == CPU
        [(name, options)] = asked[:-1]
        self.asked.append(options)
        if options["enable_cuda_graph"] == "1" and self.refusal:
            raise Fail(self.refusal)

        return Opened(name)


CANNOT = (
    "This session cannot use the graph capture feature as requested by the user as the model has control flow"
)


@pytest.fixture
def made(monkeypatch):
    made = Made()
    library = FakeCuda()
    monkeypatch.setattr(providers, "driver", lambda gpu: Driver(gpu, library))
    monkeypatch.setattr(providers.ort, "InferenceSession", made)
    return SimpleNamespace(session=made, library=library)


def opened(asked: Wanted) -> Any:
    return open_on_gpu("folder/model.onnx", ort.SessionOptions(), asked)


@pytest.mark.parametrize(("graphs", "tried"), [(None, ["1"]), (True, ["1"]), (False, ["0"])])
def test_a_session_knows_its_stream_and_whether_its_runs_are_captured(made, graphs, tried):
    session = opened(Wanted(Gpu(), graphs=graphs))
    where = on_gpu(session)
    assert where is not None
    assert [each["enable_cuda_graph"] for each in made.session.asked] == tried
    assert where.graphs == (tried == ["1"])
    assert made.session.asked[-1]["user_compute_stream"] == str(where.stream)
    assert where.stream in made.library.streams


def test_a_model_that_permits_no_graphs_goes_without_unless_it_asked_for_them(made):
    made.session.refusal = CANNOT
    session = opened(Wanted(Gpu()))
    assert [each["enable_cuda_graph"] for each in made.session.asked] == ["1", "0"]
    assert on_gpu(session).graphs is False
    with pytest.raises(Fail, match="cannot use the graph capture feature"):
        opened(Wanted(Gpu(), graphs=True))


def test_a_model_that_is_broken_is_not_tried_again_without_graphs(made):
    made.session.refusal = "Load model from model.onnx failed: Protobuf parsing failed."
    with pytest.raises(Fail, match="Protobuf"):
        opened(Wanted(Gpu()))
    assert len(made.session.asked) == 1
    assert len(made.library.streams) == 1


def test_a_stream_goes_back_when_the_session_itself_is_gone(made):
    session = opened(Wanted(Gpu()))
    run = session._sess.run
    del session
    assert len(made.library.streams) == 2
    del run
    assert len(made.library.streams) == 1


def test_whoever_runs_a_session_on_a_gpu_stands_apart_from_captures(made):
    session = opened(Wanted(Gpu()))
    calls = made.library.calls
    before = calls.count("cuThreadExchangeStreamCaptureMode")
    assert before  # This thread opened it.
    assert apart(session, lambda value: value + 1)(1) == 2
    Session(session, [], []).run({}, Stop())
    assert calls.count("cuThreadExchangeStreamCaptureMode") == before


def test_plain_runs_of_a_session_wait_for_each_other(made):
    inside = threading.Lock()
    refused = []

    def run(_number: int) -> None:
        if not inside.acquire(blocking=False):
            refused.append(_number)
            return
        time.sleep(0.002)
        inside.release()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(apart(opened(Wanted(Gpu())), run), range(12)))
    assert not refused


def test_a_plain_run_that_fails_since_the_gpu_is_lost_has_it_known(made):
    session = opened(Wanted(Gpu()))

    def run() -> None:
        raise Fail("CUDA failure 700: an illegal memory access was encountered")

    with pytest.raises(Fail):
        apart(session, run)()
    assert not on_gpu(session).driver.lost
    made.library.fails["cuMemGetInfo_v2"] = 700
    with pytest.raises(Fail):
        apart(session, run)()
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in on_gpu(session).driver.lost


def test_a_plain_run_is_never_captured():
    assert Stop().options.get_run_config_entry("gpu_graph_id") == "-1"


@given(
    st.sampled_from([("cuda",), ("tensorrt", "cuda")]),
    st.booleans(),
    st.sampled_from([None, False, True]),
    st.sampled_from([None, {}, {"precision_mode": "FP16"}]),
    st.sampled_from([(), (1,), (2, 0)]),
    st.booleans(),
)
def test_a_model_s_own_file_goes_before_the_server_s(order, graphs, own, tensorrt, numbers, permitted):
    server = Config(gpu=Gpu(providers=order, graphs=graphs), repository=Repository(state=Path("/state")))
    asked = wanted(ModelConfig("m", graphs=own, tensorrt=tensorrt, gpus=numbers), server, graphs=permitted)
    assert asked.gpu == (numbers[0] if numbers else 0)
    assert asked.tensorrt == (tensorrt if tensorrt is not None else {} if "tensorrt" in order else None)
    names = [name for name, _ in providers.providers(asked, 5, graphs=False)]
    assert names == ([CUDA] if asked.tensorrt is None else [TENSORRT, CUDA])
    if asked.tensorrt is not None or not permitted:
        assert asked.graphs is False
    else:
        assert asked.graphs == (own if own is not None else None if graphs else False)


def test_the_options_are_those_that_were_configured():
    settings = Gpu(memory_bytes_max=7, arena="power_of_two", convolution_search="exhaustive", tf32=False)
    assert providers.providers(Wanted(settings, 1, weights_bytes=100), 99, graphs=True) == [
        (
            CUDA,
            {
                "device_id": "1",
                "user_compute_stream": "99",
                "arena_extend_strategy": "kNextPowerOfTwo",
                "cudnn_conv_algo_search": "EXHAUSTIVE",
                "use_tf32": "0",
                "enable_cuda_graph": "1",
                "gpu_mem_limit": "107",
            },
        )
    ]


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({}, {"trt_engine_cache_enable": "0"}),
        ({"precision_mode": "FP32"}, {"trt_engine_cache_enable": "0"}),
        ({"precision_mode": "FP16"}, {"trt_engine_cache_enable": "0", "trt_fp16_enable": "1"}),
        ({"precision_mode": "BF16"}, {"trt_engine_cache_enable": "0", "trt_bf16_enable": "1"}),
        ({"precision_mode": "INT8"}, {"trt_engine_cache_enable": "0", "trt_int8_enable": "1"}),
        ({"max_workspace_size_bytes": "9"}, {"trt_engine_cache_enable": "0", "trt_max_workspace_size": "9"}),
        (
            {"trt_engine_cache_enable": "True"},
            {"trt_engine_cache_enable": "1", "trt_engine_cache_path": "/state/tensorrt"},
        ),
    ],
)
def test_tensorrt_keeps_engines_below_the_state_or_not_at_all(parameters, options):
    asked = Wanted(Gpu(), tensorrt=parameters, engines=Path("/state/tensorrt"))
    (name, got), _ = providers.providers(asked, 4, graphs=False)
    assert name == TENSORRT
    assert got == {"device_id": "0", "user_compute_stream": "4", **options}
