"""Would the benchmark notice a gateway that does not overlap? A device that is fed only when it is idle."""

from __future__ import annotations

import time

from loadtests.gpubench.simulated import SimulatedAccelerator, SimulatedSlot


class Breathless(SimulatedAccelerator):
    """Copies a batch in when all runs before it are over, as a gateway would that knows one thing at a time.

    So the device idles for as long as each copy takes.
    """

    def stage(self, slot: SimulatedSlot, rows: int) -> None:
        """Wait for the end of what runs, then queue the copy."""
        left_ns = self.device.runs.free_ns - self.device.now_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
        super().stage(slot, rows)

    def launch(self, slot: SimulatedSlot, rows: int) -> None:
        """Queue the run, behind a copy that was not begun before the end of all others."""
        copy_ns = self.device.copy_ns(sum(array[:rows].nbytes for array in slot.inputs.values()))
        slot.copied_ns = max(slot.copied_ns, self.device.runs.free_ns + copy_ns)
        super().launch(slot, rows)
