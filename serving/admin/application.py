"""How do people and programs look at traffic and change it? As a web application over the control.

Reading the journal goes on in threads, so that whoever looks far back holds nobody up.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, FastAPI, Query, Security
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from router.entry import Entry, check_chain
from router.history import History
from router.intent import Intent
from serving.admin.chronicle import chronicle, journal
from serving.admin.drift import Drifts, ProfileBody, drifts
from serving.admin.feedback import Feedbacks, feedbacks
from serving.admin.feedback import body_bytes_max as feedback_bytes_max
from serving.admin.feedback import schemas as feedback_schemas
from serving.admin.guard import BODY_BYTES_MAX, Guard
from serving.admin.mistakes import ANSWERS, REFUSED, WRONG, check_known
from serving.admin.page import page
from serving.admin.replay import Replays, replays
from serving.admin.repository import repository
from serving.admin.rollout import NowUs, Rollouts, rollout_paths
from serving.admin.terms import (
    AliasBody,
    AllTraffic,
    AuditDocument,
    ChangeBody,
    HistoryDocument,
    ModelTraffic,
    PinBody,
    PromoteBody,
    ReceiptDocument,
    RollbackBody,
    ShadowBody,
    SplitBody,
    StickBody,
    UnpinBody,
    VerifiedDocument,
)
from serving.clock import parse_utc
from serving.control.ordering import Carried
from serving.control.receipt import Receipt
from serving.control.refusals import Lost
from serving.drift.store import PROFILE_BYTES_MAX
from serving.orders import Order
from serving.resources import SERVER_VERSION

DESCRIPTION = """Look at the traffic between versions of models, and change it; and see whether it drifts.

Every change answers with a receipt: who acknowledged it, who is missing, and the command that takes it back.
Every path needs the header `Authorization: Bearer TOKEN`; the token is in a file that only the user can read
who runs the gateway, and `turnout status` finds it there."""
TAGS = [
    {"name": "look", "description": "How traffic stands, and what was decided."},
    {"name": "change", "description": "Move traffic. Each answers with a receipt."},
    {"name": "quality", "description": "How good answers are, by labels that come later."},
    {"name": "replay", "description": "What versions make of the latest requests."},
    {"name": "repository", "description": "Load and unload models, on all replicas."},
    {"name": "drift", "description": "How far requests and answers are from what was normal."},
    {"name": "audit", "description": "The journal, and whether it is what was written."},
]
Shadows = Callable[[str], Awaitable[dict[str, Any]]]


class Controls(Protocol):
    """What the application needs of a control; see `serving.control.control.Control`."""

    @property
    def history(self) -> History:
        """The entries so far."""

    async def submit(
        self,
        intent: Intent,
        by: str,
        why: str,
        *,
        if_revision: int | None = None,
        dry_run: bool = False,
        atomic: bool = False,
    ) -> Receipt:
        """Make a change, and return when it is known for whom it holds."""

    async def order(self, model: str, order: Order, by: str) -> Carried:
        """Have a model loaded or unloaded everywhere."""

    def status(self, model: str = "") -> dict[str, Any]:
        """Return how traffic stands, of one model or of all."""


def application(
    control: Controls,
    token: str,
    shadows: Shadows | None,
    *,
    hosts: Iterable[str] = (),
    stored: Path | None = None,
    drift: Drifts | None = None,
    rollouts: Rollouts | None = None,
    feedback: Feedbacks | None = None,
    replaying: Replays | None = None,
    now_us: NowUs = lambda: time.time_ns() // 1000,
) -> FastAPI:
    """Return the admin application of a control.

    Parameters
    ----------
    token : str
        Who has it may do everything here; without it nobody learns anything.
    shadows : callable, optional
        Returns how a model's shadows compare, as plain values; `LookupError` for an unknown model.
    hosts : iterable of str
        IP addresses beyond loopback at which this is asked.
    stored : Path, optional
        The journal's file, to be verified; without it what was read from there is.
    drift, rollouts, feedback, replaying : optional
        Who looks after each; without it, its paths are answered with 404.
    now_us : callable
        The time, in microseconds of Unix time.
    """
    app = _empty()
    check = partial(check_known, control.history)
    for router in (
        _looks(control, shadows),
        _changes(control),
        _names(control),
        rollout_paths(control, rollouts, now_us),
        repository(control),
        drifts(check, drift),
        feedbacks(check, feedback, now_us),
        replays(check, replaying),
        _audits(control, stored),
    ):
        app.include_router(router, dependencies=[Security(HTTPBearer(auto_error=False))])
    app.add_api_route("/docs", lambda: HTMLResponse(page(app.openapi())), include_in_schema=False)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's way to have a say in it.
    for error, answer in ANSWERS.items():
        app.add_exception_handler(error, answer)
    app.add_middleware(Guard, token=token, hosts=tuple(hosts), body_bytes_max=_body_bytes_max)
    return app


def _empty() -> FastAPI:
    return FastAPI(
        title="Turnout",
        version=SERVER_VERSION,
        summary="Traffic between versions of models.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )


def _body_bytes_max(method: str, path: str) -> int:
    # Nothing but a profile is put.
    return feedback_bytes_max(method, path) or (PROFILE_BYTES_MAX if method == "PUT" else BODY_BYTES_MAX)


def _looks(control: Controls, shadows: Shadows | None) -> APIRouter:
    """Return what changes nothing."""
    router = APIRouter(prefix="/v2", tags=["look"], responses=WRONG)

    @router.get("/traffic", response_model=AllTraffic)
    async def traffic() -> Response:
        """How the traffic of all models stands."""
        return JSONResponse(control.status())

    @router.get("/models/{model}/traffic", response_model=ModelTraffic)
    async def traffic_of_a_model(model: str) -> Response:
        """How the traffic of one model stands."""
        check_known(control.history, model)
        return JSONResponse(control.status(model))

    @router.get("/models/{model}/traffic/history", response_model=HistoryDocument)
    def history(
        model: str, at: Annotated[str | None, Query(max_length=64, examples=["2026-11-24T14:05Z"])] = None
    ) -> Response:
        """Who decided what about a model, when and why; with `at`, also what was in force then (UTC)."""
        check_known(control.history, model)
        return JSONResponse(chronicle(control.history, model, None if at is None else _moment(at)))

    @router.get("/models/{model}/shadow")
    async def shadow(model: str) -> Response:
        """How the answers of a model's shadows compare with those that callers got."""
        check_known(control.history, model)
        if shadows is None:
            raise HTTPException(404, "this gateway compares no shadows")
        return JSONResponse(await shadows(model))

    return router


