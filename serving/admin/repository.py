"""How do people and programs have models loaded and unloaded?"""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from serving import orders
from serving.admin.mistakes import REFUSED, WRONG
from serving.admin.terms import Term, Words
from serving.control.ordering import Carried
from serving.orders import Order


class Orders(Protocol):
    """What is needed of whoever has models loaded; see `serving.control.control.Control`."""

    async def order(self, model: str, order: Order, by: str) -> Carried:
        """Have a model loaded or unloaded everywhere."""


class OrderBody(Term):
    """What a load or an unload may say, as in Triton."""

    parameters: dict[str, Any] = Field(
        default={},
        description="Of a load: `config`, a string that holds a model's configuration in JSON, which counts "
        "instead of its config.pbtxt. Of an unload: `unload_dependents`, which changes nothing.",
        examples=[{"config": '{"max_batch_size": 8}'}],
    )
    by: Words = Field("admin", description="Who decided it, for the log.")


class OrderDocument(BaseModel):
    """What came of it."""

    model: str
    loaded: bool
    configured: bool = Field(description="Whether it has a configuration that counts instead of its file's.")
    done: list[str] = Field(description="The replicas that have done it.")
    missing: list[str] = Field(description="Those that live and did not say in time that they have.")
    ms: float


def repository(control: Orders) -> APIRouter:
    """Return what loads and unloads models."""
    refused = WRONG | {code: REFUSED[code] for code in (409, 413, 503)}
    router = APIRouter(prefix="/v2/repository/models/{model}", tags=["repository"], responses=refused)

    @router.post("/load", response_model=OrderDocument)
    async def load(model: str, body: OrderBody | None = None) -> Response:
        """Load a model as it lies in the repository now, on all replicas, or change nothing."""
        said = body or OrderBody()
        return await answered(model, orders.load(said.parameters), said.by)

    @router.post("/unload", response_model=OrderDocument)
    async def unload(model: str, body: OrderBody | None = None) -> Response:
        """Stop serving a model, until it is loaded again; its route is kept for that."""
        said = body or OrderBody()
        return await answered(model, orders.unload(said.parameters), said.by)

    async def answered(model: str, order: Order, by: str) -> Response:
        return JSONResponse((await control.order(model, order, by)).document())

    return router
