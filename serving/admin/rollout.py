"""How do people and programs begin a rollout, look at it and lead it?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import orjson
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from router.entry import Entry
from router.history import History
from router.intent import Intent
from router.plan import Plan
from router.rollout_intent import AbortRollout, PauseRollout, PromoteRollout, ResumeRollout, RetryRollout
from serving.admin.chronicle import decision
from serving.admin.mistakes import REFUSED, WRONG, check_known
from serving.admin.terms import NO_REASON, ReceiptDocument, Revision, Term, Words
from serving.control.receipt import Receipt

MOVES_SHOWN_MAX = 100
"""The latest moves that a rollout's status has; the journal has all."""
NowUs = Callable[[], int]
Lead = Callable[[str, Intent, "Led"], Awaitable[Response]]


class Controls(Protocol):
    """What is needed of a control; see `serving.control.control.Control`."""

    @property
    def history(self) -> History:
        """The entries so far."""

    async def submit(
        self, intent: Intent, by: str, why: str, *, if_revision: int | None = None, dry_run: bool = False
    ) -> Receipt:
        """Make a change, and return when it is known for whom it holds."""


class Rollouts(Protocol):
    """What is needed of whoever takes rollouts through their steps; see `serving.rollout.pilot.Rollouts`."""

    async def begin(
        self, plan: Plan, by: str, why: str, *, if_revision: int | None = None, dry_run: bool = False
    ) -> Receipt:
        """Begin a rollout, and return when that is journalled."""

    async def status(self, model: str) -> dict[str, Any]:
        """Return how the rollout of a model stands; `Refused` without one."""


class Led(Term):
    """What every change of a rollout may say."""

    by: Words = Field("admin", description="Who decided it, for the journal.")
    why: Words = Field(NO_REASON, description="The reason, for the journal.")
    if_revision: Revision | None = Field(
        None, description="Refused with 412 unless this revision is in force."
    )
    dry_run: bool = Field(False, description="Decide, and do nothing.")


class StartRolloutBody(Led):
    """A rollout, as docs/reference/rollouts.md describes its document."""

    document: str | dict[str, Any] = Field(
        description="The document: its YAML as text, or its fields.",
        examples=[
            {
                "apiVersion": "turnout/v1",
                "kind": "Rollout",
                "metadata": {"name": "digits-8"},
                "spec": {
                    "model": "digits",
                    "candidate": 8,
                    "strategy": {"canary": {"steps": [{"setWeight": 5}, "analysis", "promote"]}},
                },
            }
        ],
    )


class LeadRolloutBody(Led):
    """Which rollout that is, the path says."""


class PromoteRolloutBody(Led):
    """How far."""

    full: bool = Field(False, description="Leave out all steps that are left, instead of the one under way.")


class RolloutDocument(BaseModel):
    """How a rollout stands."""

    model_config = ConfigDict(extra="allow")

    model: str
    words: str = Field(examples=["digits-8 of digits@8: Progressing, step 2 of 5: analysis within 3600s"])
    route: str = Field(description="The model's route now.")
    since: str = Field(description="When the step began.")
    watched: bool = Field(description="Whether the candidate is judged now: under way, or promoted lately.")
    rollout: dict[str, Any] = Field(
        description="As the journal has it: plan, stable, before, phase, step, reason, message, terms, and "
        "the verdict of the last move."
    )
    now: dict[str, Any] | None = Field(
        description="The verdict as of now, with every count that led to it; null until there is one."
    )
    history: list[dict[str, Any]] = Field(
        description="revision, at, by, why, verb, from, to, hash of its moves, oldest first."
    )


def rollout_paths(control: Controls, rollouts: Rollouts | None, now_us: NowUs) -> APIRouter:
    """Return what concerns rollouts.

    Parameters
    ----------
    rollouts : Rollouts, optional
        Without it everything is answered with 404.
    now_us : callable
        The time, in microseconds of Unix time.
    """

    def known(model: str) -> Rollouts:
        check_known(control.history, model)
        if rollouts is None:
            raise HTTPException(404, "this gateway has no rollouts")
        return rollouts

    async def lead(model: str, intent: Intent, body: Led) -> Response:
        known(model)
        receipt = await control.submit(
            intent, body.by, body.why, if_revision=body.if_revision, dry_run=body.dry_run
        )
        return JSONResponse(receipt.document())

    router = _begins(control, known)
    router.include_router(_leads(lead, now_us))
    return router


