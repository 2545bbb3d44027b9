"""Does a request come from the operator? Whoever has the gateway's token is taken for that."""

from __future__ import annotations

import hmac
import logging

from serving import access
from serving.config import Config
from serving.errors import Refused, Unauthenticated, Unavailable
from serving.private import NotPrivate
from serving.ways import Origin

log = logging.getLogger("turnout.operator")

AUTHORIZATION = b"authorization"
WANTED = "send the header `Authorization: Bearer TOKEN` with the token of this gateway's operator"


def check(origin: Origin, config: Config) -> None:
    """Return if the request has the token, as a header over HTTP and as metadata over gRPC.

    Raises
    ------
    Unauthenticated
        If it has no token, or several.
    Refused
        If it has another one.
    Unavailable
        If this gateway's own cannot be read.
    """
    said = [value for name, value in origin.headers if name == AUTHORIZATION]
    scheme, _, token = said[0].partition(b" ") if len(said) == 1 else (b"", b"", b"")
    if scheme.lower() != b"bearer" or not token.strip():
        raise Unauthenticated(f"this is for the operator alone; {WANTED}")
    if not hmac.compare_digest(token.strip(), _token(config).encode()):
        raise Refused(f"this is for the operator alone, and the token is another one; {WANTED}")


def _token(config: Config) -> str:
    try:
        return access.token(access.control_folder(config))
    except (access.NoAccess, NotPrivate, OSError) as error:
        log.error("event=no_token reason=%r", str(error))
        raise Unavailable("the operator's token cannot be read here; the log says why") from None
