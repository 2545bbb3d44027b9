"""How do people and programs say what was right, and see how good the answers of a model are?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from router.names import check_version
from serving.admin.mistakes import REFUSED, WRONG
from serving.labels.label import LABELS_MAX, BadLabel, Label, labels_of
from serving.labels.verdict import Given

FEEDBACK_BYTES_MAX = 4 << 20
"""Of one request: 400 bytes a label, of as many as it may have."""
FEEDBACK_PATH_END = "/feedback"


class Feedbacks(Protocol):
    """What is needed of whoever looks after labels; see `serving.labels.feedback.Feedback`."""

    async def give(self, model: str, labels: Sequence[Label]) -> Given:
        """Have labels joined to the answers that they are of, and return what came of them."""

    async def report(self, model: str, version: str = "") -> dict[str, Any]:
        """Return all about the quality of a model, or of one of its versions."""


class LabelBody(BaseModel):
    """What was right about one row of a request: `label` or `score`."""

    id: str = Field(description="Of the request that it is about.", examples=["digits-17"])
    label: int | str | None = Field(None, description="The class, by its number or its name.", examples=[7])
    score: float | None = Field(None, description="The right number, where the model gives a single one.")
    row: int | None = Field(None, description="Which row, from 0, of a request that has several.")
    time: str | None = Field(None, description="When it became known (UTC); now without it.")


class LabelsBody(BaseModel):
    """Many at once."""

    labels: list[LabelBody] = Field(max_length=LABELS_MAX)


class GivenDocument(BaseModel):
    """What came of labels. Each has one of the four outcomes."""

    model: str
    labels: int
    joined: int = Field(description="Of an answer that had none: they count.")
    repeated: int = Field(description="Of an answer that has one already; they count no more.")
    misfit: int = Field(description="Of an answer, about which they say nothing: no such class, for example.")
    unmatched: int = Field(description="No answer is remembered that they could be of.")
    missing: list[str] = Field(description="Replicas that did not say in time; give the labels again.")
    ids: dict[str, list[str]] = Field(description="Some of those that are misfits or unmatched.")


class QualityDocument(BaseModel):
    """How good the answers of a model's versions are, as far as there are labels."""

    model: str
    at: str
    enabled: bool
    alpha: float = Field(description="Each interval misses the truth, ever, with this probability at most.")
    versions: list[dict[str, Any]] = Field(
        description="version, role (live or shadow), answered, unnamed, lost, why_not, labelled, coverage, "
        "accuracy, classes, calibration, scores, delay_s, loss; the newest first."
    )
    pairs: list[dict[str, Any]] = Field(
        description="Of each shadow and the version beside it, the labelled requests that both answered."
    )
    events: list[dict[str, Any]] = Field(description="at, event, version, rate, recent; the newest first.")


GIVEN = WRONG | {code: REFUSED[code] for code in (409, 413)}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/LabelBody"},
                        {"$ref": "#/components/schemas/LabelsBody"},
                    ]
                }
            }
        },
    }
}


def schemas() -> dict[str, Any]:
    """Return the schemas of bodies that the framework does not see."""
    whole = LabelsBody.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**whole.pop("$defs"), "LabelsBody": whole}


def body_bytes_max(method: str, path: str) -> int:
    """Return how large a body with labels may be; 0 where there are none in it."""
    return FEEDBACK_BYTES_MAX if method == "POST" and path.endswith(FEEDBACK_PATH_END) else 0


def feedbacks(
    check_known: Callable[[str], None],
    feedback: Feedbacks | None,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
) -> APIRouter:
    """Return what concerns labels.

    Parameters
    ----------
    check_known : callable
        Refuses a model that there is not.
    feedback : Feedbacks, optional
        Without it everything is answered with 404.
    now_us : callable
        When labels that do not say it became known.
    """
    router = APIRouter(prefix="/v2/models/{model}", tags=["quality"], responses=WRONG)

    def known(model: str) -> Feedbacks:
        check_known(model)
        if feedback is None:
            raise HTTPException(404, "this gateway does not look after labels")
        return feedback

    @router.post("/feedback", response_model=GivenDocument, responses=GIVEN, openapi_extra=BODY)
    async def give(model: str, request: Request) -> Response:
        """Say what was right about answers, one or up to 10,000 at once. What is given again counts once."""
        to = known(model)
        labels = await asyncio.to_thread(_labels, await request.body(), now_us())
        return _answer((await to.give(model, labels)).document())

    @router.get("/quality", response_model=QualityDocument)
    async def quality(
        model: str, version: Annotated[str, Query(max_length=20, examples=["8"])] = ""
    ) -> Response:
        """How good the answers of all versions are, or of one, as far as labels say."""
        of = known(model)
        if version:
            check_version(version)
        return _answer(await of.report(model, version))

    return router


def _labels(content: bytes, now_us: int) -> list[Label]:
    """Read a body in a thread, as 10,000 labels take a while."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BadLabel(f"the body is no JSON: {error}") from None
    return labels_of(document, now_us)


def _answer(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
