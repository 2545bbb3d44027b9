"""Which models are served while things break: one that says who answered whom, two that can hang?"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser

from loadtests.bench import models

REGISTER, SPIN, STUCK = "register", "spin", "stuck"
SPIN_TOO = "spin-too"
"""Another one like it: a version is moved off the event loop once, and for good."""
HUNGRY = 3
"""The version of the register that only shadows: it eats memory if it is asked for a lot."""
FILLING, GREEDY = 1.5e8, 5e8
"""Asked for so much it takes 0.6 GB, or wants 2; what clients ask for otherwise costs nothing."""
ENDLESS = 1e18
"""Rounds of a loop, of about a microsecond each: thousands of years."""
VERSIONS = """\
name: "{model}"
version_policy {{ all {{ }} }}
max_batch_size: 0
"""
HEAD = '<ir_version: 9, opset_import: ["": 17]>\n'


def register(version: int) -> onnx.ModelProto:
    """Build a version that answers its own number, and what it was asked."""
    return _parsed(f"""\
register (float[1, 1] x) => (float[1, 1] y, float[1, 1] same)
<float zero = {{0.0}}, float own = {{{version}.0}}> {{
  nothing = Mul (x, zero)
  y = Add (nothing, own)
  same = Identity (x)
}}""")


def hungry() -> onnx.ModelProto:
    """Build a version of the register that takes four bytes for each one that `x` says, from 1,000,000 on."""
    return _parsed("""\
register (float[1, 1] x) => (float[1, 1] y, float[1, 1] same)
<float zero = {0.0}, float own = {3.0}, int64 one = {1}, float much = {1000000.0}, int64[1] flat = {1}> {
  asked = ReduceMax <keepdims = 0> (x)
  large = Greater (asked, much)
  wanted = Cast <to = 7> (asked)
  count = Where (large, wanted, one)
  shape = Reshape (count, flat)
  table = Expand (x, shape)
  most = ReduceMax <keepdims = 1> (table)
  nothing = Mul (most, zero)
  y = Add (nothing, own)
  same = Identity (x)
}""")


def spin() -> onnx.ModelProto:
    """Build what turns in a loop as often as `x` says."""
    return _parsed("""\
spin (float[1, 1] x) => (float[1, 1] y) <bool yes = {1}> {
  most = ReduceMax <keepdims = 0> (x)
  turns = Cast <to = 7> (most)
  y = Loop (turns, yes, x) <body = turn (int64 i, bool on, float[1, 1] v) => (bool again, float[1, 1] w) {
    again = Identity (on)
    w = Identity (v)
  }>
}""")


def stuck() -> onnx.ModelProto:
    """Build what turns as often in a loop without a node, before which nothing asks whether to stop."""
    return _parsed("""\
stuck (float[1, 1] x) => (float[1, 1] y) <bool yes = {1}> {
  most = ReduceMax <keepdims = 0> (x)
  turns = Cast <to = 7> (most)
  y = Loop (turns, yes, x) <body = turn (int64 i, bool on, float[1, 1] v) => (bool on, float[1, 1] v) {}>
}""")


def lay_out(repository: Path) -> None:
    """Write them to a repository."""
    made = {(REGISTER, version): register(version) for version in (1, 2)}
    made[REGISTER, HUNGRY] = hungry()
    made[SPIN, 1], made[SPIN_TOO, 1], made[STUCK, 1] = spin(), spin(), stuck()
    for (model, version), each in made.items():
        models.save(each, models.path(repository, model, version))
    for model in (REGISTER, SPIN, SPIN_TOO, STUCK):
        (repository / model / "config.pbtxt").write_text(VERSIONS.format(model=model))


def _parsed(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEAD + text)
    onnx.checker.check_model(model)
    return model