def _begins(control: Controls, known: Callable[[str], Rollouts]) -> APIRouter:
    router = APIRouter()

    @router.get(
        "/v2/models/{model}/rollout",
        response_model=RolloutDocument,
        tags=["look"],
        responses=WRONG | {409: REFUSED[409]},
    )
    async def rollout(model: str) -> Response:
        """How the rollout of a model stands, or stood last, and every number known of its candidate."""
        status = await known(model).status(model)
        status["history"] = await asyncio.to_thread(moves, control.history, model)
        return Response(orjson.dumps(status), media_type="application/json")

    @router.post(
        "/v2/models/{model}/rollout",
        response_model=ReceiptDocument,
        tags=["change"],
        responses=WRONG | REFUSED,
    )
    async def start_rollout(model: str, body: StartRolloutBody) -> Response:
        """Begin a rollout: from now on it takes its steps by itself."""
        rollouts = known(model)
        plan = await asyncio.to_thread(_plan, body.document, model, control.history)
        why = body.why if body.why != NO_REASON else f"rollout {plan.name}"
        receipt = await rollouts.begin(plan, body.by, why, if_revision=body.if_revision, dry_run=body.dry_run)
        return JSONResponse(receipt.document())

    return router


def _leads(lead: Lead, now_us: NowUs) -> APIRouter:
    router = APIRouter(prefix="/v2/models/{model}/rollout", tags=["change"], responses=WRONG | REFUSED)

    @router.post("/promote", response_model=ReceiptDocument)
    async def promote_rollout(model: str, body: PromoteRolloutBody | None = None) -> Response:
        """Leave the pause or the analysis under way for the next step, or give the candidate everything."""
        said = body or PromoteRolloutBody()
        return await lead(model, PromoteRollout(model, now_us(), said.full), said)

    @router.post("/pause", response_model=ReceiptDocument)
    async def pause_rollout(model: str, body: LeadRolloutBody | None = None) -> Response:
        """Take no further step until somebody says so. What turns out to be bad is still taken back."""
        return await lead(model, PauseRollout(model, now_us()), body or LeadRolloutBody())

    @router.post("/resume", response_model=ReceiptDocument)
    async def resume_rollout(model: str, body: LeadRolloutBody | None = None) -> Response:
        """Go on where it was paused."""
        return await lead(model, ResumeRollout(model, now_us()), body or LeadRolloutBody())

    @router.post("/abort", response_model=ReceiptDocument)
    async def abort_rollout(model: str, body: LeadRolloutBody | None = None) -> Response:
        """End it, and bring back the route from before; changes nothing where none is under way."""
        return await lead(model, AbortRollout(model, now_us()), body or LeadRolloutBody())

    @router.post("/retry", response_model=ReceiptDocument)
    async def retry_rollout(model: str, body: LeadRolloutBody | None = None) -> Response:
        """Begin anew what failed or was aborted; only evidence from then on counts."""
        return await lead(model, RetryRollout(model, now_us()), body or LeadRolloutBody())

    return router


def _plan(document: str | dict[str, Any], model: str, history: History) -> Plan:
    """Read a plan, in a thread: a large document takes half a second."""
    from serving.rollout.document import plan_of, values_of

    values = values_of(document) if isinstance(document, str) else document
    plan = plan_of(values, history.table.resolve)
    if plan.model != model:
        raise ValueError(f"spec.model: the document is of {plan.model!r}, and the path of {model!r}")
    return plan


def moves(history: History, model: str) -> list[dict[str, Any]]:
    """Return the latest moves of a model's rollouts, the oldest of these first."""
    moved = [entry for entry in history.of(model) if _is_move(history, entry)]
    return [decision(history, entry) for entry in moved[-MOVES_SHOWN_MAX:]]


def _is_move(history: History, entry: Entry) -> bool:
    model = entry.change.model
    before, after = (
        history.at(revision).rollouts.get(model) for revision in (entry.revision - 1, entry.revision)
    )
    return before is not after
