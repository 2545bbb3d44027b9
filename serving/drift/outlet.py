"""Where does a shadow's process write the rows of what it ran? Into rings that another process counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from serving.drift import features
from serving.drift.features import Misfit
from serving.drift.flow import Flow
from serving.drift.ring import MISFIT, RowRing
from serving.drift.view import Look
from serving.model import ModelSpec


class Outlets:
    """What a shadow is given.

    Parameters
    ----------
    spec : ModelSpec
        The shadow's version.
    flows : list of Flow
        A stream for each tensor that is counted; others may take their places.
    queue_bytes : int
        Of each ring.
    """

    def __init__(self, spec: ModelSpec, flows: list[Flow], queue_bytes: int) -> None:
        self.spec = spec
        self.flows = flows
        self._queue_bytes = queue_bytes

    @property
    def fds(self) -> tuple[int, ...]:
        """The rings' memory."""
        return tuple(flow.ring.fd for flow in self.flows)

    def task(self) -> list[dict[str, Any]]:
        """Return what `Outlet` is made from, in another process, as plain values."""
        return [
            {"fd": flow.ring.fd, "bytes": self._queue_bytes, "look": flow.look.to_json()}
            for flow in self.flows
        ]


class Outlet:
    """One tensor's, in the process that writes."""

    def __init__(self, fd: int, bytes_max: int, look: Look) -> None:
        self._look = look
        self._ring = RowRing(look.dtype, look.elements, bytes_max, fd)

    def put(self, feeds: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Write what a run took and gave."""
        array = (feeds if self._look.of == "input" else outputs).get(self._look.tensor)
        if array is None:
            return
        try:
            self._ring.put(features.rows(self._look, array))
        except Misfit:
            self._ring.refuse(MISFIT, len(array) if array.ndim > len(self._look.shape) else 1)


def outlets(task: Sequence[Mapping[str, Any]]) -> list[Outlet]:
    """Make them from what `Outlets.task` returned."""
    return [Outlet(each["fd"], each["bytes"], Look.from_json(each["look"])) for each in task]
