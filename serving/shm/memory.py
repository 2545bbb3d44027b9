"""What do requests find in shared memory, and what do their answers leave there?"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from serving import elements
from serving.calls import weight_bytes
from serving.codec_binary import payload
from serving.config import Limits, SharedMemory
from serving.errors import Invalid, TooLarge, TurnoutError, Unavailable, Unknown
from serving.expect import JsonObject
from serving.memo import Memo
from serving.shm.kinds import Kind, Shared, Source, unoffered
from serving.shm.region import Files
from serving.shm.register import NONE, Register
from serving.shm.terms import Stretch, Terms, terms
from serving.slots import Slots
from serving.wire import Call, InferRequest, Payload, Reply, Results, Window

log = logging.getLogger("turnout.shm")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class Memory:
    """The shared memory of one replica. On the event loop, but for `Loan.__del__`.

    Parameters
    ----------
    folder : Path
        The deployment's private one, in which the replicas of a node share what is registered.
    cuda : Source, optional
        Memory on a GPU, if that is offered.
    """

    def __init__(
        self, config: SharedMemory, limits: Limits, folder: Path, cuda: Source | None = None
    ) -> None:
        self._sources: dict[Kind, Source] = {}
        if config.enabled:
            self._sources[Kind.SYSTEM] = Files(config.prefix)
        if cuda is not None:
            self._sources[Kind.CUDA] = cuda
        self._limits = limits
        self._register = Register(folder, config.regions_max, config.bytes_max)
        self._entries = self._register.entries()
        self._regions: dict[str, Shared] = {}
        self._tried = NONE
        self._slots = Slots()
        self._terms: Memo[Call, Terms] = Memo(entries_max=4096, entry_bytes_max=4096)
        self._lent_bytes = 0
        self.returned: list[int] = []
        """What loans had that are over: any thread may be the last to hold one."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Which kinds of memory are offered."""
        return tuple(self._sources)

    def register(self, name: str, asked: JsonObject, kind: Kind = Kind.SYSTEM) -> None:
        """Register a region, for all replicas of the node.

        Raises
        ------
        Invalid, TooLarge
            If there is no such memory, it is not to be used, or there is too much already.
        """
        source = self._source(kind)
        region = source.find(source.asked(named(name), asked))
        self._register.add(region.entry)
        self._look()
        self._regions[name] = region

    def unregister(self, name: str, kind: Kind = Kind.SYSTEM) -> None:
        """Forget a region, or all of a kind without a name; requests under way keep what they have of it."""
        self._source(kind)
        self._register.remove(named(name) if name else "", kind)
        self._look()

    def status(self, name: str, kind: Kind = Kind.SYSTEM) -> list[dict[str, Any]]:
        """Say what is registered: one region, or all of a kind.

        Raises
        ------
        Unknown
            If there is none of that name.
        """
        source = self._source(kind)
        self._look()
        found = [each for each in self._entries.values() if each.kind is kind and name in ("", each.name)]
        if name and not found:
            raise Unknown(f"no region {name!r} is registered")
        return [source.shown(each) for each in found]

    def open_all(self) -> None:
        """Open what was registered elsewhere, before its name is taken from it, and let go of the rest."""
        try:
            self._look()
        except OSError as error:  # No descriptor is left, or the deployment is at its end.
            log.debug("event=regions_not_read reason=%r", str(error))
        if self._tried is self._entries:
            return
        self._tried = self._entries
        for name in self._entries.keys() - self._regions.keys():
            with suppress(TurnoutError):  # Whoever means it is told.
                self._region(name)

    def lend(self, request: InferRequest) -> None:
        """Give a request the inputs that are in shared memory, and see to its outputs that go there.

        Raises
        ------
        Invalid, TooLarge, Unavailable
            If a region is not registered, has not what the request means, or too much is under way.
        """
        self._look()
        wanted = self._terms_of(request.call)
        size_bytes = wanted.size_bytes
        if size_bytes > self._limits.body_bytes_max:
            raise TooLarge(
                f"{size_bytes} bytes of inputs in shared memory; "
                f"limits.body_bytes_max is {self._limits.body_bytes_max}"
            )
        self._settle()
        if self._lent_bytes + size_bytes > self._limits.bodies_bytes_max:
            raise Unavailable("too many large requests at once; try again later")
        payloads = list(request.payloads)
        for stretch in wanted.stretches:
            self._read(stretch, payloads)
        targets = {name: (window, self._checked(window)) for name, window in wanted.targets.items()}
        request.payloads = payloads
        self._lent_bytes += size_bytes
        request.reply = Loan(self, request.reply, targets, size_bytes)

    def close(self) -> None:
        """Let go of everything."""
        self._regions.clear()
        self._register.close()

    def _terms_of(self, call: Call) -> Terms:
        known = self._terms.get(call) or self._terms.recall(call)
        if known is None:
            known = terms(call)
            self._terms.keep(call, known, weight_bytes(call))
        return known

    def _read(self, stretch: Stretch, payloads: list[Payload]) -> None:
        window, pieces = stretch.window, stretch.pieces
        region = self._region(window.region)
        for each in pieces:
            region.entry.check(each.window)
        data = region.read(window, self._slots.take(window.size_bytes))
        if len(pieces) == 1:
            index, tensor = pieces[0].index, pieces[0].tensor
            payloads[index] = payload(data, tensor, f"$.inputs[{index}]")
            return
        for each in pieces:
            piece = data[each.start : each.stop]
            payloads[each.index] = payload(piece, each.tensor, f"$.inputs[{each.index}]")

    def _checked(self, window: Window) -> Shared:
        region = self._region(window.region)
        region.entry.check(window)
        return region

    def _region(self, name: str) -> Shared:
        region = self._regions.get(name)
        if region is None:
            if name not in self._entries:
                raise Invalid(f"no region {name!r} is registered")
            entry = self._entries[name]
            region = self._regions[name] = self._source(entry.kind).find_again(entry)
        return region

    def _source(self, kind: Kind) -> Source:
        if kind not in self._sources:
            raise unoffered(kind)
        return self._sources[kind]

    def _look(self) -> None:
        """Let go of regions that are no longer registered, here or by another replica."""
        entries = self._register.entries()
        if entries is not self._entries:
            self._entries = entries
            kept = self._regions.items()
            self._regions = {name: each for name, each in kept if entries.get(name) == each.entry}

    def _settle(self) -> None:
        if self.returned:
            settled = self.returned[:]
            del self.returned[: len(settled)]
            self._lent_bytes -= sum(settled)


