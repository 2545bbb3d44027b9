"""How long does a control take to have a change acknowledged by many replicas that are simulated?

    python -m loadtests.switching.alone FOLDER COUNT TIMES

It waits until COUNT replicas (loadtests/switching/simulated.py) have connected, then rolls back and forth,
and prints each receipt as a line of JSON. There is neither a gateway nor an admin application.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from loadtests.switching.asking import MODEL
from loadtests.switching.simulated import allow_files
from router.intent import Rollback
from serving.config import Traffic
from serving.control.control import Control
from serving.journal.journal import Journal

CONNECTED_S_MAX = 60.0
ACKNOWLEDGE_S_MAX = 30.0
"""Nobody is ended here for being slow: how slow is what is measured."""
PAUSE_S = 0.2


async def roll(folder: Path, count: int, times: int) -> None:
    """Print the receipts of so many rollbacks."""
    settings = Traffic(acknowledge_s_max=ACKNOWLEDGE_S_MAX, lease_s=3.0)
    control = Control(settings, folder, Journal.open(folder / "journal.sqlite"))
    await control.start()
    print("started", flush=True)
    async with asyncio.timeout(CONNECTED_S_MAX):
        while len(control.roster.replicas) < count or MODEL not in control.history.table.routes:
            await asyncio.sleep(0.05)
    for number in range(times + 1):
        receipt = await control.submit(Rollback(MODEL, to=("1", "2")[number % 2]), "benchmark", "rolled")
        print(json.dumps(receipt.document()), flush=True)
        await asyncio.sleep(PAUSE_S)
    await control.close()


def main(given: Sequence[str] | None = None) -> int:
    """Measure."""
    folder, count, times = sys.argv[1:] if given is None else given
    allow_files(int(count) * 2 + 256)
    uvloop.run(roll(Path(folder), int(count), int(times)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
