"""What does a request say whose tensors are in shared memory, and where do its inputs and its answer lie?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from loadtests.gpubench.cases import Case
from loadtests.gpubench.regions import HOST, Cuda, Region, System, registered
from serving.bench.questions import NO_ID, Question, datatype

ALIGNMENT = 64
OPENING = b'{"id":"'
Sample = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is."""

    region: str
    offset: int
    size: int

    @property
    def parameters(self) -> dict[str, Any]:
        """Return what a request says of it."""
        return {
            "shared_memory_region": self.region,
            "shared_memory_offset": self.offset,
            "shared_memory_byte_size": self.size,
        }


def places(region: str, sizes: Sequence[Mapping[str, int]]) -> tuple[list[dict[str, Place]], int]:
    """Return a place for each tensor, and how large the region has to be."""
    made: list[dict[str, Place]] = []
    at = 0
    for each in sizes:
        made.append({})
        for name, size in each.items():
            made[-1][name] = Place(region, at, size)
            at += -(-size // ALIGNMENT) * ALIGNMENT
    return made, at


@dataclass(frozen=True, slots=True)
class Shared:
    """A case's requests with their tensors in two regions."""

    case: Case
    samples: Sequence[Sample]
    inputs: Sequence[Mapping[str, Place]]
    outputs: Sequence[Place]
    answers: Region

    def questions(self) -> list[Question]:
        """Return the requests over HTTP."""
        return [self._question(number) for number in range(len(self.inputs))]

    def _question(self, number: int) -> Question:
        inputs = [
            {
                "name": name,
                "datatype": datatype(values),
                "shape": values.shape,
                "parameters": self.inputs[number][name].parameters,
            }
            for name, values in self.samples[number].items()
        ]
        outputs = [{"name": "y", "parameters": self.outputs[number].parameters}]
        body = OPENING + NO_ID + b'",' + orjson.dumps({"inputs": inputs, "outputs": outputs})[1:]
        lines = f"POST /v2/models/{self.case.name}/infer HTTP/1.1", f"Host: {HOST}"
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
        return Question(bytearray(head + body), len(head) + len(OPENING))

    def answer(self, number: int) -> NDArray[Any]:
        """Return what the gateway wrote for a request."""
        place = self.outputs[number]
        flat = np.frombuffer(self.answers.read(place.offset, place.size), self.case.dtype)
        return flat.reshape(1, self.case.width)


@contextlib.contextmanager
def shared(case: Case, samples: Sequence[Sample], port: int, *, cuda: bool = False) -> Iterator[Shared]:
    """Put samples into memory that the gateway at `port` knows until the block ends.

    Raises
    ------
    BenchError
        If there can be no such memory, or the gateway does not take it.
    """
    make = Cuda if cuda else System
    inputs, x_bytes = places(
        "x", [{name: each.nbytes for name, each in sample.items()} for sample in samples]
    )
    outputs, y_bytes = places("y", [{"y": case.answer_bytes}] * len(samples))
    with registered(make, "x", x_bytes, port) as x, registered(make, "y", y_bytes, port) as y:
        for sample, where in zip(samples, inputs, strict=True):
            for name, values in sample.items():
                x.write(where[name].offset, values.tobytes())
        yield Shared(case, samples, inputs, [each["y"] for each in outputs], y)