class Loan:
    """What a request has of shared memory, and its `Reply`: outputs are put there before it is answered."""

    __slots__ = ("_memory", "_reply", "_size_bytes", "_targets")

    def __init__(
        self, memory: Memory, reply: Reply, targets: dict[str, tuple[Window, Shared]], size_bytes: int
    ) -> None:
        self._memory = memory
        self._reply = reply
        self._targets = targets
        self._size_bytes = size_bytes

    def __del__(self) -> None:
        self._memory.returned.append(self._size_bytes)

    def answer(self, request: InferRequest, results: Results, start: int, stop: int) -> None:
        """Put outputs where they are wanted, and answer."""
        written = []
        for index, spec in enumerate(results.outputs):
            if spec.name in self._targets:
                window, region = self._targets[spec.name]
                data = _bytes_of(results, index, start, stop)
                if len(data) > window.size_bytes:
                    raise Invalid(
                        f"output {spec.name!r} takes {len(data)} bytes; "
                        f"shared_memory_byte_size has room for {window.size_bytes}"
                    )
                written.append((region, window, data))
        for region, window, data in written:
            region.write(window, data)
        self._reply.answer(request, results, start, stop)

    def fail(self, request: InferRequest, error: TurnoutError) -> None:
        """Tell why there is no answer."""
        self._reply.fail(request, error)


def named(name: str) -> str:
    """Return `name` if a region can have it."""
    if _NAME.fullmatch(name):
        return name
    raise Invalid("a region's name is 1 to 128 letters, digits, '.', '_' and '-', the first no '.' or '-'")


def _bytes_of(results: Results, index: int, start: int, stop: int) -> memoryview:
    """Return an output's elements: a view, but for BYTES."""
    spec, part = results.outputs[index], results.part(index, start, stop)
    if not spec.datatype.itemsize:
        return memoryview(elements.strings_to_bytes(part, spec.name))
    return part.reshape(-1).view(np.uint8).data
