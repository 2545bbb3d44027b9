"""How is a route written as plain values, in the journal and on the way to replicas?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.table import Route, Shadow, Share, Sticky


def route_document(route: Route) -> dict[str, Any]:
    """Return a route as plain values."""
    sticky = route.sticky
    document = {
        "shares": [[share.version, share.weight_bp] for share in route.shares],
        "shadows": [[shadow.version, shadow.share_bp] for shadow in route.shadows],
        "sticky": None if sticky is None else {"keys": list(sticky.keys), "salt": sticky.salt},
        "pinned": route.pinned,
    }
    # Only where there is one: what was written before there were any keeps its hash.
    return document | ({"baseline": route.baseline_bp} if route.baseline_bp else {})


def parse_route(document: Mapping[str, Any]) -> Route:
    """Read what `route_document` made."""
    sticky = document["sticky"]
    return Route(
        tuple(Share(version, weight_bp) for version, weight_bp in document["shares"]),
        tuple(Shadow(version, share_bp) for version, share_bp in document["shadows"]),
        None if sticky is None else Sticky(tuple(sticky["keys"]), sticky["salt"]),
        document["pinned"],
        document.get("baseline", 0),
    )
