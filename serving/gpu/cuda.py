"""Which versions are put on a GPU with buffers of their own there, and which are left to plain runs?"""

from __future__ import annotations

import logging
from typing import Any

from serving.config import Config
from serving.gpu.bound import BoundAccelerator, slot_size
from serving.gpu.need import check_buffers
from serving.gpu.pace import DEPTH_MAX
from serving.gpu.placing import fits_slots
from serving.gpu.providers import on_gpu
from serving.model import ModelSpec

log = logging.getLogger("turnout.gpu")


def accelerate(session: Any, spec: ModelSpec, settings: Config) -> BoundAccelerator | None:
    """Return the version on the GPU that it was opened on; None if it cannot be bound to buffers there.

    That is so if its batches differ in more than rows, or it reads or writes some of them elsewhere.

    Raises
    ------
    NoRoom
        If its buffers would not fit there.
    """
    where = on_gpu(session)
    if where is None or not fits_slots(spec) or not all_on(session, where.driver.kind):
        log.info("version=%s event=plain_runs", spec)
        return None
    check_buffers(where.driver, DEPTH_MAX * slot_size(spec), settings.gpu)
    return BoundAccelerator(session, spec, where.driver, where.stream, graphs=where.graphs)


def all_on(session: Any, kind: str) -> bool:
    """Say whether ONNX Runtime reads all inputs, and writes all outputs, on a device of this kind.

    One that it reads elsewhere it copies there when it is bound, and never again: each batch would get what
    the first one had (https://github.com/microsoft/onnxruntime/issues/5857).
    """
    places = [*session.get_input_memory_infos(), *session.get_output_memory_infos()]
    return all(each.name.lower() == kind for each in places)
