"""Which kinds of memory can be registered, and what is each of them asked for?"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from serving.errors import Invalid, Unsupported
from serving.expect import JsonObject, whole
from serving.wire import Window


class Kind(StrEnum):
    """A kind of shared memory, by the name of its extension."""

    SYSTEM = "system_shared_memory"
    CUDA = "cuda_shared_memory"


SETTINGS = {
    Kind.SYSTEM: "shared_memory.enabled",
    Kind.CUDA: "shared_memory.cuda, and a GPU that is there",
}
"""What has a kind offered."""
EXAMPLES = {
    Kind.SYSTEM: '{"key": "/turnout-input", "byte_size": 64}',
    Kind.CUDA: '{"raw_handle": {"b64": "..."}, "device_id": 0, "byte_size": 64}',
}
"""How a region is asked for."""


class Entry(NamedTuple):
    """A region as it was registered, and which memory that was: another may take its name.

    On a GPU, which has a number `gpu` of 0 or more, the `key` is the memory's handle, in base64.
    """

    name: str
    key: str
    offset: int
    size_bytes: int
    device: int = 0
    inode: int = 0
    gpu: int = -1

    @property
    def kind(self) -> Kind:
        """Which kind of memory it is."""
        return Kind.SYSTEM if self.gpu < 0 else Kind.CUDA

    def check(self, window: Window) -> None:
        """Refuse a window that is not all within this region."""
        if window.offset + window.size_bytes > self.size_bytes:
            raise Invalid(
                f"region {self.name!r} has {self.size_bytes} bytes; the request means "
                f"{window.size_bytes} of them from {window.offset} on"
            )


class Shared(Protocol):
    """Memory of a client that is open here, as long as anybody holds this."""

    entry: Entry

    def read(self, window: Window, room: memoryview | None = None) -> bytes | memoryview:
        """Return what is in a window that was checked: a copy, in the slot `room` if there is one."""

    def write(self, window: Window, data: memoryview) -> None:
        """Put `data` at the beginning of a window that was checked, and holds as much."""


class Source(Protocol):
    """A kind of memory: how it is asked for, opened and shown. All raise `Invalid` with what is wrong."""

    def asked(self, name: str, asked: JsonObject) -> Entry:
        """Return the region that a request asks to have registered."""

    def find(self, entry: Entry) -> Shared:
        """Open the memory that is to be registered, all of which must be there."""

    def find_again(self, entry: Entry) -> Shared:
        """Open the memory that was registered elsewhere on this node, and no other."""

    def shown(self, entry: Entry) -> dict[str, Any]:
        """Return what the status of a region says."""


def unoffered(kind: Kind) -> Unsupported:
    """Return the error that says that there is no memory of a kind."""
    return Unsupported(f"this server does not offer {kind.replace('_', ' ')} ({SETTINGS[kind]})")


def size_asked(asked: JsonObject) -> int:
    """Return the size of the region that is asked for."""
    size_bytes = whole({"byte_size": 0, **asked}, "byte_size", "$")
    if not size_bytes:
        raise Invalid("expected a region of 1 byte or more - at `$.byte_size`")
    return size_bytes
