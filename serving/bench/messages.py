"""What is asked over gRPC: calls of ModelInfer with raw contents, and the header blocks before them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from hpack import Encoder

from serving.bench.options import STREAMS
from serving.bench.plan import Calling
from serving.bench.questions import ID_BYTES, NO_ID, Arrays, Question, caller, datatype, raw
from serving.rpc.fields import pack
from serving.rpc.messages import INFERENCE, service_pb2

PREFIX = struct.Struct(">BI")
"""Before a message: whether it is compressed, and how long it is."""
Metadata = Sequence[tuple[str, str]]


def framed(message: bytes) -> bytes:
    """Return a message as it is sent."""
    return PREFIX.pack(0, len(message)) + message


def calling(
    authority: str,
    metadata: Metadata = (),
    *,
    method: str = "ModelInfer",
    tls: bool = False,
    streams: int = STREAMS,
) -> Calling:
    """Return how calls are made: HPACK's table is in use, as that of grpcio's core is."""
    fields = [
        (":method", "POST"),
        (":scheme", "https" if tls else "http"),
        (":path", f"/{INFERENCE}/{method}"),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "turnout-bench"),
        *((name.lower(), value) for name, value in metadata),
    ]
    encoder = Encoder()
    plain = b"".join(pack(name, value) for name, value in fields)
    return Calling(encoder.encode(fields), encoder.encode(fields), plain, streams)


@dataclass(frozen=True, slots=True)
class Speech:
    """How is asked over gRPC: which model, which version of it, and of how many callers; as `Manner`."""

    model: str
    version: str = ""
    caller_header: str = ""
    callers: int = 0

    def question(self, arrays: Arrays, number: int = 0) -> Question:
        """Make one request, the `number`th."""
        opening = service_pb2.ModelInferRequest(model_name=self.model, model_version=self.version)
        before = len(opening.SerializeToString())
        opening.id = NO_ID.decode()
        for name, values in arrays.items():
            opening.inputs.add(name=name, datatype=datatype(values), shape=values.shape)
            opening.raw_input_contents.append(raw(values))
        content = bytearray(framed(opening.SerializeToString(deterministic=True)))
        id_at = PREFIX.size + before + 2
        assert content[id_at - 2 : id_at + ID_BYTES] == b"\x1a%c" % ID_BYTES + NO_ID, (
            "the id is the third field"
        )
        more = pack(self.caller_header.lower(), caller(number, self.callers)) if self.callers else b""
        return Question(content, id_at, more)
