"""Which versions are switched between, and which ones shadow: too slow, hanging, failing?"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
from numpy.typing import NDArray

from loadtests.bench import models
from loadtests.switching.asking import MODEL

ALL_VERSIONS = 'name: "{model}"\nbackend: "onnxruntime"\nversion_policy {{ all {{ }} }}\nmax_batch_size: 0\n'
TRIGGER = 64.0
"""No usual input has such a value; with one in it the hanging version hangs and the failing one fails."""
OUTPUTS = {"S": 2, "M": 10}
SLOW_LAYERS = 200
"""Of 1,024 x 1,024: 10 ms a run on one core of a Xeon with AVX-512, far more than is left to it."""
HANG_S = 60.0
"""Longer than a measurement; not without an end, since some process could outlive the benchmark."""
SATURATED, HANGING, FAILING = "2", "3", "4"

HEAD = '<ir_version: 9, opset_import: ["": 17]>\n'
LOOP = """\
turned = Loop (turns, yes, zero) <body = turn (int64 i, bool on, float v) => (bool again, float w) {
  again = Identity (on)
  w = Add (v, v)
}>
nothing = Mul (turned, zero)"""
GATHER = """\
found = Gather (table, turns)
nothing = Mul (found, zero)"""


def constant(version: int) -> onnx.ModelProto:
    """Build a version that answers its own number, whatever it is asked."""
    return _parsed(f"""\
register (float[N, 1] x) => (float[N, 1] y) <float zero = {{0.0}}, float own = {{{version}.0}}> {{
  nothing = Mul (x, zero)
  y = Add (nothing, own)
}}""")


def hanging(model: str, turns: int) -> onnx.ModelProto:
    """Build what turns so often in a loop, if triggered; else once."""
    return _triggered(model, LOOP, "bool yes = {1}", usual=1, triggered=turns)


def failing(model: str) -> onnx.ModelProto:
    """Build what looks beyond the end of a table, if triggered."""
    return _triggered(model, GATHER, "float[1] table = {0.0}", usual=0, triggered=1_000_000)


def _triggered(model: str, work: str, constant: str, usual: int, triggered: int) -> onnx.ModelProto:
    shape = ", ".join(map(str, models.SHAPES[model][1:]))
    spread = ", ".join(["0.0"] * OUTPUTS[model])
    return _parsed(f"""\
versions (float[N, {shape}] x) => (float[N, {OUTPUTS[model]}] y)
<float trigger = {{{TRIGGER / 2}}}, float zero = {{0.0}}, {constant},
 float[{OUTPUTS[model]}] spread = {{{spread}}},
 int64 usual = {{{usual}}}, int64 triggered = {{{triggered}}}> {{
  most = ReduceMax <keepdims = 0> (x)
  far = Greater (most, trigger)
  turns = Where (far, triggered, usual)
  {work}
  flat = Flatten (x)
  mean = ReduceMean <axes = [1]> (flat)
  every = Add (mean, spread)
  y = Add (every, nothing)
}}""")


def _parsed(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEAD + text)
    onnx.checker.check_model(model)
    return model


def slow(model: str) -> onnx.ModelProto:
    """Build what cannot keep up with half of what the model itself does."""
    inputs = models.SHAPES[model][1:]
    graph = models.Graph(4)
    graph.then("Flatten").then("MatMul", graph.weight(int(np.prod(inputs)), 1024))
    weights = graph.weight(1024, 1024)
    for _ in range(SLOW_LAYERS):
        graph.then("MatMul", weights).then("Relu")
    return graph.then("MatMul", graph.weight(1024, OUTPUTS[model])).finish("Slow", inputs, OUTPUTS[model])


def turns_for(model: str, seconds: float, probe: int = 200_000) -> int:
    """Find out how many turns of the loop take so long on this machine."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(hanging(model, probe).SerializeToString(), options)
    start_s = time.perf_counter()
    session.run(None, {"x": triggering(model, 1)[0]})
    return round(probe * seconds / (time.perf_counter() - start_s))


def triggering(model: str, count: int) -> list[NDArray[np.float32]]:
    """Return inputs that trigger what the versions do; the model itself takes no notice."""
    inputs = models.samples(model, count)
    for x in inputs:
        x.flat[0] = TRIGGER
    return inputs


def lay_out_register(repository: Path) -> None:
    """Write versions 1 and 2 of the register, both of which are kept loaded."""
    for version in (1, 2):
        models.save(constant(version), models.path(repository, MODEL, version))
    (repository / MODEL / "config.pbtxt").write_text(ALL_VERSIONS.format(model=MODEL))


def lay_out_pair(repository: Path) -> None:
    """Write S as versions 1 and 2, which answer alike and are two all the same."""
    for version in (1, 2):
        made = models.small()
        made.doc_string = f"version {version}"
        models.save(made, models.path(repository, "S", version))
    (repository / "S" / "config.pbtxt").write_text('name: "S"\nversion_policy { all { } }\n')


def lay_out_shadows(repository: Path, model: str) -> None:
    """Write a model as version 1, and what shadows it, unless they are there already."""
    config = repository / model / "config.pbtxt"
    if config.exists():
        return
    served = {"S": models.small, "M": models.middling}[model]()
    turns = turns_for(model, HANG_S)
    made = {"1": served, SATURATED: slow(model), HANGING: hanging(model, turns), FAILING: failing(model)}
    for version, each in made.items():
        models.save(each, models.path(repository, model, int(version)))
    config.write_text(ALL_VERSIONS.format(model=model))
