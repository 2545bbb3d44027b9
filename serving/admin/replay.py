"""How do people and programs have requests replayed through versions of a model?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol

import orjson
from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, Field
from starlette.exceptions import HTTPException

from router.names import check_version
from serving.admin.mistakes import REFUSED, WRONG
from serving.admin.terms import Term

VERSIONS_MAX = 8
ROWS_MAX = 1_000_000


class Replays(Protocol):
    """What is needed of whoever has requests replayed; see `serving.replay.asking.Replaying`."""

    async def replay(self, model: str, versions: list[str], rows: int = 0) -> dict[str, Any]:
        """Return a report of the newest inputs of a model, run through versions."""


class ReplayBody(Term):
    """Through which versions, and how many of the newest inputs."""

    versions: list[Annotated[str, AfterValidator(check_version)]] = Field(
        min_length=1, max_length=VERSIONS_MAX, examples=[["7", "8"]]
    )
    rows: int = Field(0, ge=0, le=ROWS_MAX, description="At most; 0 is all that are kept.", examples=[1000])


class ReplayDocument(BaseModel):
    """What the versions made of the same inputs."""

    model: str
    at: str
    replica: str = Field(description="Whose requests they were: of the replica that keeps most.")
    rows: int = Field(description="Inputs that were replayed.")
    whole_runs: int = Field(description="Of these, runs of models that do not batch; each counts as one.")
    cut: bool = Field(description="Whether time ran out before all were.")
    took_s: float
    since: str = Field(description="When the first of them arrived,")
    until: str = Field(description="and the last.")
    answered_by: dict[str, int] = Field(description="Which versions the callers' answers were of.")
    versions: list[dict[str, Any]] = Field(
        description="version, digest, fault, rows, errors, reasons, odd, latency, confidence, drift, "
        "labelled."
    )
    pairs: list[dict[str, Any]] = Field(description="one, other, outputs, labelled.")


def replays(check_known: Callable[[str], None], replaying: Replays | None) -> APIRouter:
    """Return what has requests replayed.

    Parameters
    ----------
    check_known : callable
        Refuses a model that there is not.
    replaying : Replays, optional
        Without it everything is answered with 404.
    """
    router = APIRouter(prefix="/v2/models/{model}", tags=["replay"], responses=WRONG | {409: REFUSED[409]})

    @router.post("/replay", response_model=ReplayDocument)
    async def replay(model: str, body: ReplayBody) -> Response:
        """Run the newest inputs of a model through versions that are loaded. Nobody gets these answers."""
        check_known(model)
        if replaying is None:
            raise HTTPException(404, "this gateway replays nothing")
        report = await replaying.replay(model, body.versions, body.rows)
        return Response(orjson.dumps(report), media_type="application/json")

    return router
