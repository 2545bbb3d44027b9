"""What do the GPUs of this replica say of themselves, to whoever asks, and however long they take?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any

from serving.config import Config
from serving.device import gpus
from serving.gpu.driver import DriverError
from serving.gpu.reading import GpuReading
from serving.gpu.visible import uuids
from serving.model import Device

log = logging.getLogger("turnout.gpu")

ANSWER_S_MAX = 0.25
"""How long a scrape waits for GPUs; a node's replicas have 1 s for all that they tell (`serving.peers`)."""
PREFIXES = ("GPU-", "MIG-")
"""Of the names of whole GPUs, and of parts of one."""

Gpus = Mapping[str, GpuReading]
"""By the GPU's name."""


class Meter:
    """Asks GPUs, in a thread of its own: a GPU that is falling off its bus may not answer for minutes.

    Whoever comes while they are being asked gets the same answer.

    Parameters
    ----------
    nvml : object
        NVIDIA's module `pynvml`, or what has its functions and raises its `NVMLError`.
    named : callable
        Returns the GPUs' UUIDs. Called once, in the thread.
    """

    def __init__(
        self, nvml: Any, named: Callable[[], Sequence[str]], answer_s_max: float = ANSWER_S_MAX
    ) -> None:
        self._nvml = nvml
        self._named = named
        self._answer_s_max = answer_s_max
        self._lock = Lock()
        self._asked: Future[Gpus] | None = None
        self._until_s = 0.0
        self._begun = False
        self._uuids: Sequence[str] = ()
        self._silent: set[str] = set()

    def __repr__(self) -> str:
        return f"<Meter: {len(self._uuids)} GPUs, silent: {sorted(self._silent)}>"

    def read(self) -> Gpus:
        """Return what the GPUs say, within `answer_s_max`; the silent are left out. Any thread."""
        asked = self.ask()
        try:
            return asked.result(max(0.0, self._until_s - time.monotonic()))
        except TimeoutError:
            self._told("all", f"no answer within {self._answer_s_max:g} s")
            return {}

    def ask(self) -> Future[Gpus]:
        """Have the GPUs asked, unless they are being asked; nobody waits for it."""
        with self._lock:
            asked = self._asked
            if asked is None or asked.done():
                asked = self._asked = Future()
                self._until_s = time.monotonic() + self._answer_s_max
                Thread(target=self._ask, args=(asked,), name="turnout-nvml", daemon=True).start()
        return asked

    def _ask(self, asked: Future[Gpus]) -> None:
        """Have the GPUs tell. The thread's body; an answer that comes too late is nobody's."""
        said: Gpus = {}
        try:
            said = self._all()
            if time.monotonic() < self._until_s:  # Who is always late is silent, and not anew each time.
                self._told("all", "")
        except (DriverError, self._nvml.NVMLError) as error:
            self._told("all", str(error))
        except Exception:  # Whatever it is, a scrape does without.
            log.exception("event=gpus_not_read")
        finally:
            asked.set_result(said)

    def _all(self) -> Gpus:
        if not self._begun:
            self._nvml.nvmlInit()
            self._uuids = self._named()
            self._begun = True
        readings = {}
        for uuid in self._uuids:
            try:
                name, handle = self._found(uuid)
                readings[name] = self._one(handle)
                self._told(uuid, "")
            except self._nvml.NVMLError as error:
                self._told(uuid, str(error))
        return readings

    def _found(self, uuid: str) -> tuple[str, Any]:
        """Return a GPU's name, and what NVML calls it."""
        for prefix in PREFIXES[:-1]:
            try:
                return prefix + uuid, self._nvml.nvmlDeviceGetHandleByUUID(prefix + uuid)
            except self._nvml.NVMLError as error:
                if error.value not in (
                    self._nvml.NVML_ERROR_NOT_FOUND,
                    self._nvml.NVML_ERROR_INVALID_ARGUMENT,
                ):
                    raise
        return PREFIXES[-1] + uuid, self._nvml.nvmlDeviceGetHandleByUUID(PREFIXES[-1] + uuid)

    def _one(self, handle: Any) -> GpuReading:
        nvml = self._nvml
        rates = self._asked_of(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._asked_of(nvml.nvmlDeviceGetMemoryInfo, handle)
        power_mw = self._asked_of(nvml.nvmlDeviceGetPowerUsage, handle)
        power_mw_max = self._asked_of(nvml.nvmlDeviceGetPowerManagementLimit, handle)
        energy_mj = self._asked_of(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        return GpuReading(
            None if rates is None else rates.gpu / 100,
            None if memory is None else int(memory.total),
            None if memory is None else int(memory.used),
            None if power_mw is None else power_mw / 1000,
            None if power_mw_max is None else power_mw_max / 1000,
            None if energy_mj is None else energy_mj / 1000,
        )

    def _asked_of(self, ask: Callable[[Any], Any], handle: Any) -> Any:
        """Return what a GPU says, None where it has nothing to say about that."""
        nvml = self._nvml
        untold = (
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_INVALID_ARGUMENT,  # Of a part of a GPU.
            nvml.NVML_ERROR_NO_PERMISSION,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,  # Of a driver that is older.
            nvml.NVML_ERROR_NO_DATA,
        )
        try:
            return ask(handle)
        except nvml.NVMLError as error:
            if error.value in untold:
                return None
            raise

    def _told(self, who: str, why: str) -> None:
        """Log that a GPU fell silent, once until it speaks again."""
        with self._lock:
            if bool(why) is (who in self._silent):
                return
            self._silent.symmetric_difference_update({who})
        if why:
            log.warning("event=gpu_silent gpu_uuid=%s reason=%r", who, why)
        else:
            log.info("event=gpu_speaks gpu_uuid=%s", who)


def meter(config: Config) -> Meter | None:
    """Return what asks this replica's GPUs; None where it has none or uses none, or nothing is counted."""
    if not config.metrics.enabled or config.engine.device is Device.CPU or not gpus():
        return None
    import pynvml

    made = Meter(pynvml, uuids)
    made.ask()  # The first time takes longest.
    return made
