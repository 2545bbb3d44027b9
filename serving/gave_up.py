"""Why could no replica start, and is that the configuration's fault?"""

from __future__ import annotations

import re

from serving.config import ConfigError


def failure(message: str) -> Exception:
    """Return the error behind the traceback with which a replica gave up."""
    mistake = re.search(r"serving\.config\.ConfigError: (.*)", message)
    if mistake:
        return ConfigError(mistake[1])
    return RuntimeError(f"no replica could start:\n{message[-4000:]}")
