"""Which versions are put on a device, by whom, and what is known of them before they serve."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from loadtests.gpubench.simulated import SimulatedAccelerator, SimulatedSlot
from serving import config
from serving.errors import Expired
from serving.gpu.placing import Placing, fits_slots, takes_anything
from serving.gpu.session import DeviceSession
from serving.gpu.times import points
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.session import Stop
from serving.wire import DATATYPES, TensorSpec

MS = 1_000_000
ROWS_MAX = 8
SETTINGS = config.parse({})


def tensor(*shape: int, datatype: str = "FP32", optional: bool = False) -> TensorSpec:
    return TensorSpec("x", DATATYPES[datatype], shape, optional)


def version(*inputs: TensorSpec, out: TensorSpec | None = None, rows_max: int = ROWS_MAX) -> ModelSpec:
    artifact = Artifact("m", 1, "d", Path("m"), 1)
    return ModelSpec(artifact, ModelConfig("m"), inputs, (out or tensor(-1, 2),), rows_max)


class Ran:
    """A simulated device that notes who launched, and how little that thread counts."""

    def __init__(self, spec: ModelSpec) -> None:
        self._device = SimulatedAccelerator(lambda _rows: MS, 1e12, lambda inputs: [inputs["x"]], spec)
        self.rows_max, self.batches = self._device.rows_max, self._device.batches
        self.slot, self.stage, self.wait = self._device.slot, self._device.stage, self._device.wait
        self.nice: set[int] = set()
        self.closed = False

    def launch(self, slot: SimulatedSlot, rows: int) -> None:
        self.nice.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        self._device.launch(slot, rows)

    def close(self) -> None:
        self.closed = True


def placed(placing: Placing, device: Ran, spec: ModelSpec, stop: Stop, until_s: float = 1e12) -> Any:
    sample = SimpleNamespace(feeds=lambda rows: {"x": np.zeros((rows, 2), np.float32)})
    plain: Any = None
    accelerate = placing.device(None)
    assert accelerate is not None
    return placing.place(accelerate, None, plain, spec, sample, SETTINGS, stop, until_s)


@pytest.fixture
def device() -> Ran:
    return Ran(version(tensor(-1, 2)))


@pytest.fixture
def placing(device: Ran) -> Any:
    made = Placing(lambda _session, _spec, _settings: device)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        (version(tensor(-1, 2)), True),
        (version(tensor(-1, 2), tensor(-1, -1, optional=True)), True),
        (version(tensor(-1, -1)), False),
        (version(tensor(-1, 0)), False),
        (version(tensor(-1, 2), out=tensor(-1, 0)), False),
        (version(tensor(2, 2)), False),
        (version(tensor(-1, 2, datatype="BYTES")), False),
        (version(tensor(-1, 2), out=tensor(-1, -1)), False),
        (version(tensor(-1, 2), out=tensor(-1, datatype="BYTES")), False),
        (version(tensor(-1, 2), rows_max=0), False),
        (version(tensor(-1, 2, optional=True)), False),
    ],
)
def test_batches_that_differ_in_rows_alone_have_slots(spec, fits) -> None:
    assert fits_slots(spec) == fits


@pytest.mark.parametrize(
    ("spec", "anything"),
    [
        (version(tensor(-1, 3, 8, 8)), True),
        (version(tensor(2, 2, datatype="FP16"), tensor(-1, datatype="INT64", optional=True)), True),
        (version(tensor(-1, 3, datatype="UINT8")), True),
        (version(tensor(-1, -1)), False),
        (version(tensor(-1, 2), tensor(-1, 2, datatype="INT64")), False),
        (version(tensor(-1, datatype="BYTES")), False),
    ],
)
def test_where_inputs_can_be_neither_indices_nor_shapes_a_version_has_to_run(spec, anything) -> None:
    assert takes_anything(spec) == anything


def test_every_size_is_timed_before_the_first_request(placing: Placing, device: Ran) -> None:
    session: DeviceSession = placed(placing, device, version(tensor(-1, 2)), Stop())
    assert set(device.batches) == set(points(ROWS_MAX))
    assert device.batches[0] == ROWS_MAX
    assert session.pace.times.rows_max == ROWS_MAX
    session.close()


def test_where_there_is_no_time_the_largest_batch_and_one_row_are_timed(
    placing: Placing, device: Ran
) -> None:
    session: DeviceSession = placed(placing, device, version(tensor(-1, 2)), Stop(), until_s=0.0)
    assert set(device.batches) == {1, ROWS_MAX}
    session.close()


def test_first_runs_that_are_stopped_give_the_device_back(placing: Placing, device: Ran) -> None:
    stop = Stop()
    stop.now()
    with pytest.raises(Expired):
        placed(placing, device, version(tensor(-1, 2)), stop)
    assert device.closed


def test_a_version_that_fits_no_slots_or_that_the_device_leaves_is_not_placed(device: Ran) -> None:
    left = Placing(lambda _session, _spec, _settings: None)
    assert placed(left, device, version(tensor(-1, 2)), Stop()) is None
    assert placed(left, device, version(tensor(-1, -1)), Stop()) is None
    left.close()


def test_a_session_on_the_cpu_is_placed_nowhere() -> None:
    on_cpu = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    assert Placing().device(on_cpu) is None


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
def test_the_owner_counts_as_much_as_whoever_made_the_placing_and_not_as_the_loader(
    placing: Placing, device: Ran
) -> None:
    """Threads inherit how little the thread counts that starts them, and the loader's counts little."""
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def load() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(ours + 10, 19))
        placed(placing, device, version(tensor(-1, 2)), Stop()).close()

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert device.nice == {ours}
