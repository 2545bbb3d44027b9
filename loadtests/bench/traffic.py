"""What is asked: the requests of one kind as tritonclient sends them, and what the answer must be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import onnxruntime as ort
import tritonclient.http as triton
from numpy.typing import NDArray

from loadtests.bench import models


class Encoding(StrEnum):
    """How tensors travel."""

    BINARY = "binary"
    JSON = "JSON"


DISTINCT = {"S": 20_000, "L": 64, "M": 512, "M_batched": 512}
"""How many different requests there are before they repeat.

For S more than any memo of a server holds, since there a memo would save what is measured. 64 of L
are 38 MB, and a memo of its JSON header would save 2 of its 90 us.
"""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests to one model: in one encoding, and all alike or all with ids and values of their own.

    With `callers` each names one of so many in a header, in turn, as far as they are distinct.
    """

    model: str
    encoding: Encoding
    distinct: bool
    callers: int = 0

    @property
    def slug(self) -> str:
        """Name files of it."""
        kind = "distinct" if self.distinct else "identical"
        return f"{self.model}-{self.encoding.lower()}-{kind}{f'-{self.callers}' if self.callers else ''}"

    @property
    def path(self) -> str:
        """Return where the requests go."""
        return f"/v2/models/{self.model}/infer"


@dataclass(frozen=True, slots=True)
class Body:
    """A request's or an answer's body; `header_length` is its JSON part, 0 if it is all JSON."""

    data: bytes
    header_length: int

    def head(self, path: str) -> bytes:
        """Return the request's head, as for a client of this machine."""
        extra = f"Inference-Header-Content-Length: {self.header_length}\r\n" if self.header_length else ""
        return (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{extra}Content-Length: {len(self.data)}\r\n\r\n"
        ).encode()


def bodies(traffic: Traffic, count: int) -> list[Body]:
    """Let tritonclient make the first `count` bodies; distinct ones carry an id, as wide for each."""
    return [
        body(x, binary=traffic.encoding is Encoding.BINARY, id_=f"{number:016x}" if traffic.distinct else "")
        for number, x in enumerate(models.samples(traffic.model, count))
    ]


def body(x: NDArray[np.float32], *, binary: bool, id_: str = "") -> Body:
    """Let tritonclient make the body that asks for ``y`` of `x`."""
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary)
    wanted = triton.InferRequestedOutput("y", binary_data=binary)
    data, header_length = triton.InferenceServerClient.generate_request_body(
        [tensor], outputs=[wanted], request_id=id_
    )
    return Body(data, header_length or 0)


def expected(traffic: Traffic, repository: Path) -> NDArray[np.float32]:
    """Run the first request's input through ONNX Runtime here."""
    session = ort.InferenceSession(models.path(repository, traffic.model), providers=["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": models.samples(traffic.model, 1)[0]})
    return np.asarray(y, np.float32)


def answer(traffic: Traffic, y: NDArray[np.float32]) -> Body:
    """Build the answer that a V2 server gives, for the floor to have one of the right size."""
    output: dict[str, object] = {"name": "y", "datatype": "FP32", "shape": list(y.shape)}
    whole: dict[str, object] = {"id": f"{0:016x}"} if traffic.distinct else {}
    whole |= {"model_name": traffic.model, "model_version": "1", "outputs": [output]}
    if traffic.encoding is Encoding.JSON:
        output["data"] = [float(str(value)) for value in y.ravel()]
        return Body(json.dumps(whole, separators=(",", ":")).encode(), 0)
    output["parameters"] = {"binary_data_size": y.nbytes}
    header = json.dumps(whole, separators=(",", ":")).encode()
    return Body(header + y.tobytes(), len(header))


def read(data: bytes, header_length: int) -> NDArray[np.float32]:
    """Read the one output of an answer, binary or JSON."""
    (output,) = json.loads(data[:header_length] if header_length else data)["outputs"]
    flat = np.frombuffer(data, np.float32, -1, header_length) if header_length else output["data"]
    return np.asarray(flat, np.float32).reshape(output["shape"])


SCRIPT = """\
-- Requests of {slug} for wrk. All are made before the start: while it runs, one is only handed out.
wrk.method = "POST"
{headers}
local requests, count, at = {{}}, 0, 0
function init(args)
  wrk.path = args[1]
  local file = assert(io.open("{data}", "rb"))
  for length in function() return file:read(8) end do
    wrk.body = file:read(tonumber(length))
    count = count + 1
    {caller}
    {collect}
  end
  file:close()
end
{request}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %.1f %.1f %.1f %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency.max,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
CALLER = """wrk.headers["x-user-id"] = string.format("user-%06d", count % {callers})"""
HAND_OUT = """\
function request()
  at = at % count + 1
  return requests[at]
end
"""
# Without `request` wrk sends the one request that it formats itself, and runs no Lua at all meanwhile.


def script(traffic: Traffic, data: Path, header_length: int) -> str:
    """Write the wrk script that sends the bodies in the file `data`. wrk's argument is the path to ask."""
    length = f'wrk.headers["Inference-Header-Content-Length"] = "{header_length}"' if header_length else ""
    return SCRIPT.format(
        slug=traffic.slug,
        data=data,
        headers=length,
        caller=CALLER.replace("{callers}", str(traffic.callers)) if traffic.callers else "",
        collect="requests[count] = wrk.format()" if traffic.distinct else "",
        request=HAND_OUT if traffic.distinct else "",
    )


def pack(made: Sequence[Body]) -> bytes:
    """Join bodies for the script, each after its length in eight digits."""
    return b"".join(part for body in made for part in (b"%08d" % len(body.data), body.data))


def prepare(traffic: Traffic, folder: Path) -> Path:
    """Write the script and its bodies into `folder`, unless they are there, and return the script."""
    target, data = folder / f"{traffic.slug}.lua", (folder / f"{traffic.slug}.bodies").resolve()
    if not target.exists() or not data.exists():
        made = bodies(traffic, DISTINCT[traffic.model] if traffic.distinct else 1)
        assert len({body.header_length for body in made}) == 1, "one head fits all requests of a script"
        folder.mkdir(parents=True, exist_ok=True)
        data.write_bytes(pack(made))
        target.write_text(script(traffic, data, made[0].header_length))
    return target
