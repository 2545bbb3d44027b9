"""What is answered when something is wrong, and with which status?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from router.change import Refused
from router.entry import BrokenChain
from router.history import History
from router.table import NoRoute, known
from serving.admin.terms import ErrorDocument
from serving.control.refusals import Lost, NoModel, Stale

ERRORS_SHOWN_MAX = 8
WRONG: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorDocument, "description": "Not understood; nothing was changed."},
    401: {"model": ErrorDocument, "description": "No token, or a wrong one."},
    403: {"model": ErrorDocument, "description": "Asked under another server's name, or by its page."},
    404: {"model": ErrorDocument, "description": "There is no such model."},
}
REFUSED: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorDocument, "description": "It makes no sense as things stand; nothing was changed."},
    412: {"model": ErrorDocument, "description": "Another revision than `if_revision` is in force."},
    413: {"model": ErrorDocument, "description": "The body is too large."},
    503: {"model": ErrorDocument, "description": "The journal cannot be written; nothing was changed."},
}


def check_known(history: History, model: str) -> None:
    """Refuse a model that there is not, with those that there are."""
    routes = history.table.routes
    if model not in routes:
        raise NoRoute(f"no route for {model[:128]!r}; {known('models', sorted(routes))}")


def _error(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason}, status, headers)


def _with(status: int) -> Callable[[Request, Any], Response]:
    return lambda _request, error: _error(status, str(error))


def _failed(_request: Request, _cause: Any) -> Response:
    return _error(500, "an error of the server's own; its log says more")


def _by_protocol(request: Request, error: Any) -> Response:
    """Answer what the framework refuses: no such path, or not that method."""
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = sorted({*headers.get("Allow", "").split(", ")} - {""})
        headers["Allow"] = ", ".join([*allowed, *(["HEAD"] if "GET" in allowed else []), "OPTIONS"])
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        return _error(405, f"{request.url.path} takes {headers['Allow']}", headers)
    if error.status_code == 404 and error.detail == "Not Found":
        return _error(404, "no such path; /openapi.json and /docs list those that there are")
    return _error(error.status_code, str(error.detail), headers)


def _misunderstood(_request: Request, error: Any) -> Response:
    """Say of each mistake in a request where it is."""
    told = []
    for each in error.errors()[:ERRORS_SHOWN_MAX]:
        where = ".".join(str(part)[:80] for part in each["loc"])
        told.append(f"{where}: {each['msg'].removeprefix('Value error, ')}")
    return _error(400, "; ".join(told).encode(errors="replace").decode())


ANSWERS: dict[type[Exception], Callable[[Request, Any], Response]] = {
    HTTPException: _by_protocol,
    RequestValidationError: _misunderstood,
    NoRoute: _with(404),
    NoModel: _with(404),
    Refused: _with(409),
    BrokenChain: _with(409),
    Stale: _with(412),
    Lost: _with(503),
    ValueError: _with(400),
    Exception: _failed,
}
"""Class to answer, by the nearest one."""
