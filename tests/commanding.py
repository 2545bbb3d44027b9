"""What does the command line say? It runs in this process, which spares each command a second of imports."""

from __future__ import annotations

import subprocess
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from serving import cli


def turnout(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; not from several threads at once, since it takes what is printed."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = cli.main(list(words))
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
