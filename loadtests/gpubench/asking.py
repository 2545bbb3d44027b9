"""What is asked of a case: the same requests over HTTP, over gRPC, and through shared memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.gpubench.cases import Case
from loadtests.gpubench.regions import HOST
from loadtests.gpubench.shared import Shared, shared
from serving.bench.arrivals import Arrivals
from serving.bench.load import Plan
from serving.bench.messages import Speech, calling
from serving.bench.plan import Calling
from serving.bench.questions import Manner, Question

SAMPLES_MAX, SAMPLES_MIN, SAMPLES_BYTES = 1024, 16, 32 << 20
"""So many different requests, as far as they take no more than this."""
STREAMS = 32
"""Calls under way on a connection of gRPC, where there are so many."""
TIMEOUT_S = 10.0
ALIKE = 0.1


class Protocol(StrEnum):
    """How tensors get to the gateway and back."""

    HTTP = "http"
    GRPC = "grpc"
    SHARED = "shared"
    """System shared memory, with requests over HTTP."""
    CUDA = "cuda"
    """Shared memory of the GPU, likewise."""


@dataclass(frozen=True)
class Asked:
    """The requests of one case."""

    case: Case

    @cached_property
    def samples(self) -> list[Mapping[str, NDArray[Any]]]:
        """Return the inputs of each request."""
        fitting = SAMPLES_BYTES // self.case.request_bytes
        return [self.case.sample(number) for number in range(min(SAMPLES_MAX, max(SAMPLES_MIN, fitting)))]


@dataclass(frozen=True, slots=True)
class Way:
    """A protocol with everything that it takes to ask by it."""

    protocol: Protocol
    asked: Asked
    port: int
    questions: Sequence[Question]
    shared: Shared | None = None
    others: Sequence[int] = ()
    """Ports of further gateways that are asked as well."""

    def plan(self, clients: int, rate_per_s: float, seconds: float, warm_s: float) -> Plan:
        """Return the load: `clients` that ask again when they were answered, or a rate if there is one."""
        call = self.calling(clients)
        connections = clients if call is None else max(clients // call.streams, 1)
        return Plan(
            (HOST, self.port),
            self.asked.case.name,
            self.questions,
            rate_per_s,
            Arrivals.POISSON if rate_per_s else Arrivals.CLOSED,
            seconds,
            warm_s,
            connections=connections,
            connections_max=connections,
            timeout_s=TIMEOUT_S,
            calling=call,
            others=[(HOST, port) for port in self.others],
        )

    def calling(self, clients: int) -> Calling | None:
        """Return how calls are made over gRPC; None if this is not about it."""
        if self.protocol is not Protocol.GRPC:
            return None
        return calling(f"{HOST}:{self.port}", streams=min(clients, STREAMS))


def over_http(asked: Asked, port: int, others: Sequence[int] = ()) -> Way:
    """Ask over HTTP, with binary tensors."""
    manner = Manner(f"/v2/models/{asked.case.name}/infer", HOST)
    return Way(Protocol.HTTP, asked, port, _questions(manner.question, asked), others=others)


def over_grpc(asked: Asked, port: int) -> Way:
    """Ask over gRPC."""
    return Way(Protocol.GRPC, asked, port, _questions(Speech(asked.case.name).question, asked))


@contextlib.contextmanager
def through_memory(asked: Asked, port: int, *, cuda: bool = False) -> Iterator[Way]:
    """Put the samples into shared memory, and let the gateway know of it until the block ends."""
    with shared(asked.case, asked.samples, port, cuda=cuda) as made:
        protocol = Protocol.CUDA if cuda else Protocol.SHARED
        yield Way(protocol, asked, port, made.questions(), made)


def _questions(make: Callable[[Mapping[str, NDArray[Any]], int], Question], asked: Asked) -> list[Question]:
    return [make(sample, number) for number, sample in enumerate(asked.samples)]


def alike(got: NDArray[Any], want: NDArray[Any]) -> bool:
    """Say whether an answer is what it should be: within a tenth of how its numbers are spread.

    Sums of 16 bits, or of TF32, in another order and through fifty layers differ by a few hundredths of that;
    the answer to another request by more than all of it.
    """
    if got.shape != want.shape:
        return False
    wanted = want.astype(np.float64)
    return bool((np.abs(got.astype(np.float64) - wanted) <= ALIKE * wanted.std()).all())
