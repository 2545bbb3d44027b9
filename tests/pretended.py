"""A driver that pretends to have Ray: it dies once, and then has a control but never a replica.

What it does beside goes by files in a folder of the test's, which `PRETENDED` in the environment names:
it dies when there is ``die``, makes a change when there is ``change``, with a ``receipt`` of it, and is
ready when there is ``on``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from router.intent import Split
from serving.config import Config
from serving.control.desk import Desk

ALL_BP = 10_000


def drive() -> None:
    """Be the driver: its arguments are the private folder, and where it has its say."""
    folder, beside = Path(sys.argv[1]), Path(os.environ["PRETENDED"])
    if not (beside / "died").exists():
        _say("ready")
        _wait(beside / "die")
        (beside / "died").touch()
        _say("failed", "Ray has died")
        os._exit(1)
    _wait(beside / "start")
    _say("deploying")
    sys.stdin.readline()
    desk = Desk(Config.model_validate_json((folder / "config.json").read_bytes()), folder)
    desk.start()
    _wait(beside / "change")
    work = desk.control.submit(Split("register", (("1", ALL_BP),)), "a test", "beside Ray")
    receipt = asyncio.run_coroutine_threadsafe(work, desk._loop).result(60)
    unfinished = beside / "unfinished"
    unfinished.write_text(json.dumps(receipt.document()))
    unfinished.rename(beside / "receipt")
    _wait(beside / "on")
    _say("ready")
    time.sleep(60)


def _say(event: str, text: str = "") -> None:
    os.write(int(sys.argv[2]), json.dumps({"event": event, "text": text}).encode() + b"\n")


def _wait(file: Path) -> None:
    until_s = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < until_s, f"{file} did not come"
        time.sleep(0.01)
