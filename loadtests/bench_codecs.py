"""What decoding and encoding cost a request, in microseconds, for S: one FP32 [1,16] in, [1,4] out.

Every request has an id and elements of its own. Run it as ``python loadtests/bench_codecs.py``; the
best of several rounds is printed, since whatever disturbs a round makes it slower, never faster.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from serving import answer, codec_binary, codec_json
from serving.config import Limits
from serving.wire import DATATYPES, InferRequest, Results, TensorSpec

REQUESTS = 5000
ROUNDS = 7
LIMITS = Limits()
OUTPUTS = (TensorSpec("y", DATATYPES["FP32"], (-1, 4)),)


def binary_requests(spaces: str, key: str = "id") -> list[tuple[bytes, int]]:
    """Return S in the binary extension, with `spaces` behind colons; `key` other than id is no id."""
    rows = np.random.default_rng(7).random((REQUESTS, 1, 16), np.float32)
    bodies = []
    for number, row in enumerate(rows):
        tensor = {"name": "x", "shape": [1, 16], "datatype": "FP32", "parameters": {"binary_data_size": 64}}
        document = {
            key: f"request-{number:06}",
            "inputs": [tensor],
            "parameters": {"binary_data_output": True},
        }
        header = json.dumps(document, separators=("," + spaces, ":" + spaces)).encode()
        bodies.append((header + row.tobytes(), len(header)))
    return bodies


def json_requests(id_first: bool) -> list[bytes]:
    """Return S in JSON as Python's json writes it, the id in front or behind."""
    rows = np.random.default_rng(7).random((REQUESTS, 16), np.float32)
    bodies = []
    for number, row in enumerate(rows):
        id_ = {"id": f"request-{number:06}"}
        inputs = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": row.tolist()}]}
        bodies.append(json.dumps(id_ | inputs if id_first else inputs | id_).encode())
    return bodies


def best_us(work: Callable[[Any], object], items: Sequence[Any]) -> float:
    """Return what `work` takes for one of `items`, in the best round."""
    best_ns = min(_round_ns(work, items) for _ in range(ROUNDS))
    return best_ns / len(items) / 1000


def _round_ns(work: Callable[[Any], object], items: Sequence[Any]) -> int:
    start_ns = time.perf_counter_ns()
    for item in items:
        work(item)
    return time.perf_counter_ns() - start_ns


def _answers(body: bytes, json_bytes: int) -> list[tuple[InferRequest, Results, int]]:
    """Return requests of one call, in batches of eight."""
    array = np.random.default_rng(7).random((8, 4), np.float32)
    answers = []
    for number in range(REQUESTS):
        if number % 8 == 0:
            results = Results("mlp", "7", OUTPUTS, [array], 8)
        if json_bytes:
            call, payloads, _ = codec_binary.decode(body, json_bytes, LIMITS)
        else:
            call, payloads, _ = codec_json.decode(body, LIMITS)
        request = InferRequest(call, payloads, None, b"request-%06d" % number)  # type: ignore[arg-type]
        answers.append((request, results, number % 8))
    return answers


def _decode_binary(item: tuple[bytes, int]) -> object:
    return codec_binary.decode(item[0], item[1], LIMITS)


def _decode_json(item: bytes) -> object:
    return codec_json.decode(item, LIMITS)


def _frame(item: tuple[InferRequest, Results, int]) -> object:
    return answer.frame(item[0], item[1], item[2], item[2] + 1)


def _nothing(item: object) -> object:
    return item


def main() -> None:
    """Print a line for each case."""
    compact, spaced, unknown = binary_requests(""), binary_requests(" "), binary_requests("", "trace")
    first, last = json_requests(id_first=True), json_requests(id_first=False)
    cases: list[tuple[str, Callable[[Any], object], Sequence[Any]]] = [
        ("decode binary", _decode_binary, compact),
        ("decode binary, header with spaces", _decode_binary, spaced),
        ("decode binary, header never the same", _decode_binary, unknown),
        ("decode JSON", _decode_json, first),
        ("decode JSON, id behind", _decode_json, last),
        ("frame binary", _frame, _answers(*compact[0])),
        ("frame JSON", _frame, _answers(first[0], 0)),
    ]
    empty_us = best_us(_nothing, compact)
    for name, work, items in cases:
        print(f"{name:<40} {best_us(work, items) - empty_us:6.2f} us")


if __name__ == "__main__":
    main()
