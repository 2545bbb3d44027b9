"""What an inference request is, whichever protocol it came in: the terms all codecs share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from serving.errors import TurnoutError

if TYPE_CHECKING:
    from serving.evidence.page import Page

Payload = bytes | memoryview | NDArray[np.object_]
"""One tensor's elements: little-endian and row-major; an object array of str for BYTES."""


@dataclass(frozen=True, slots=True)
class Datatype:
    """A V2 datatype, and what it is called elsewhere.

    `itemsize` is in bytes, and 0 for BYTES, whose elements vary. BF16's array form is
    `ml_dtypes.bfloat16`, as in tritonclient.
    """

    name: str
    itemsize: int
    dtype: np.dtype[Any]
    onnx_type: str
    config_type: str


def _datatype(name: str, dtype: Any, onnx_type: str, config_type: str | None = None) -> Datatype:
    form = np.dtype(dtype)
    itemsize = 0 if form == np.object_ else form.itemsize
    return Datatype(name, itemsize, form, f"tensor({onnx_type})", f"TYPE_{config_type or name}")


DATATYPES: dict[str, Datatype] = {
    each.name: each
    for each in (
        _datatype("BOOL", np.bool_, "bool"),
        _datatype("UINT8", np.uint8, "uint8"),
        _datatype("UINT16", np.uint16, "uint16"),
        _datatype("UINT32", np.uint32, "uint32"),
        _datatype("UINT64", np.uint64, "uint64"),
        _datatype("INT8", np.int8, "int8"),
        _datatype("INT16", np.int16, "int16"),
        _datatype("INT32", np.int32, "int32"),
        _datatype("INT64", np.int64, "int64"),
        _datatype("FP16", np.float16, "float16"),
        _datatype("FP32", np.float32, "float"),
        _datatype("FP64", np.float64, "double"),
        _datatype("BYTES", np.object_, "string", "STRING"),
        _datatype("BF16", ml_dtypes.bfloat16, "bfloat16"),
    )
}
BY_ONNX_TYPE = {each.onnx_type: each for each in DATATYPES.values()}
BY_CONFIG_TYPE = {each.config_type: each for each in DATATYPES.values()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor in a model's signature. `shape` is the whole one, batch included; -1 is any size."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    optional: bool = False

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Say whether a tensor of this `shape` may be given here."""
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )


class Window(NamedTuple):
    """A part of a region of shared memory, where a tensor's elements are or are to be put."""

    region: str
    offset: int
    size_bytes: int

    def parameters(self) -> dict[str, str | int]:
        """Return it as the parameters of a tensor."""
        said: dict[str, str | int] = {"shared_memory_region": self.region}
        if self.offset:
            said["shared_memory_offset"] = self.offset
        return {**said, "shared_memory_byte_size": self.size_bytes}


@dataclass(frozen=True, slots=True)
class TensorIn:
    """An input tensor as a request declares it, without its elements."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    window: Window | None = None
    """Where its elements are, unless they are in the request."""

    @property
    def elements(self) -> int:
        """How many elements the shape holds; exact, however large."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class TensorOut:
    """An output tensor as a request asks for it. `classes` > 0 asks for the top classes instead."""

    name: str
    binary: bool = False
    classes: int = 0
    window: Window | None = None
    """Where its elements are to be put, unless they are to be in the answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """Everything about a request but its id, its elements and its moment.

    Clients repeat themselves: codecs intern calls, so that what follows from one (validation
    against a model, the response's head) is worked out once. Hence compared by identity.
    """

    inputs: tuple[TensorIn, ...]
    outputs: tuple[TensorOut, ...] | None = None
    """None asks for all of the model's outputs."""
    binary: bool = False
    """How outputs are returned that `outputs` does not name: `binary_data_output`."""
    timeout_us: int = 0
    """The `timeout` parameter; 0 leaves it to the server."""
    priority: int = 0
    """The `priority` parameter; 1 is the highest, 0 the model's default."""
    parameters: tuple[tuple[str, str | int | float | bool], ...] = field(default=())
    """All other request parameters."""
    shared: bool = field(init=False)
    """Some of its tensors are in shared memory."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shared", bool(self.windows()))

    def windows(self) -> list[Window]:
        """Return where tensors are, or are to be put, that are in shared memory."""
        windows = [*[each.window for each in self.inputs], *[each.window for each in self.outputs or ()]]
        return [each for each in windows if each is not None]

    def window(self, output: str) -> Window | None:
        """Return where the output of this name is to be put, unless it is to be in the answer."""
        return next((each.window for each in self.outputs or () if each.name == output), None)


Recent = tuple[Any, ...]
"""For whoever writes the answers: what the answer before was like, and how it was written."""


class Results:
    """The outputs of one run, which one or more requests share.

    Parameters
    ----------
    model, version : str
        Who answered.
    outputs : tuple of TensorSpec
        The model's outputs, in the order of `arrays`.
    arrays : sequence of ndarray
        C-contiguous, of the outputs' dtypes; BYTES as object arrays of str.
    rows : int
        The batch's rows, which is the first dimension of every array; 0 if the model does not
        batch, in which case the arrays belong to one request as they are.
    """

    __slots__ = ("arrays", "blobs", "model", "outputs", "recent", "rows", "tails", "version")

    def __init__(
        self,
        model: str,
        version: str,
        outputs: tuple[TensorSpec, ...],
        arrays: Sequence[NDArray[Any]],
        rows: int,
    ) -> None:
        self.model = model
        self.version = version
        self.outputs = outputs
        self.arrays = arrays
        self.rows = rows
        if rows:
            self.tails = tuple([array.shape[1:] for array in arrays])
        else:
            self.tails = tuple([array.shape for array in arrays])
        self.blobs: dict[int, tuple[bytes, int]] = {}
        """The outputs as bytes so far, and what a row has of them."""
        self.recent: Recent | None = None

    def shape(self, index: int, start: int, stop: int) -> tuple[int, ...]:
        """Return the shape of output `index` for the request of rows `start` to `stop`."""
        return (stop - start, *self.tails[index]) if self.rows else self.tails[index]

    def part(self, index: int, start: int, stop: int) -> NDArray[Any]:
        """Return output `index` of the request of rows `start` to `stop`."""
        array = self.arrays[index]
        return array[start:stop] if self.rows else array

    def raw(self, index: int, start: int, stop: int) -> bytes:
        """Return the same as bytes on the wire, for every datatype but BYTES.

        A batch is serialised once and cut, which is cheaper than a view and a copy for each.
        """
        rows = self.rows
        if not rows or stop - start == rows:
            return self.arrays[index].tobytes()
        data, row_bytes = self.blobs.get(index) or self.blob(index)
        return data[start * row_bytes : stop * row_bytes]

    def blob(self, index: int) -> tuple[bytes, int]:
        """Serialise output `index` of a whole batch; return it with the bytes of a row."""
        data = self.arrays[index].tobytes()
        self.blobs[index] = blob = (data, len(data) // self.rows)
        return blob


class Reply(Protocol):
    """Where a request's answer goes. Called once, on the event loop, with one or the other."""

    def answer(self, request: InferRequest, results: Results, start: int, stop: int) -> None:
        """Send rows `start` to `stop` of `results`."""

    def fail(self, request: InferRequest, error: TurnoutError) -> None:
        """Send the error."""


class InferRequest:
    """One request on its way. Private to it, hence plain and mutable.

    Attributes
    ----------
    call : Call
    payloads : one `Payload` for each of ``call.inputs``, in their order
    reply : where the answer goes
    id : the client's id as the bytes of its JSON string, without quotes; empty if there is none
    arrived_ns, expires_ns : int
        `time.monotonic_ns` when its last byte was read, and when its deadline is; 0 is none.
    dropped : bool
        The client is gone, so its queued work is not worth doing.
    looked_at : bool
        Somebody reads its payloads after it was answered, so their memory is not to be used again.
    stamp : bytes
        What the answer says of who answers and why; the same object for all that are routed alike.
    page : Page or None
        Where it is counted what becomes of it, if it was drawn and that is wanted.
    slot : int
        Where its caller's key fell, if that decided who answers; else -1.
    """

    __slots__ = (
        "arrived_ns", "call", "dropped", "expires_ns", "id", "layout",
        "looked_at", "page", "payloads", "reply", "slot", "stamp",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        payloads: Sequence[Payload],
        reply: Reply,
        id: bytes = b"",  # noqa: A002 - the protocol's word.
        arrived_ns: int = 0,
        expires_ns: int = 0,
    ) -> None:
        self.call = call
        self.payloads = payloads
        self.reply = reply
        self.id = id
        self.arrived_ns = arrived_ns
        self.expires_ns = expires_ns
        self.dropped = self.looked_at = False
        self.layout: Any = None
        self.page: Page | None = None
        self.slot = -1
        self.stamp = b""
