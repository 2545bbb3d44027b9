"""Which version, and which id, do a request's headers or metadata ask for?"""

from __future__ import annotations

import re
from collections.abc import Mapping

from router.names import InvalidName, check_alias, check_version
from serving.errors import Invalid

VERSION, ALIAS, REQUEST_ID = b"x-turnout-version", b"x-turnout-alias", b"x-request-id"

_REQUEST_ID = re.compile(rb"[!#-\[\]-~]{1,256}")


def named(single: Mapping[bytes, bytes]) -> str:
    """Return the version, or the alias with an ``@`` before it; empty if neither is asked for."""
    version, alias = single.get(VERSION), single.get(ALIAS)
    if version is not None and alias is not None:
        raise Invalid("both x-turnout-version and x-turnout-alias; send one of them")
    try:
        if version is not None:
            return check_version(version.decode("latin-1"))
        return f"@{check_alias(alias.decode('latin-1'))}" if alias is not None else ""
    except InvalidName as error:
        where = "x-turnout-alias" if version is None else "x-turnout-version"
        raise Invalid(f"the {where} header is malformed: {error}") from None


def request_id(single: Mapping[bytes, bytes]) -> bytes:
    """Return the id, safe in JSON, in a header and in a log line as it is; empty if there is none."""
    text = single.get(REQUEST_ID, b"")
    if text and not _REQUEST_ID.fullmatch(text):
        raise Invalid(
            "the x-request-id header is malformed; "
            "expected at most 256 visible ASCII characters other than '\"' and '\\'"
        )
    return text
