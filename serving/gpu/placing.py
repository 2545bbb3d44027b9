"""How is a version put on its device, if there is one, and how long do its batches take there?"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any, Protocol

from serving.config import Config
from serving.device import gpus
from serving.errors import Expired
from serving.gpu.accelerator import Accelerate
from serving.gpu.owner import Owner
from serving.gpu.session import DeviceSession
from serving.gpu.times import Times, points
from serving.model import ModelSpec
from serving.session import Feeds, Session, Stop
from serving.wire import TensorSpec

log = logging.getLogger("turnout.gpu")

ON_DEVICE = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


class Sampled(Protocol):
    """Inputs made up to try a model."""

    def feeds(self, rows: int) -> Feeds:
        """Return arrays with `rows` in an open first dimension."""


class Placing:
    """Puts versions on their devices.

    Threads that a thread starts count as little to the scheduler as it does, and the loader's counts little.
    So owner threads are started by one that is made here, by whoever makes this: the event loop's.

    Parameters
    ----------
    accelerate : Accelerate, optional
        In the place of the real one, for every version; it says which of them it takes.
    """

    def __init__(self, accelerate: Accelerate | None = None) -> None:
        self._accelerate = accelerate
        self._starter = Owner("turnout-devices") if accelerate is not None or gpus() else None

    def device(self, onnx_session: Any) -> Accelerate | None:
        """Return what puts this session on its device; None if it runs where everything else does."""
        if self._accelerate is not None:
            return self._accelerate
        if onnx_session.get_providers()[0] not in ON_DEVICE:
            return None
        from serving.gpu.cuda import accelerate

        return accelerate

    def place(
        self,
        accelerate: Accelerate,
        onnx_session: Any,
        plain: Session,
        spec: ModelSpec,
        sample: Sampled,
        settings: Config,
        stop: Stop,
        until_s: float,
    ) -> DeviceSession | None:
        """Return the version on its device, with the times of its runs; None if its batches fit no slots."""
        if not fits_slots(spec):
            return None
        accelerator = accelerate(onnx_session, spec, settings)
        if accelerator is None:
            return None
        assert self._starter is not None, "a device was found, or given"
        owner = self._starter.do(Owner, f"turnout-device-{spec}")
        session = DeviceSession(accelerator, plain, owner, int(settings.gpu.batch_ms_max * 1e6))
        try:
            session.tune(measured(session, spec, sample, stop, until_s))
        except BaseException:
            session.close()
            raise
        log.info("version=%s event=on_device times=%r", spec, session.pace.times)
        return session

    def close(self) -> None:
        """Start no more threads."""
        if self._starter is not None:
            self._starter.leave()


def fits_slots(spec: ModelSpec) -> bool:
    """Say whether batches differ in nothing but their rows, so that their buffers can be there before."""
    required = [each for each in spec.inputs if not each.optional]
    return spec.rows_max > 0 and bool(required) and all(map(_by_rows, (*required, *spec.outputs)))


def takes_anything(spec: ModelSpec) -> bool:
    """Say whether a version has to run on whatever values: shapes are known, and no input can be an index."""
    required = [each for each in spec.inputs if not each.optional]
    small = all(each.datatype.dtype.kind in "fV" or 0 < each.datatype.itemsize < 4 for each in required)
    return small and not any(-1 in each.shape[1:] for each in required)


def _by_rows(spec: TensorSpec) -> bool:
    known = all(size > 0 for size in spec.shape[1:])  # There are no buffers of no bytes.
    return spec.shape[:1] == (-1,) and known and spec.datatype.itemsize > 0


def measured(session: DeviceSession, spec: ModelSpec, sample: Sampled, stop: Stop, until_s: float) -> Times:
    """Run batches of several sizes; those in between only while there is time, by `perf_counter`."""
    run_ns: dict[int, int] = {}
    copy_ns: dict[int, int] = {}
    for rows in points(spec.rows_max):
        if stop.used:
            raise Expired("its first runs took too long")
        if perf_counter() > until_s and len(run_ns) > 1:
            log.warning("version=%s event=measured_partly sizes=%d", spec, len(run_ns))
            break
        run_ns[rows], copy_ns[rows] = session.timed(rows, sample.feeds(rows))
    return Times(run_ns, copy_ns)
