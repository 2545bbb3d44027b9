"""How are a model's latest requests replayed through other versions on the command line?"""

from __future__ import annotations

import argparse

from router.names import check_version
from serving.cli_traffic import UNCLEAR, access_of, bare, checked, tell
from serving.mistake import Mistake

VERSIONS_MAX = 8
ANSWER_S_MAX = 120.0
"""How long the report is waited for, if nothing else is said."""


def replay(arguments: argparse.Namespace) -> int:
    """Print what versions make of what the model was asked lately; 1 if one of them could not be run."""
    from serving.cli_ask import Unclear, ask
    from serving.replay import shown

    model = bare(arguments)
    body = {"versions": versions(arguments.through), "rows": arguments.rows or 0}
    try:
        answer = ask(access_of(arguments), f"/v2/models/{model}/replay", body, arguments.timeout)
    except Unclear:
        error = f"no report came within {arguments.timeout:g} s; --timeout waits longer"
        return tell(arguments, UNCLEAR, {"error": error}, shown.report)
    code = tell(arguments, answer.status, answer.document, shown.report)
    if answer.status == 200 and any(each["fault"] for each in answer.document["versions"]):
        return 1
    return code


def versions(text: str) -> list[str]:
    """Read versions such as ``7,8``."""
    found = [checked(check_version, each.strip()) for each in text.split(",")]
    if len(set(found)) < len(found) or len(found) > VERSIONS_MAX:
        raise Mistake(f"--through takes up to {VERSIONS_MAX} different versions, such as 7,8; got {text}")
    return found
