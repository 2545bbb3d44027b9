"""The benchmark of what a GPU is fed with: true models, an honest simulated device, and what it would notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.bench import machine
from loadtests.bench.errors import BenchError
from loadtests.bench.server import Server
from loadtests.gpubench import (
    bert,
    cases,
    floor,
    layout,
    limit,
    measured,
    perceptron,
    resnet,
    several,
    standin,
)
from loadtests.gpubench.broken import Breathless
from loadtests.gpubench.gateway import Stage, cores
from loadtests.gpubench.joint import JointDevice
from loadtests.gpubench.measured import Limit, Trial
from loadtests.gpubench.noise import Moment, spent_s
from loadtests.gpubench.page import Done, Page, Seen
from loadtests.gpubench.pressure import Patience, Pressure
from loadtests.gpubench.shared import ALIGNMENT, places
from loadtests.gpubench.simulated import SimulatedAccelerator, SimulatedDevice
from loadtests.gpubench.times import Times
from serving.config import Config
from serving.model import ModelSpec
from tests import models
from tests.running import Running
from tests.talking import in_binary, rows

MS = 1_000_000
SMALL_BERT = bert.Size(layers=2, width=32, heads=4, inner=64, words=50, positions=16, sequence=8)
SMALL_RESNET = resnet.Size(blocks=(1, 2), channels=4, pixels=32, classes=5)
FP16, FP32 = np.float16, np.float32


def opened(model: onnx.ModelProto) -> ort.InferenceSession:
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_the_true_models_have_as_many_parameters_as_the_published_ones():
    assert resnet.RESNET_50.parameters == resnet.PARAMETERS == 25_557_032
    assert bert.BERT_BASE.encoder_parameters == bert.ENCODER_PARAMETERS == 85_054_464
    assert bert.BERT_BASE.parameters == bert.PARAMETERS == 109_482_240
    assert perceptron.parameters(perceptron.WIDTHS) == perceptron.PARAMETERS


SMALL = {
    "bert": lambda dtype: (bert.bert(SMALL_BERT, dtype), dict.fromkeys(bert.INPUTS, (8,)), 32),
    "resnet": lambda dtype: (resnet.resnet(SMALL_RESNET, dtype, dtype), {"x": (3, 32, 32)}, 5),
    "resnet of bytes": lambda dtype: (resnet.resnet(SMALL_RESNET, dtype, np.uint8), {"x": (3, 32, 32)}, 5),
    "perceptron": lambda dtype: (perceptron.perceptron((8, 16, 4), dtype), {"x": (8,)}, 4),
}


@pytest.mark.parametrize("dtype", [FP32, FP16])
@pytest.mark.parametrize("name", SMALL)
def test_a_model_of_any_size_answers_each_row_by_itself_in_its_type(name, dtype):
    made, shapes, width = SMALL[name](dtype)
    session = opened(made)
    rng = np.random.default_rng(1)
    feeds = {}
    for each in session.get_inputs():
        values = rng.integers(0, 2, (3, *shapes[each.name]))
        kinds = {"tensor(int64)": np.int64, "tensor(uint8)": np.uint8}
        feeds[each.name] = values.astype(kinds.get(each.type, dtype))
    (y,) = session.run(None, feeds)
    alone = [session.run(None, {n: x[at : at + 1] for n, x in feeds.items()})[0] for at in range(3)]
    assert y.shape == (3, width) and y.dtype == dtype and np.isfinite(y).all()
    assert np.allclose(y, np.concatenate(alone), atol=5e-2 if dtype == FP16 else 1e-4)
    assert np.ptp(y, axis=0).any(), "rows that differ are told apart"


@pytest.mark.parametrize("name", cases.BY_NAME)
def test_what_stands_in_for_a_model_has_its_signature_and_says_whose_the_answer_is(name):
    case = cases.BY_NAME[name]
    session = opened(standin.stand_in(case, 2))
    batch = case.sample(3, rows=4)
    (y,) = session.run(None, batch)
    (simulated,) = standin.answering(case, 2)(batch)
    assert np.array_equal(y, simulated) and y.dtype == simulated.dtype == case.dtype
    assert (y[:, 0] == 2).all()
    assert case.request_bytes == sum(each.nbytes for each in case.sample(0).values())
    assert case.answer_bytes == y[:1].nbytes


def test_true_models_are_laid_out_once_in_two_versions_where_they_are_switched(tmp_path: Path):
    built: list[str] = []

    def build() -> onnx.ModelProto:
        built.append("again")
        return perceptron.perceptron((8, 4), FP32)

    case = cases.Case("m", FP32, {"x": (FP32, (8,))}, 4, Times(1, 1), build, switched=True)
    for _ in range(2):
        layout.lay_out(tmp_path, [case], simulated=False)
    first, second = (tmp_path / "m" / str(version) / "model.onnx" for version in layout.VERSIONS)
    assert built == ["again"]
    assert first.read_bytes() != second.read_bytes()


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1

    def __call__(self) -> int:
        return self.now_ns


BATCHES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 8), st.integers(1, 9)), min_size=1, max_size=20
)


@given(BATCHES)
def test_a_simulated_device_runs_one_batch_at_a_time_and_none_before_it_is_copied(batches):
    clock = Clock()
    device = SimulatedDevice(1e9, clock)
    over = busy = 0
    for pause_ns, size_bytes, takes_ns in batches:
        clock.now_ns += pause_ns
        copied_ns = device.copy_in(size_bytes)
        end_ns = device.run(copied_ns, takes_ns, rows=size_bytes)
        assert copied_ns >= clock.now_ns + size_bytes
        assert end_ns - takes_ns >= max(over, copied_ns), "it began after all that was before it"
        over, busy = end_ns, busy + takes_ns
    assert device.busy_ns == busy
    assert device.done[:3] == (busy, over, len(batches))
    assert device.first_ns + busy + device.idle_ns == over, "the time is spent running or idle"


@given(BATCHES, st.integers(2, 3), st.data())
def test_a_device_that_several_processes_use_is_one_device(batches, users, data):
    with TemporaryDirectory() as folder:
        file, clock = Path(folder) / "device.page", Clock()
        joint = [JointDevice(1e9, Page(file)) for _ in range(users)]
        for each in joint:
            each.now_ns = clock
        one = SimulatedDevice(1e9, clock)
        for pause_ns, size_bytes, takes_ns in batches:
            clock.now_ns += pause_ns
            ends = []
            for device in (one, data.draw(st.sampled_from(joint))):
                ran_ns = device.run(device.copy_in(size_bytes), takes_ns, rows=size_bytes)
                ends.append((ran_ns, device.copy_out(ran_ns, size_bytes)))
            assert ends[0] == ends[1]
        assert Page(file).read().done == one.done


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 1 << 30))
def test_what_is_queued_does_not_count_as_done(busy_ns, now_ns, queued_ns):
    before = Seen(Done(busy_ns, now_ns, 1, 4), now_ns)
    queued = Seen(Done(busy_ns + queued_ns, now_ns + queued_ns, 2, 8), now_ns)
    assert queued.busy_since(before) == 0
    later = Seen(queued.done, now_ns + 2 * queued_ns)
    assert later.busy_since(before) == pytest.approx(0.5)
    assert later.rows_a_run_since(before) == 4


def test_a_page_tells_another_reader_what_was_written_last(tmp_path: Path):
    file = tmp_path / "device.page"
    writing, reading = Page(file), Page(file)
    assert reading.read().done == Done()
    for runs in (1, 2):
        writing.write(Done(5, 6, runs, 8, 9, 10))
        assert reading.read().done == Done(5, 6, runs, 8, 9, 10)


@given(st.lists(st.dictionaries(st.text("ab", min_size=1), st.integers(1, 300), min_size=1), min_size=1))
def test_tensors_in_shared_memory_are_aligned_and_never_overlap(sizes):
    made, size_bytes = places("x", sizes)
    taken = [place for each in made for place in each.values()]
    assert [{name: place.size for name, place in each.items()} for each in made] == sizes
    assert all(place.offset % ALIGNMENT == 0 for place in taken)
    ends = [place.offset + place.size for place in taken]
    assert all(end <= after.offset for end, after in zip(ends, taken[1:], strict=False))
    assert ends[-1] <= size_bytes


def test_the_limit_is_measured_with_bound_inputs_that_give_the_same_answer(tmp_path: Path):
    case, file = cases.REGISTER, tmp_path / "m.onnx"
    onnx.save(standin.stand_in(case, 2), file)
    session = limit.opened(str(file), cpu=True)
    run, fetch = limit.bound(session, case.sample(1, 3), "cpu")
    run()
    assert np.array_equal(fetch()[0], np.full((3, 1), 2))
    found = limit.rates(str(file), case, (1, 2), 0.01, cpu=True)
    assert found.keys() == {1, 2} and min(found.values()) > 0
    assert limit.best({1: 10.0, 8: 70.0, 64: 60.0}) == (8, 70.0)


def test_a_limit_without_a_gpu_is_no_limit(tmp_path: Path):
    file = tmp_path / "m.onnx"
    onnx.save(standin.stand_in(cases.REGISTER, 1), file)
    if "CUDAExecutionProvider" in ort.InferenceSession(file, providers=[limit.CUDA]).get_providers():
        pytest.skip("this machine has one")
    with pytest.raises(BenchError, match="CUDA provider did not start"):
        limit.opened(str(file), cpu=False)


def test_what_others_used_is_what_is_left_of_what_all_used():
    stat = "cpu  100 50 50 9999 0 7 7 0 0 0\ncpu0 1 1 1 1\n"
    assert spent_s(stat) == pytest.approx(200 / 100, rel=0.5), "user, nice and system, in ticks"
    assert spent_s("") == 0
    before, after = Moment(10.0, 5.0, 2.0), Moment(12.0, 8.0, 4.0)
    assert after.others_since(before) == pytest.approx(0.5)


@given(st.integers(1, 1000), st.integers(1, 100), st.integers(1, 64), st.floats(0.1, 0.9))
def test_no_gateway_is_sooner_than_the_times_of_its_device(run_us, row_us, rows_max, load):
    run_ns = Times(run_us * 1000, row_us * 1000)
    late_ns = floor.p99_ns(run_ns, rows_max, load * run_ns.per_s(rows_max), arrivals=500)
    assert late_ns >= run_ns(1)
    seldom_ns = floor.p99_ns(run_ns, rows_max, 1e-3 * run_ns.per_s(1), arrivals=50)
    assert seldom_ns <= 2 * run_ns(2), "hardly anybody finds another one there"


def test_goals_are_about_a_simulated_devices_time_and_about_a_real_ones_throughput():
    best = Pressure(256, 90.0, 1, 2, busy=0.97, rows=8, load_busy=0.1, server_us=1, others=0)
    found = Limit(8, 100.0)
    simulated = measured.saturated("m/http", best, found, measured.BUSY_MIN, simulated=True)
    real = measured.saturated(
        "m/http", best, found, measured.TO_LIMIT[measured.Protocol.HTTP], simulated=False
    )
    assert (simulated.value, simulated.missed) == (0.97, False)
    assert (real.value, real.missed) == (0.9, False)
    assert measured.told("m", best, found).value == 0.9
    assert found.batch_ms == 80


RUN_NS, COPY_NS, BATCH_ROWS, BATCHES_AT_ONCE, WAVES = 40 * MS, 8 * MS, 2, 3, 3
"""Runs that are long beside what else there is to do, also where others want the processors."""


class Rack:
    """Puts every version on a device of this kind, whose copies take a fifth of its runs."""

    def __init__(self, kind: type[SimulatedAccelerator]) -> None:
        self._kind = kind
        self.device = SimulatedDevice(copy_bytes_per_s=BATCH_ROWS * 64 / (COPY_NS / 1e9))

    def __call__(self, _session: Any, spec: ModelSpec, _settings: Config) -> SimulatedAccelerator:
        compute: Callable[[Any], list[Any]] = lambda inputs: [inputs["x"] + 1]  # noqa: E731
        return self._kind(lambda _rows: RUN_NS, 0.0, compute, spec, self.device)


def loaded(folder: Path, kind: type[SimulatedAccelerator]) -> tuple[Seen, Seen]:
    """Ask a gateway on such a device for several batches at a time; return what was seen before and after."""
    config = f"max_batch_size: {BATCH_ROWS}"
    models.place(folder / "models", "m", 1, models.identity("FP32", ("N", 16)), config)
    rack = Rack(kind)

    def seen() -> Seen:
        device = rack.device
        now_ns = max(device.now_ns(), device.runs.free_ns)
        counts = device.runs.count, device.rows, device.late, device.idle_ns
        return Seen(Done(device.busy_ns, device.runs.free_ns, *counts), now_ns)

    with Running(folder / "models", folder / "state", accelerate=rack) as running:
        clients = [running.connect(60) for _ in range(BATCH_ROWS * BATCHES_AT_ONCE)]
        before = seen()
        asked = [in_binary("m", rows(1, 16, float(way))) for way in range(len(clients))]
        for _ in range(WAVES):
            for client, content in zip(clients, asked, strict=True):
                client.sendall(content)
            for client in clients:
                assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        for client in clients:
            client.close()
        return before, seen()


def test_a_gateway_that_copies_only_when_the_device_is_idle_misses_the_goal_by_every_run(tmp_path: Path):
    before, after = loaded(tmp_path, Breathless)
    runs = after.done.runs - before.done.runs
    assert runs >= WAVES * BATCHES_AT_ONCE
    assert after.done.late - before.done.late == runs, "every run was waited for"
    busy = after.busy_since(before)
    best = Pressure(6, 1.0, 1, 1, busy, BATCH_ROWS, 0.1, 1, 0)
    row = measured.saturated("m/http", best, Limit(BATCH_ROWS, 80.0), measured.BUSY_MIN, simulated=True)
    assert row.missed


def test_a_gateway_as_it_is_has_the_next_batch_on_the_device_before_it_is_idle(tmp_path: Path):
    before, after = loaded(tmp_path, SimulatedAccelerator)
    assert after.done.late - before.done.late < after.done.runs - before.done.runs


def staged(folder: Path) -> tuple[cases.Case, Stage, Any]:
    """Return a case that was laid out on a simulated device, and the answer to its first request."""
    case = replace(cases.BERT_FP16, switched=False)
    stage = Stage(folder, cores(machine.cores()), simulated=True)
    layout.lay_out(stage.repository, [case], simulated=True)
    return case, stage, standin.expected(case, 1, case.sample(0))


@pytest.mark.e2e
def test_a_case_is_measured_by_each_protocol_at_the_real_command_on_a_simulated_device(tmp_path: Path):
    case, stage, expected = staged(tmp_path)
    with stage.gateway([case.name]) as running:
        patience = Patience(0)  # Whatever others do meanwhile.
        trial = Trial(case, Limit(64, 15e3), running, stage.page(), 0.3, expected, patience=patience)
        for protocol in (measured.Protocol.HTTP, measured.Protocol.GRPC, measured.Protocol.SHARED):
            with trial.way(protocol) as way:
                found = [trial.press(way, 64)]
                while found[-1].rows <= 1 and len(found) < 30:  # Others may leave it hardly any time.
                    found.append(trial.press(way, 64))
            assert found[-1].per_s > 0 and 0 < found[-1].busy <= 1 and found[-1].rows > 1
        wrong = Trial(case, trial.limit, running, trial.page, 0.3, expected + 1)
        with pytest.raises(BenchError, match="answers wrongly"), wrong.way(measured.Protocol.HTTP):
            pass


@pytest.mark.e2e
def test_several_front_ends_have_one_device(tmp_path: Path):
    case, stage, expected = staged(tmp_path)

    def trial(asked: Server) -> Trial:
        return Trial(case, Limit(64, 15e3), asked, stage.page(), 0.3, expected, patience=Patience(0))

    found = list(several.together(case, stage, trial))
    busy = [row for row in found if row.name.endswith("device busy")]
    assert len(found) == 4 and [row.goal is None for row in busy] == [True, False]
    assert all(0 < row.value <= 1 for row in busy)
