"""How does a benchmark get at the admin interface of the gateway that it started?"""

from __future__ import annotations

import time

from loadtests.bench.errors import BenchError
from loadtests.bench.server import Server
from loadtests.switching.admin import Admin
from serving.access import NoAccess, find
from serving.private import NotPrivate

FIND_S_MAX = 120.0
"""One replica that is ready answers; the gateway is announced when all are."""


def admin(server: Server) -> Admin:
    """Return the admin interface of `server`, as the command line finds it; it may begin a little later."""
    end_s = time.monotonic() + FIND_S_MAX
    while True:
        try:
            found = find(server.admin)
            return Admin(found.url, found.token)
        except (NoAccess, NotPrivate) as error:
            if time.monotonic() > end_s:
                raise BenchError(f"no way to the admin interface of {server.name}: {error}") from None
            time.sleep(0.1)
