"""How fast is a listener that does nothing but decode, run and encode, where there is one to compare with?

The folder is not part of the repository: `--prototype` names it. It holds a `models.py`, which builds
its models beside it, and an `http_tick.py tick PORT`, which serves them.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from loadtests.bench import server
from loadtests.bench.errors import BenchError
from loadtests.bench.server import Server
from loadtests.bench.turnout import Bench

MODELS = {"S": "mlp", "L": "conv"}
"""Our models, and what those of the same shape are called there."""


def path(model: str) -> str:
    """Return where the prototype serves what is `model` here."""
    return f"/v2/models/{MODELS[model]}/infer"


@contextlib.contextmanager
def running(bench: Bench) -> Iterator[Server]:
    """Run a copy of the prototype, since it writes beside itself."""
    assert bench.prototype is not None, "only asked for with --prototype"
    copy = bench.folder / "prototype"
    if not copy.exists():
        _copy(bench, copy)
    port = server.free_port()
    command = [sys.executable, str(copy / "http_tick.py"), "tick", str(port)]
    log = copy / "http_tick.log"
    with server.running("the prototype", command, port, bench.cores.server, log, 30.0) as started:
        yield started


def _copy(bench: Bench, copy: Path) -> None:
    assert bench.prototype is not None
    sources = sorted(bench.prototype.glob("*.py"))
    if not {"models.py", "http_tick.py"} <= {source.name for source in sources}:
        raise BenchError(f"{bench.prototype} holds no models.py and http_tick.py")
    copy.mkdir(parents=True)
    for source in sources:
        shutil.copyfile(source, copy / source.name)
    build = [sys.executable, "models.py"]
    built = subprocess.run(build, cwd=copy, capture_output=True, text=True, check=False)
    if built.returncode:
        shutil.rmtree(copy)
        raise BenchError(f"the prototype's models.py failed: {built.stderr[-300:]}")