def _changes(control: Controls) -> APIRouter:
    """Return what moves the traffic of a model from one version to another."""
    router = APIRouter(prefix="/v2/models/{model}/traffic", tags=["change"], responses=WRONG | REFUSED)

    @router.post("/split", response_model=ReceiptDocument)
    async def split(model: str, body: SplitBody) -> Response:
        """Divide the traffic between versions."""
        return await _change(control, model, body)

    @router.post("/shadow", response_model=ReceiptDocument)
    async def shadow(model: str, body: ShadowBody) -> Response:
        """Give versions a copy of some requests, whose answers nobody gets."""
        return await _change(control, model, body)

    @router.post("/stick", response_model=ReceiptDocument)
    async def stick(model: str, body: StickBody) -> Response:
        """Let requests of one caller get one version, or end that."""
        return await _change(control, model, body)

    @router.post("/promote", response_model=ReceiptDocument)
    async def promote(model: str, body: PromoteBody) -> Response:
        """Give a version all of the traffic; it must have a share, or shadow one that has."""
        return await _change(control, model, body)

    @router.post("/rollback", response_model=ReceiptDocument)
    async def rollback(model: str, body: RollbackBody | None = None) -> Response:
        """Go back to the last known good version, or to another one, or to a revision's route."""
        return await _change(control, model, body or RollbackBody())

    return router


def _names(control: Controls) -> APIRouter:
    """Return what leaves the shares of a model alone."""
    router = APIRouter(prefix="/v2/models/{model}/traffic", tags=["change"], responses=WRONG | REFUSED)

    @router.post("/pin", response_model=ReceiptDocument)
    async def pin(model: str, body: PinBody) -> Response:
        """Send everything that names no version to one, and leave the shares for later."""
        return await _change(control, model, body)

    @router.post("/unpin", response_model=ReceiptDocument)
    async def unpin(model: str, body: UnpinBody | None = None) -> Response:
        """Let the shares count again."""
        return await _change(control, model, body or UnpinBody())

    @router.post("/alias", response_model=ReceiptDocument)
    async def alias(model: str, body: AliasBody) -> Response:
        """Let an alias mean a version, or nothing."""
        return await _change(control, model, body)

    return router


async def _change(control: Controls, model: str, body: ChangeBody) -> Response:
    check_known(control.history, model)
    receipt = await control.submit(
        body.intent(model),
        body.by,
        body.why,
        if_revision=body.if_revision,
        dry_run=body.dry_run,
        atomic=body.atomic,
    )
    return JSONResponse(receipt.document())


def _audits(control: Controls, stored: Path | None) -> APIRouter:
    """Return what shows the journal, and whether it is what was written."""
    router = APIRouter(prefix="/v2/audit", tags=["audit"], responses={401: WRONG[401]})

    @router.get("", response_model=AuditDocument)
    def audit() -> Response:
        """The whole journal."""
        return JSONResponse(journal(_kept(control.history)))

    @router.get(
        "/verify", response_model=VerifiedDocument, responses={code: REFUSED[code] for code in (409, 503)}
    )
    def verify() -> Response:
        """Whether each entry vouches for all before it, as when they were written."""
        revision, digest = _verified(control.history, stored)
        return JSONResponse({"ok": True, "revision": revision, "hash": digest})

    return router


def _verified(history: History, stored: Path | None) -> tuple[int, str]:
    if stored is None:
        return check_chain(_kept(history))
    from serving.admin.audit import verify
    from serving.journal.journal import JournalError

    try:
        return verify(stored, list(history))
    except JournalError as error:
        raise Lost(str(error)) from None


def _kept(history: History) -> list[tuple[Entry, str]]:
    return [(entry, entry.hash) for entry in list(history)]


def _moment(text: str) -> int:
    try:
        return parse_utc(text)
    except (ValueError, OverflowError) as error:
        raise HTTPException(400, f"query.at: {error}") from None


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Describe the application; mistakes are answered with 400 here, where FastAPI expects 422."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            tags=app.openapi_tags,
            routes=app.routes,
        )
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        schema["components"]["schemas"] |= {
            "ProfileBody": ProfileBody.model_json_schema(),
            **feedback_schemas(),
        }
        app.openapi_schema = schema
    return app.openapi_schema
