"""How does a benchmark serve models on a device that is not there?

    python -m loadtests.gpubench.served serve --local --config FILE

is `turnout` with a simulated device in the place of a GPU. The device is on a page beside the folder that the
configuration names for the state; whoever is started with a folder there uses the same one.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from loadtests.gpubench.cases import BY_NAME
from loadtests.gpubench.joint import JointDevice
from loadtests.gpubench.page import Page
from loadtests.gpubench.simulated import SimulatedAccelerator
from loadtests.gpubench.standin import answering
from loadtests.gpubench.times import COPY_BYTES_PER_S
from serving import cli, local
from serving.config import Config
from serving.model import ModelSpec


def page_file(folder: Path) -> Path:
    """Return where the page is of the gateways whose states are in this folder."""
    return folder / "device.page"


class Machine:
    """A machine with one simulated device, on which all versions are put."""

    def __init__(self) -> None:
        self._device: JointDevice | None = None

    def accelerate(self, _session: Any, spec: ModelSpec, settings: Config) -> SimulatedAccelerator:
        """Put a version on the device."""
        if self._device is None:
            self._device = JointDevice(COPY_BYTES_PER_S, Page(page_file(settings.repository.state.parent)))
        case, version = BY_NAME[spec.artifact.model], spec.artifact.version
        compute = answering(case, version)
        return SimulatedAccelerator(case.run_ns, COPY_BYTES_PER_S, compute, spec, self._device)


def main() -> int:
    """Serve so."""
    local.Serving = partial(local.Serving, accelerate=Machine().accelerate)  # type: ignore[assignment, misc, arg-type]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
