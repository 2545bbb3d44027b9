"""What have versions done, in the words of Triton's statistics extension?

https://github.com/triton-inference-server/server, docs/protocol/extension_statistics.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from serving.ledger import MORE, Size, Snapshot
from serving.metrics import Reading, VersionReading

EPOCH_NS = time.time_ns() - time.monotonic_ns()
"""The moment at which the monotonic clock would have been 0, by the wall clock when this process began."""


class Totals:
    """Reads what a node's replicas have counted, once for all who ask at the same time.

    Parameters
    ----------
    read : callable
        May take a second, for replicas that do not answer, and is called in a thread.
    """

    def __init__(self, read: Callable[[], Reading] = Reading) -> None:
        self.read = read
        self._now: asyncio.Task[Reading] | None = None
        self._next: asyncio.Task[Reading] | None = None

    async def get(self) -> Reading:
        """Return a reading that was begun after this call."""
        # Who asks while one is under way waits for the next: what he did before must be in it.
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._after(self._now))
        return await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[Reading] | None) -> Reading:
        if before is not None:
            await asyncio.wait({before})
        self._now, self._next = self._next, None
        return await asyncio.get_running_loop().run_in_executor(None, self.read)


def document(
    reading: Reading, model: str = "", version: str = "", epoch_ns: int = EPOCH_NS
) -> dict[str, Any]:
    """Return the statistics of all versions that are loaded somewhere, or of a model's, or of one.

    Parameters
    ----------
    epoch_ns : int
        When the monotonic clock, by which readings are stamped, would have been 0.
    """
    wanted = [
        (key, each)
        for key, each in reading.versions.items()
        if each.loaded and model in ("", key[0]) and version in ("", key[1])
    ]
    wanted.sort(key=lambda item: (item[0][0], int(item[0][1])))
    return {"model_stats": [_of_version(*key, each, epoch_ns) for key, each in wanted]}


def _of_version(model: str, version: str, reading: VersionReading, epoch_ns: int) -> dict[str, Any]:
    counts = reading.counts
    return {
        "name": model,
        "version": version,
        "last_inference": (epoch_ns + counts.last_ns) // 1_000_000 if counts.last_ns else 0,
        "inference_count": counts.rows,
        "execution_count": counts.runs,
        "inference_stats": _of_requests(counts),
        "batch_stats": list(_of_batches(counts.sizes)),
        "memory_usage": [_memory(device, size) for device, size in sorted(reading.memory_bytes.items())],
    }


def _of_requests(counts: Snapshot) -> dict[str, Any]:
    requests = counts.requests
    return {
        "success": _duration(requests, counts.request.total_ns),
        "fail": _duration(sum(counts.failures.values()), counts.fail_ns),
        "queue": _duration(requests, counts.queue.total_ns),
        "compute_input": _duration(requests, counts.input_ns),
        "compute_infer": _duration(requests, counts.infer.total_ns),
        "compute_output": _duration(requests, counts.output_ns),
        "cache_hit": _duration(0, 0),
        "cache_miss": _duration(0, 0),
    }


def _of_batches(sizes: Iterable[Size]) -> Iterable[dict[str, Any]]:
    for size in sizes:
        # Batches that large are counted together, and there is no number for "more than".
        if size.rows != MORE:
            yield {
                "batch_size": size.rows,
                "compute_input": _duration(size.runs, size.input_ns),
                "compute_infer": _duration(size.runs, size.infer_ns),
                "compute_output": _duration(size.runs, size.output_ns),
            }


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def _memory(device: str, byte_size: int) -> dict[str, Any]:
    kind, _, number = device.partition(":")
    return {"type": "GPU" if kind == "cuda" else kind.upper(), "id": int(number or 0), "byte_size": byte_size}
